//! How many pods of a budget may be missing now. No I/O.

use crate::claim::controller_of;
use crate::deployment::scaled;
use crate::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How long an eviction that was granted may take until its pod is seen to go; then the pod counts again.
const EVICTION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
const ALLOWED: &str = "DisruptionAllowed";

/// How many pods a controller wants, with the UID of what decides that; an error says why nobody knows.
pub(super) type Scale<'a> = &'a dyn Fn(&OwnerReference) -> Result<(String, i32), String>;

/// What there is.
pub(super) struct Observed<'a> {
    pub(super) budget: &'a PodDisruptionBudget,
    /// Those that it selects.
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) scale: Scale<'a>,
    pub(super) now: Timestamp,
}

/// The status that these pods mean, and when it changes without an event.
pub(super) fn plan(observed: &Observed<'_>) -> (PodDisruptionBudgetStatus, Option<Duration>) {
    let Observed { budget, pods, now, .. } = observed;
    let old = budget.status.clone().unwrap_or_default();
    let spec = budget.spec.clone().unwrap_or_default();
    let (disrupted, again) = disrupted(&old, pods, *now);
    let healthy = |pod: &Pod| {
        pods::is_ready(pod) && !pods::is_terminating(pod) && !disrupted.contains_key(&pod.name_any())
    };
    let current = number(pods.iter().filter(|pod| healthy(pod)).count());
    let (expected, desired, problem) = match wanted(&spec, observed) {
        Ok((expected, desired)) => (expected, desired, None),
        Err(why) => (old.expected_pods.unwrap_or(0), old.desired_healthy.unwrap_or(0), Some(why)),
    };
    let allowed = if expected > 0 && problem.is_none() { (current - desired).max(0) } else { 0 };
    let status = PodDisruptionBudgetStatus {
        conditions: Some(conditions(&old, budget.metadata.generation, allowed, problem.as_deref(), *now)),
        current_healthy: Some(current),
        desired_healthy: Some(desired),
        disrupted_pods: Some(disrupted).filter(|pods| !pods.is_empty()),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: budget.metadata.generation,
    };
    (status, again)
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// How many pods there should be, and how many of them must be healthy.
fn wanted(spec: &PodDisruptionBudgetSpec, observed: &Observed<'_>) -> Result<(i32, i32), String> {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => {
            let expected = expected(observed)?;
            Ok((expected, expected.saturating_sub(scaled(most, expected, true)).max(0)))
        }
        (None, Some(IntOrString::Int(least))) => Ok((number(observed.pods.len()), *least)),
        (None, Some(share)) => {
            let expected = expected(observed)?;
            Ok((expected, scaled(share, expected, true)))
        }
        (None, None) => Ok((number(observed.pods.len()), 0)),
    }
}

/// What the controllers of the pods want together, each once. A pod without a controller is wanted by nobody.
fn expected(observed: &Observed<'_>) -> Result<i32, String> {
    let mut seen = BTreeSet::new();
    let mut total: i32 = 0;
    for owner in observed.pods.iter().filter_map(|pod| controller_of(&**pod)) {
        let (uid, replicas) = (observed.scale)(owner)?;
        if seen.insert(uid) {
            total = total.saturating_add(replicas);
        }
    }
    Ok(total)
}

/// The pods whose eviction was granted and that don't go yet.
fn disrupted(
    old: &PodDisruptionBudgetStatus,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<Duration>) {
    let known = old.disrupted_pods.clone().unwrap_or_default();
    let mut again: Option<Timestamp> = None;
    let going = known.into_iter().filter(|(name, granted)| {
        let pod = pods.iter().find(|pod| pod.name_any() == *name);
        let until = granted.0.checked_add(EVICTION_TIMEOUT).unwrap_or(now);
        let waits = pod.is_some_and(|pod| !pods::is_terminating(pod)) && until > now;
        if waits {
            again = Some(again.map_or(until, |again| again.min(until)));
        }
        waits
    });
    let going = going.collect();
    (going, again.and_then(|at| Duration::try_from(at.duration_since(now)).ok()))
}

