//! How many pods to create, which to delete, and what to report. No I/O.

use super::kinds::View;
use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

pub(crate) type Status = ReplicaSetStatus;

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(crate) enum Scale {
    Keep,
    Create(usize),
    /// The pods that go, in this order.
    Delete(Vec<Arc<Pod>>),
}

/// Why the replicas could not be brought to the wanted number.
pub(crate) struct Failure {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// The difference between the wanted number and the active pods.
pub(crate) fn scale(wanted: usize, claimed: &[Arc<Pod>]) -> Scale {
    let mut active: Vec<Arc<Pod>> = claimed.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
    if active.len() < wanted {
        return Scale::Create(wanted - active.len());
    }
    if active.len() == wanted {
        return Scale::Keep;
    }
    let surplus = active.len() - wanted;
    let mut on_node: HashMap<Option<String>, usize> = HashMap::new();
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    active.iter().for_each(|pod| *on_node.entry(node(pod)).or_default() += 1);
    active.sort_by_cached_key(|pod| pods::deletion_rank(pod, on_node.get(&node(pod)).copied().unwrap_or(0)));
    active.truncate(surplus);
    Scale::Delete(active)
}

/// The status that these pods mean.
pub(crate) fn status(
    view: &View,
    old: &Status,
    mine: &[Arc<Pod>],
    failure: Option<&Failure>,
    now: Timestamp,
) -> Status {
    let active: Vec<&Pod> = mine.iter().map(|pod| &**pod).filter(|pod| pods::is_active(pod)).collect();
    let count = |test: &dyn Fn(&Pod) -> bool| {
        i32::try_from(active.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX)
    };
    let labelled = |pod: &Pod| {
        let labels = pod.metadata.labels.as_ref();
        view.template_labels.iter().all(|(k, v)| labels.is_some_and(|labels| labels.get(k) == Some(v)))
    };
    Status {
        replicas: count(&|_| true),
        fully_labeled_replicas: Some(count(&labelled)).filter(|n| *n > 0),
        ready_replicas: Some(count(&pods::is_ready)).filter(|n| *n > 0),
        available_replicas: Some(count(&|pod| pods::is_available(pod, view.min_ready_seconds, now)))
            .filter(|n| *n > 0),
        observed_generation: view.generation,
        conditions: conditions(old, failure, now),
        ..old.clone()
    }
}

fn conditions(old: &Status, failure: Option<&Failure>, now: Timestamp) -> Option<Vec<ReplicaSetCondition>> {
    const FAILURE: &str = "ReplicaFailure";
    let all = old.conditions.clone().unwrap_or_default();
    let (before, mut others): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|condition| condition.type_.as_deref() == Some(FAILURE));
    if let Some(failure) = failure {
        let since = before.first().and_then(|condition| condition.last_transition_time.clone());
        others.push(ReplicaSetCondition {
            type_: Some(FAILURE.into()),
            status: Some("True".into()),
            reason: Some(failure.reason.into()),
            message: Some(failure.message.clone()),
            last_transition_time: since.or(Some(Time(now))),
        });
    }
    Some(others).filter(|conditions| !conditions.is_empty())
}

/// When a ready pod becomes available next, which no event will tell.
pub(crate) fn next_look(mine: &[Arc<Pod>], min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    let pending =
        mine.iter().filter_map(|pod| pods::available_at(pod, min_ready_seconds)).filter(|at| *at > now);
    pending.min().and_then(|at| Duration::try_from(at.duration_since(now)).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodCondition, PodSpec, PodStatus};
    use kube::core::Selector;

    fn pod(name: &str, node: &str, phase: &str, ready_since: Option<i64>) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        pod.spec = Some(PodSpec { node_name: Some(node.into()), ..Default::default() });
        let ready = PodCondition {
            type_: "Ready".into(),
            status: if ready_since.is_some() { "True" } else { "False" }.into(),
            last_transition_time: ready_since.map(|s| Time(Timestamp::from_second(s).unwrap())),
            ..Default::default()
        };
        pod.status = Some(PodStatus {
            phase: Some(phase.into()),
            conditions: Some(vec![ready]),
            ..Default::default()
        });
        Arc::new(pod)
    }

    fn victims(scale: Scale) -> Vec<String> {
        let Scale::Delete(pods) = scale else { panic!("expected a deletion, got {scale:?}") };
        pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect()
    }

    #[test]
    fn creates_what_is_missing_and_ignores_finished_pods() {
        assert_eq!(
            scale(3, &[pod("a", "n", "Running", Some(1)), pod("b", "n", "Failed", None)]),
            Scale::Create(2)
        );
        assert_eq!(scale(1, &[pod("a", "n", "Running", Some(1))]), Scale::Keep);
    }

    #[test]
    fn deletes_the_least_useful_first() {
        let all = [
            pod("old", "n1", "Running", Some(10)),
            pod("young", "n1", "Running", Some(50)),
            pod("elsewhere", "n2", "Running", Some(90)),
            pod("unready", "n2", "Running", None),
            pod("pending", "n1", "Pending", None),
            pod("unassigned", "", "Pending", None),
        ];
        let order = victims(scale(0, &all));
        assert_eq!(order[..3], ["unassigned", "pending", "unready"]);
        assert_eq!(victims(scale(4, &all)), ["unassigned", "pending"]);
        assert!(order.iter().position(|n| n == "young") < order.iter().position(|n| n == "old"));
    }

    #[test]
    fn status_counts_and_keeps_the_failure_until_it_is_over() {
        let view = View {
            replicas: 2,
            min_ready_seconds: 10,
            selector: Selector::from_iter([("a", "b")]),
            template_labels: Default::default(),
            generation: Some(7),
        };
        let pods = [pod("a", "n", "Running", Some(10)), pod("b", "n", "Running", Some(95))];
        let now = Timestamp::from_second(100).unwrap();
        let failure = Failure { reason: "FailedCreate", message: "quota".into() };
        let failed = status(&view, &Status::default(), &pods, Some(&failure), now);
        assert_eq!(
            (failed.replicas, failed.ready_replicas, failed.available_replicas),
            (2, Some(2), Some(1))
        );
        assert_eq!(failed.conditions.as_ref().unwrap()[0].type_.as_deref(), Some("ReplicaFailure"));
        assert_eq!(status(&view, &failed, &pods, None, now).conditions, None);
        assert_eq!(next_look(&pods, 10, now), Some(Duration::from_secs(5)));
    }
}
