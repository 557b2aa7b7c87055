//! Which node gets a pod, which pods go, and what to report. No I/O.

use crate::claim::controller_ref;
use crate::deployment::scaled;
use crate::history::Revised;
use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use kubelite_api::scheduling::{admits_node, tolerating};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The label of pods that names the template.
const HASH_LABEL: &str = DaemonSet::HASH_LABEL;

/// Taints that never keep a daemon away; the last one only matters for pods on the host's network.
const TOLERATED: [(&str, &str); 7] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ("node.kubernetes.io/network-unavailable", "NoSchedule"),
];

/// What there is.
pub(super) struct Observed<'a> {
    pub(super) set: &'a DaemonSet,
    pub(super) nodes: &'a [Arc<Node>],
    pub(super) pods: &'a [Arc<Pod>],
    /// The hash of the current template.
    pub(super) hash: &'a str,
    pub(super) now: Timestamp,
}

/// What to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Names of nodes that get a pod.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<Pod>>,
    pub(super) status: DaemonSetStatus,
    pub(super) look_again: Option<Duration>,
}

/// Whether a node's change can't matter to any daemon.
pub(super) fn same_for_daemons(old: &Node, new: &Node) -> bool {
    old.metadata.labels == new.metadata.labels && old.spec == new.spec
}

/// The pod of one node: bound to it by an affinity to its name, which the scheduler then fulfils.
pub(super) fn pod_for(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let namespace = set.namespace().unwrap_or_default();
    let mut pod = pods::from_template(&set.spec.template, controller_ref(set), &namespace);
    pod.metadata.labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.into());
    let spec = pod.spec.get_or_insert_default();
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    let by_name = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.to_string()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![by_name]), match_expressions: None };
    let required = &mut affinity.required_during_scheduling_ignored_during_execution;
    // The node was chosen by the template's own terms already, so that the name alone may take their place.
    *required = Some(NodeSelector { node_selector_terms: vec![term] });
    add_tolerations(spec);
    pod
}

fn add_tolerations(spec: &mut PodSpec) {
    let host_network = spec.host_network == Some(true);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED {
        let wanted = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Toleration::default()
        };
        let network = key.ends_with("network-unavailable");
        if (!network || host_network) && !tolerations.contains(&wanted) {
            tolerations.push(wanted);
        }
    }
}

/// Whether the node gets a new pod, and whether a pod that is there may stay.
fn eligible(set: &DaemonSet, node: &Node) -> (bool, bool) {
    let mut pod = Pod { spec: set.spec.template.spec.clone(), ..Pod::default() };
    add_tolerations(pod.spec.get_or_insert_default());
    if !admits_node(&pod, node) {
        return (false, false);
    }
    let untolerated = |effects: &[&str]| {
        let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        let mut hard = taints.filter(|taint| effects.contains(&taint.effect.as_str()));
        hard.any(|taint: &Taint| tolerating(&pod, taint).next().is_none())
    };
    (!untolerated(&["NoSchedule", "NoExecute"]), !untolerated(&["NoExecute"]))
}

