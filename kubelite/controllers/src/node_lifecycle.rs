//! Nodes that fall silent: their Ready becomes Unknown, they are tainted, and their pods leave after the time that
//! they tolerate. Pods of nodes that no longer exist go at once.

use crate::caches::Caches;
use crate::context::{Context, WORKERS, is_status};
use crate::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use kubelite_api::scheduling::tolerating;
use kubelite_informer::{EventType, Key, Queue, Recorder};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const LEASES: &str = "kube-node-lease";

/// Subscribes the controller, and runs it.
pub(crate) fn run(ctx: Context, grace: Duration) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let (own, from_leases, from_pods) = (queue.clone(), queue.clone(), queue.clone());
    ctx.caches
        .nodes
        .on_change(move |change| change.object().into_iter().for_each(|node| own.add(node.name_any())));
    ctx.caches.leases.on_change(move |change| {
        // A renewed lease only matters while the node counts as silent; the queue's timer watches the rest.
        change.new.into_iter().for_each(|lease| from_leases.add(lease.name_any()));
    });
    ctx.caches.pods.on_change(move |change| {
        let node = change.new.and_then(|pod| pod.spec.as_ref()?.node_name.clone());
        let bound =
            change.old.is_none_or(|old| old.spec.as_ref().and_then(|spec| spec.node_name.as_ref()).is_none());
        node.filter(|_| bound).into_iter().for_each(|node| from_pods.add(node));
    });
    async move {
        ctx.caches.synced().await;
        let (recorder, shutdown) = (ctx.recorder("node-controller"), ctx.shutdown.clone());
        queue.run(WORKERS, shutdown, move |name| reconcile(ctx.clone(), recorder.clone(), grace, name)).await;
    }
}

async fn reconcile(
    ctx: Context,
    recorder: Recorder,
    grace: Duration,
    name: String,
) -> kube::Result<Option<Duration>> {
    let here = |pod: &Arc<Pod>| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(&name);
    let pods: Vec<Arc<Pod>> = ctx.caches.pods.all().into_iter().filter(here).collect();
    let Some(node) = ctx.caches.nodes.get(&Key::new("", &name)) else {
        for pod in pods {
            evict(&ctx, &pod, &NODE_GONE).await?;
        }
        return Ok(None);
    };
    let now = Timestamp::now();
    let heartbeat = heartbeat(&ctx.caches, &node);
    let api: Api<Node> = Api::all(ctx.client.clone());
    let mut current = (*node).clone();
    let deadline = heartbeat.checked_add(grace).unwrap_or(Timestamp::MAX);
    if deadline <= now && set_unknown(&mut current, now) {
        current = api.replace_status(&name, &PostParams::default(), &current).await?;
        ctx.caches.nodes.written(current.clone());
        let text = format!("Node {name} status is now: NodeNotReady");
        recorder.record(&*node, EventType::Normal, "NodeNotReady", text);
    }
    if set_taints(&mut current, now) {
        current = api.replace(&name, &PostParams::default(), &current).await?;
        ctx.caches.nodes.written(current.clone());
    }
    let mut again = (deadline > now).then(|| until(deadline, now));
    for pod in pods.iter().filter(|pod| !pods::is_terminating(pod)) {
        match leaves_at(pod, &current) {
            Some(at) if at <= now => {
                recorder.record(
                    &**pod,
                    EventType::Normal,
                    "TaintManagerEviction",
                    format!("Marking for deletion Pod {}", Key::of(&**pod)),
                );
                evict(&ctx, pod, &TAINTED).await?;
            }
            Some(at) => again = Some(again.map_or(until(at, now), |again| again.min(until(at, now)))),
            None => {}
        }
    }
    Ok(again)
}

fn until(at: Timestamp, now: Timestamp) -> Duration {
    // The next full second: timestamps in objects have no fractions.
    Duration::try_from(at.duration_since(now)).unwrap_or_default() + Duration::from_secs(1)
}

/// Why a pod leaves its node, as its condition says it (KEP-3329).
struct Reason {
    reason: &'static str,
    message: &'static str,
    /// Nobody is left who could end it.
    lost: bool,
}

const NODE_GONE: Reason =
    Reason { reason: "DeletionByPodGC", message: "PodGC: node no longer exists", lost: true };
const TAINTED: Reason = Reason {
    reason: "DeletionByTaintManager",
    message: "Taint manager: deleting due to NoExecute taint",
    lost: false,
};

async fn evict(ctx: &Context, pod: &Pod, why: &Reason) -> kube::Result<()> {
    let now = Time(Timestamp::now());
    let condition = serde_json::json!({"type": "DisruptionTarget", "status": "True", "reason": why.reason,
        "message": why.message, "lastTransitionTime": now});
    let mut patch =
        serde_json::json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
    if why.lost && !pods::is_finished(pod) {
        // Who waits for its end, as a job may, waits no longer.
        patch["status"]["phase"] = "Failed".into();
    }
    let api = ctx.api::<Pod>(&pod.namespace().unwrap_or_default());
    match api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(written) => ctx.caches.pods.written(written),
        Err(error) if is_status(&error, 404) => return Ok(()),
        Err(error) => return Err(error),
    }
    let grace = why.lost.then_some(0);
    let params = DeleteParams { grace_period_seconds: grace, ..DeleteParams::background() };
    ctx.delete_with(&ctx.caches.pods, pod, params).await
}