fn conditions(
    old: &PodDisruptionBudgetStatus,
    generation: Option<i64>,
    allowed: i32,
    problem: Option<&str>,
    now: Timestamp,
) -> Vec<Condition> {
    let (status, reason) = match (problem, allowed) {
        (Some(_), _) => ("False", "SyncFailed"),
        (None, 1..) => ("True", "SufficientPods"),
        (None, _) => ("False", "InsufficientPods"),
    };
    let known = old.conditions.clone().unwrap_or_default();
    let (before, mut others): (Vec<_>, Vec<_>) =
        known.into_iter().partition(|condition| condition.type_ == ALLOWED);
    let same = before.into_iter().find(|condition| condition.status == status);
    others.push(Condition {
        type_: ALLOWED.into(),
        status: status.into(),
        reason: reason.into(),
        message: problem.unwrap_or_default().into(),
        observed_generation: generation,
        last_transition_time: same.map_or(Time(now), |same| same.last_transition_time),
    });
    others
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: i64 = 1000;

    fn budget(spec: &Value, status: &Value) -> PodDisruptionBudget {
        let zero =
            json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0});
        let status = status.as_object().unwrap().iter().fold(zero, |mut all, (key, value)| {
            all[key] = value.clone();
            all
        });
        let budget = json!({"metadata": {"name": "b", "generation": 2}, "spec": spec, "status": status});
        serde_json::from_value(budget).unwrap()
    }

    /// `name +` ready, `-` not ready, `t` terminating; then the kind of its controller.
    fn pod(text: &str) -> Arc<Pod> {
        let words: Vec<&str> = text.split(' ').collect();
        let owners: Vec<Value> = words
            .get(2)
            .iter()
            .map(|kind| {
                json!({"apiVersion": "v1", "kind": kind, "name": kind,
            "uid": kind, "controller": true})
            })
            .collect();
        let ready = if words[1] == "-" { "False" } else { "True" };
        let deleted = (words[1] == "t").then_some("1970-01-01T00:00:00Z");
        Arc::new(
            serde_json::from_value(json!({
            "metadata": {"name": words[0], "ownerReferences": owners, "deletionTimestamp": deleted},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
            .unwrap(),
        )
    }

    fn status(budget: &PodDisruptionBudget, pods: &[&str]) -> (PodDisruptionBudgetStatus, Option<Duration>) {
        let pods: Vec<Arc<Pod>> = pods.iter().map(|text| pod(text)).collect();
        let scale = |owner: &OwnerReference| match owner.kind.as_str() {
            "Four" => Ok((owner.uid.clone(), 4)),
            other => Err(format!("{other} has no scale")),
        };
        plan(&Observed { budget, pods: &pods, scale: &scale, now: Timestamp::from_second(NOW).unwrap() })
    }

    #[test]
    fn how_many_may_be_missing() {
        let all = ["a + Four", "b + Four", "c + Four", "d + Four"];
        let ill = ["a + Four", "b + Four", "c - Four", "d t Four"];
        for (spec, pods, expected) in [
            // Allowed, healthy, desired, expected.
            (json!({"minAvailable": 3}), &all[..], [1, 4, 3, 4]),
            (json!({"minAvailable": 3}), &ill, [0, 2, 3, 4]),
            (json!({"minAvailable": "50%"}), &all, [2, 4, 2, 4]),
            (json!({"minAvailable": "30%"}), &ill, [0, 2, 2, 4]),
            (json!({"maxUnavailable": 1}), &all, [1, 4, 3, 4]),
            (json!({"maxUnavailable": "30%"}), &all, [2, 4, 2, 4]),
            (json!({"maxUnavailable": 1}), &all[..1], [0, 1, 3, 4]),
            (json!({"minAvailable": 0}), &["a + Other"], [1, 1, 0, 1]),
            (json!({"minAvailable": 0}), &[], [0, 0, 0, 0]),
            (json!({"maxUnavailable": 1}), &["a +"], [0, 1, 0, 0]),
        ] {
            let (found, _) = status(&budget(&spec, &json!({})), pods);
            let found = [
                found.disruptions_allowed,
                found.current_healthy,
                found.desired_healthy,
                found.expected_pods,
            ];
            assert_eq!(found.map(Option::unwrap), expected, "{spec} {pods:?}");
        }
        let (unknown, _) = status(&budget(&json!({"maxUnavailable": 1}), &json!({})), &["a + Job"]);
        let condition = &unknown.conditions.unwrap()[0];
        assert_eq!(
            (condition.reason.as_str(), condition.message.as_str()),
            ("SyncFailed", "Job has no scale")
        );
    }

    #[test]
    fn an_eviction_that_was_granted_counts_until_its_pod_goes() {
        let at = |second: i64| Time(Timestamp::from_second(second).unwrap());
        let granted = json!({"disruptedPods": {"a": at(NOW - 60), "b": at(NOW - 121), "gone": at(NOW)}});
        let (found, again) = status(&budget(&json!({"minAvailable": 1}), &granted), &["a +", "b +", "c +"]);
        assert_eq!(found.disrupted_pods.unwrap().into_keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!((found.current_healthy, again), (Some(2), Some(Duration::from_secs(60))));
    }
}