/// The node that a daemon's pod is for: where it runs, or what its affinity names.
fn target(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_deref().filter(|name| !name.is_empty()) {
        return Some(node);
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let mut fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    fields.find(|field| field.key == "metadata.name")?.values.as_ref()?.first().map(String::as_str)
}

/// The next step of a daemon set.
pub(super) fn plan(observed: &Observed<'_>) -> Plan {
    let set = observed.set;
    let mut by_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
    let mut plan = Plan::default();
    for pod in observed.pods {
        if pods::is_finished(pod) && !pods::is_terminating(pod) {
            plan.delete.push(pod.clone());
        } else {
            by_node.entry(target(pod).unwrap_or_default()).or_default().push(pod);
        }
    }
    let mut wanted: Vec<(&str, Vec<&Arc<Pod>>)> = Vec::new();
    for node in observed.nodes {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let mut here = by_node.remove(name).unwrap_or_default();
        let (may_run, may_stay) = eligible(set, node);
        if may_run || (may_stay && !here.is_empty()) {
            here.sort_by_key(|pod| pod.creation_timestamp());
            wanted.push((name, here));
        } else {
            plan.status.number_misscheduled += i32::from(!here.is_empty());
            plan.delete.extend(here.into_iter().filter(|pod| !pods::is_terminating(pod)).cloned());
        }
    }
    // Pods of nodes that no longer exist are the node lifecycle's business.
    manage(observed, &wanted, &mut plan);
    count(observed, &wanted, &mut plan);
    plan
}

/// Creations on empty nodes, deletions of doubles, and the rolling update within its bounds.
fn manage(observed: &Observed<'_>, wanted: &[(&str, Vec<&Arc<Pod>>)], plan: &mut Plan) {
    let strategy = observed.set.spec.update_strategy.as_ref();
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let total = i32::try_from(wanted.len()).unwrap_or(i32::MAX);
    let bound =
        |value: Option<&IntOrString>, default| value.map_or(default, |value| scaled(value, total, true));
    let surge = bound(rolling.and_then(|r| r.max_surge.as_ref()), 0);
    let bounded = bound(rolling.and_then(|r| r.max_unavailable.as_ref()), 1);
    let unavailable = if surge == 0 { bounded.max(1) } else { bounded };
    let on_delete = strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete");
    let min_ready = observed.set.spec.min_ready_seconds.unwrap_or(0);
    let available = |pod: &Pod| pods::is_available(pod, min_ready, observed.now);
    let current = |pod: &Pod| pod.labels().get(HASH_LABEL).map(String::as_str) == Some(observed.hash);
    let (mut lacking, mut surging, mut outdated) = (0, 0, Vec::new());
    for (node, here) in wanted {
        let alive: Vec<&Arc<Pod>> = here.iter().filter(|pod| !pods::is_terminating(pod)).copied().collect();
        lacking += i32::from(!alive.iter().any(|pod| available(pod)));
        let new: Vec<&&Arc<Pod>> = alive.iter().filter(|pod| current(pod)).collect();
        let old: Vec<&&Arc<Pod>> = alive.iter().filter(|pod| !current(pod)).collect();
        match (new.as_slice(), old.as_slice()) {
            ([], []) if here.is_empty() => plan.create.push((*node).to_string()),
            ([], [old, doubles @ ..]) => {
                plan.delete.extend(doubles.iter().map(|pod| (**pod).clone()));
                outdated.push((*node, (**old).clone()));
            }
            ([first, doubles @ ..], old) => {
                plan.delete.extend(doubles.iter().map(|pod| (**pod).clone()));
                // With surge, the old pod goes as soon as the new one serves.
                let serves = available(first);
                surging += i32::from(!old.is_empty());
                plan.delete
                    .extend(old.iter().filter(|old| serves || !available(old)).map(|pod| (**pod).clone()));
            }
            _ => {}
        }
    }
    if on_delete {
        return;
    }
    for (node, pod) in outdated {
        if !available(&pod) {
            plan.delete.push(pod);
        } else if surge > 0 {
            if surging < surge {
                surging += 1;
                plan.create.push(node.to_string());
            }
        } else if lacking < unavailable {
            lacking += 1;
            plan.delete.push(pod);
        }
    }
}

fn count(observed: &Observed<'_>, wanted: &[(&str, Vec<&Arc<Pod>>)], plan: &mut Plan) {
    let min_ready = observed.set.spec.min_ready_seconds.unwrap_or(0);
    let total = i32::try_from(wanted.len()).unwrap_or(i32::MAX);
    let on = |test: &dyn Fn(&Pod) -> bool| {
        let nodes =
            wanted.iter().filter(|(_, here)| here.iter().any(|pod| !pods::is_terminating(pod) && test(pod)));
        i32::try_from(nodes.count()).unwrap_or(i32::MAX)
    };
    let available = on(&|pod| pods::is_available(pod, min_ready, observed.now));
    let positive = |count: i32| Some(count).filter(|count| *count > 0);
    let old = observed.set.status.clone().unwrap_or_default();
    plan.status = DaemonSetStatus {
        desired_number_scheduled: total,
        current_number_scheduled: on(&|_| true),
        number_misscheduled: plan.status.number_misscheduled,
        number_ready: on(&pods::is_ready),
        number_available: positive(available),
        number_unavailable: positive(total - available),
        updated_number_scheduled: positive(on(&|pod| {
            pod.labels().get(HASH_LABEL).map(String::as_str) == Some(observed.hash)
        })),
        observed_generation: observed.set.metadata.generation,
        ..old
    };
    let pending = observed
        .pods
        .iter()
        .filter_map(|pod| pods::available_at(pod, min_ready))
        .filter(|at| *at > observed.now);
    plan.look_again = pending.min().and_then(|at| Duration::try_from(at.duration_since(observed.now)).ok());
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set() -> DaemonSet {
        serde_json::from_value(json!({ "metadata": {"name": "d", "namespace": "ns", "uid": "d"},
            "spec": {"selector": {"matchLabels": {"a": "b"}},
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}}} }))
        .unwrap()
    }

    fn node(name: &str, taint: Option<&str>) -> Arc<Node> {
        let taints: Vec<_> = taint.iter().map(|key| json!({"key": key, "effect": "NoSchedule"})).collect();
        Arc::new(
            serde_json::from_value(json!({ "metadata": {"name": name}, "spec": {"taints": taints} }))
                .unwrap(),
        )
    }

    fn pod(name: &str, node: &str, hash: &str, phase: &str) -> Arc<Pod> {
        let ready = if phase == "Running" { "True" } else { "False" };
        Arc::new(
            serde_json::from_value(json!({ "metadata": {"name": name, "labels": {HASH_LABEL: hash}},
            "spec": {"containers": [], "nodeName": node},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]} }))
            .unwrap(),
        )
    }

    fn run(nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> (Vec<String>, Vec<String>) {
        let plan = plan(&Observed { set: &set(), nodes, pods, hash: "new", now: Timestamp::UNIX_EPOCH });
        (plan.create, plan.delete.iter().map(|pod| pod.name_any()).collect())
    }

    #[test]
    fn one_pod_per_eligible_node_and_failed_ones_go() {
        let nodes =
            [node("a", None), node("b", None), node("c", Some("mine")), node("d", Some(TOLERATED[5].0))];
        let (create, delete) =
            run(&nodes, &[pod("x", "a", "new", "Running"), pod("y", "b", "new", "Failed")]);
        assert_eq!((create, delete), (vec!["b".to_string(), "d".to_string()], vec!["y".to_string()]));
        let made = pod_for(&set(), "a", "new");
        assert_eq!(target(&made), Some("a"));
    }

    #[test]
    fn an_update_goes_node_by_node() {
        let nodes = [node("a", None), node("b", None)];
        let (_, delete) = run(&nodes, &[pod("x", "a", "old", "Running"), pod("y", "b", "old", "Running")]);
        assert_eq!(delete, ["x"]);
        let (_, delete) = run(&nodes, &[pod("x", "a", "new", "Pending"), pod("y", "b", "old", "Running")]);
        assert!(delete.is_empty(), "the first one isn't available yet");
    }
}