/// When the node was last heard of: its lease, or its Ready condition, or its creation.
fn heartbeat(caches: &Caches, node: &Node) -> Timestamp {
    let lease = caches.leases.get(&Key::new(LEASES, node.name_any()));
    let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0));
    let reported = ready(node).and_then(|ready| ready.last_heartbeat_time.as_ref()).map(|time| time.0);
    let created = node.metadata.creation_timestamp.as_ref().map(|time| time.0);
    renewed.into_iter().chain(reported).chain(created).max().unwrap_or(Timestamp::MIN)
}

fn ready(node: &Node) -> Option<&NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == "Ready")
}

/// Marks every condition that the kubelet reports as unknown; whether anything changed.
fn set_unknown(node: &mut Node, now: Timestamp) -> bool {
    let reported = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
    let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut changed = false;
    for type_ in reported {
        let found = conditions.iter_mut().find(|condition| condition.type_ == type_);
        if found.as_ref().is_some_and(|condition| condition.status == "Unknown") {
            continue;
        }
        changed = true;
        let never = found.is_none();
        let (reason, message) = match never {
            true => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
            false => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
        };
        let unknown = NodeCondition {
            type_: type_.into(),
            status: "Unknown".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: found.as_ref().and_then(|condition| condition.last_heartbeat_time.clone()),
            last_transition_time: Some(Time(now)),
        };
        match found {
            Some(condition) => *condition = unknown,
            None => conditions.push(unknown),
        }
    }
    changed
}

/// Brings the two taints in line with the Ready condition; whether anything changed.
fn set_taints(node: &mut Node, now: Timestamp) -> bool {
    let key = match ready(node).map(|ready| ready.status.as_str()) {
        Some("True") => None,
        Some("Unknown") => Some(UNREACHABLE),
        _ => Some(NOT_READY),
    };
    let before = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let ours = |taint: &Taint| taint.key == NOT_READY || taint.key == UNREACHABLE;
    let mut after: Vec<Taint> =
        before.iter().filter(|t| !ours(t) || Some(t.key.as_str()) == key).cloned().collect();
    for effect in ["NoSchedule", "NoExecute"] {
        let Some(key) = key else { continue };
        if !after.iter().any(|taint| taint.key == key && taint.effect == effect) {
            let time_added = (effect == "NoExecute").then_some(Time(now));
            after.push(Taint { key: key.into(), effect: effect.into(), time_added, value: None });
        }
    }
    let changed = before != after;
    if changed {
        node.spec.get_or_insert_default().taints = Some(after).filter(|taints| !taints.is_empty());
    }
    changed
}

/// When a pod must leave because of the node's NoExecute taints: at once without a toleration, after the shortest
/// tolerated time, or never.
fn leaves_at(pod: &Pod, node: &Node) -> Option<Timestamp> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let expelling = taints.filter(|taint| taint.effect == "NoExecute");
    let leaves = expelling.filter_map(|taint| {
        let added = taint.time_added.as_ref().map_or(Timestamp::MIN, |time| time.0);
        let admitting: Vec<&Toleration> = tolerating(pod, taint).collect();
        if admitting.is_empty() {
            return Some(added);
        }
        let seconds = admitting.iter().filter_map(|toleration| toleration.toleration_seconds).min()?;
        added.checked_add(SignedDuration::from_secs(seconds.max(0))).ok()
    });
    leaves.min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_silent_node_is_tainted_and_a_returning_one_is_not() {
        let now = Timestamp::from_second(1000).unwrap();
        let mut node: Node = serde_json::from_value(json!({ "metadata": {"name": "n"},
            "spec": {"taints": [{"key": "mine", "effect": "NoSchedule"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]} }))
        .unwrap();
        assert!(!set_taints(&mut node, now));
        assert!(set_unknown(&mut node, now) && !set_unknown(&mut node, now));
        assert_eq!(ready(&node).unwrap().reason.as_deref(), Some("NodeStatusUnknown"));
        assert!(set_taints(&mut node, now) && !set_taints(&mut node, now));
        assert_eq!(node.spec.as_ref().unwrap().taints.as_ref().unwrap().len(), 3);
        let pod = |seconds| -> Pod {
            let toleration = json!({"key": UNREACHABLE, "operator": "Exists", "tolerationSeconds": seconds});
            serde_json::from_value(json!({ "spec": {"containers": [], "tolerations": [toleration]} }))
                .unwrap()
        };
        assert_eq!(leaves_at(&pod(Some(300)), &node), Timestamp::from_second(1300).ok());
        assert_eq!(leaves_at(&pod(None), &node), None);
        assert_eq!(leaves_at(&Pod::default(), &node), Some(now));
        node.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "True".into();
        assert!(set_taints(&mut node, now));
        assert_eq!(node.spec.unwrap().taints.unwrap().len(), 1);
    }
}
