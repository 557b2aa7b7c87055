//! A deployment's status: counts, and the conditions that `kubectl rollout status` and `kubectl wait` read.

use super::plan::{Observed, replicas};
use super::rolling::bounds;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentSpec, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use std::sync::Arc;
use std::time::Duration;

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const FAILURE: &str = "ReplicaFailure";
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
/// A progress deadline of this many seconds means none.
const NO_DEADLINE: i32 = i32::MAX;

/// The status of what is observed, and when time alone will change it.
pub(super) fn status(
    observed: &Observed<'_>,
    spec: &DeploymentSpec,
    new: Option<&ReplicaSet>,
) -> (DeploymentStatus, Option<Duration>) {
    let old = observed.deployment.status.clone().unwrap_or_default();
    let sum = |count: &dyn Fn(&ReplicaSet) -> i32| observed.sets.iter().map(|set| count(set)).sum::<i32>();
    let total = sum(&actual);
    let available = sum(&available);
    let mut next = DeploymentStatus {
        observed_generation: observed.deployment.metadata.generation,
        replicas: positive(total),
        updated_replicas: positive(new.map_or(0, actual)),
        ready_replicas: positive(sum(&|set| set.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0))),
        available_replicas: positive(available),
        unavailable_replicas: positive((sum(&replicas) - available).max(0)),
        terminating_replicas: old.terminating_replicas,
        collision_count: old.collision_count,
        conditions: old.conditions.clone(),
    };
    let wanted = spec.replicas.unwrap_or(1);
    let enough = available >= wanted - bounds(spec.strategy.as_ref(), wanted).unavailable;
    let (state, reason, message) = match enough {
        true => ("True", "MinimumReplicasAvailable", "Deployment has minimum availability."),
        false => ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability."),
    };
    set(&mut next, AVAILABLE, state, reason, message, observed.now);
    let look_again = progress(observed, spec, new, &old, &mut next);
    replica_failure(observed.sets, new, &mut next, observed.now);
    next.conditions = next.conditions.filter(|conditions| !conditions.is_empty());
    (next, look_again)
}

/// The condition Progressing: complete, progressing, paused, or timed out; and when the deadline is.
fn progress(
    observed: &Observed<'_>,
    spec: &DeploymentSpec,
    new: Option<&ReplicaSet>,
    old: &DeploymentStatus,
    next: &mut DeploymentStatus,
) -> Option<Duration> {
    let deadline = spec.progress_deadline_seconds.filter(|seconds| *seconds != NO_DEADLINE)?;
    let now = observed.now;
    let before = find(old, PROGRESSING).cloned();
    let reason_before = before.as_ref().and_then(|condition| condition.reason.clone()).unwrap_or_default();
    if spec.paused == Some(true) {
        if reason_before != TIMED_OUT && reason_before != "DeploymentPaused" {
            touch(next, "Unknown", "DeploymentPaused", "Deployment is paused", now);
        }
        return None;
    }
    if reason_before == "DeploymentPaused" {
        touch(next, "Unknown", "DeploymentResumed", "Deployment is resumed", now);
        return seconds(deadline);
    }
    let name = new.map(ResourceExt::name_any)?;
    let wanted = spec.replicas.unwrap_or(1);
    let reached = |count: Option<i32>| count.unwrap_or(0) == wanted;
    if reached(next.updated_replicas) && reached(next.replicas) && reached(next.available_replicas) {
        if reason_before != COMPLETE {
            let text = format!("ReplicaSet \"{name}\" has successfully progressed.");
            touch(next, "True", COMPLETE, &text, now);
        }
        return None;
    }
    // A deployment that was complete is only progressing again when its template is new, not when a pod is lost.
    let template_changed =
        next.updated_replicas.unwrap_or(0) < old.updated_replicas.unwrap_or(0) || before.is_none();
    let moved = next.updated_replicas > old.updated_replicas
        || outdated(next) < outdated(old)
        || next.ready_replicas > old.ready_replicas
        || next.available_replicas > old.available_replicas;
    if moved || template_changed {
        let text = format!("ReplicaSet \"{name}\" is progressing.");
        touch(next, "True", "ReplicaSetUpdated", &text, now);
        return seconds(deadline);
    }
    if reason_before == COMPLETE || reason_before == TIMED_OUT {
        return None;
    }
    let since = before.and_then(|condition| condition.last_update_time).map_or(now, |time| time.0);
    let until = since.checked_add(SignedDuration::from_secs(deadline.into())).unwrap_or(Timestamp::MAX);
    if until > now {
        // Half a second later, since the times in the status are cut to whole seconds.
        let rest = Duration::try_from(until.duration_since(now)).unwrap_or_default();
        return Some(rest + Duration::from_millis(500));
    }
    touch(next, "False", TIMED_OUT, &format!("ReplicaSet \"{name}\" has timed out progressing."), now);
    None
}

fn replica_failure(
    sets: &[Arc<ReplicaSet>],
    new: Option<&ReplicaSet>,
    next: &mut DeploymentStatus,
    now: Timestamp,
) {
    let failure = |set: &ReplicaSet| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_.as_deref() == Some(FAILURE)).cloned()
    };
    match new.and_then(failure).or_else(|| sets.iter().find_map(|set| failure(set))) {
        Some(found) => {
            let (reason, message) = (found.reason.unwrap_or_default(), found.message.unwrap_or_default());
            set(next, FAILURE, found.status.as_deref().unwrap_or("True"), &reason, &message, now);
        }
        None => next
            .conditions
            .get_or_insert_default()
            .retain(|condition| condition.type_.as_deref() != Some(FAILURE)),
    }
}

/// Records that the new replica set could not be made.
pub(super) fn set_create_error(status: &mut DeploymentStatus, message: &str, now: Timestamp) {
    set(status, PROGRESSING, "False", "ReplicaSetCreateError", message, now);
}

/// The merge patch from one status to another: what is no longer there is null.
pub(super) fn patch(old: Option<&DeploymentStatus>, new: &DeploymentStatus) -> serde_json::Value {
    let mut patch = serde_json::json!(new);
    let old = serde_json::json!(old);
    if let (Some(patch), Some(old)) = (patch.as_object_mut(), old.as_object()) {
        old.keys().for_each(|key| _ = patch.entry(key.clone()).or_insert(serde_json::Value::Null));
    }
    patch
}

fn find<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_ref()?.iter().find(|condition| condition.type_.as_deref() == Some(type_))
}

/// Sets a condition; one that says the same already stays as it is, with its times.
fn set(status: &mut DeploymentStatus, type_: &str, state: &str, reason: &str, message: &str, now: Timestamp) {
    let before = find(status, type_).cloned();
    let same = |c: &DeploymentCondition| {
        c.status.as_deref() == Some(state)
            && c.reason.as_deref() == Some(reason)
            && c.message.as_deref() == Some(message)
    };
    if before.as_ref().is_some_and(same) {
        return;
    }
    let transition =
        before.filter(|c| c.status.as_deref() == Some(state)).and_then(|c| c.last_transition_time);
    let condition = DeploymentCondition {
        type_: Some(type_.into()),
        status: Some(state.into()),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_update_time: Some(Time(now)),
        last_transition_time: transition.or(Some(Time(now))),
    };
    let conditions = status.conditions.get_or_insert_default();
    match conditions.iter_mut().find(|c| c.type_.as_deref() == Some(type_)) {
        Some(slot) => *slot = condition,
        None => conditions.push(condition),
    }
}

/// Sets Progressing and renews its time, from which the deadline counts.
fn touch(status: &mut DeploymentStatus, state: &str, reason: &str, message: &str, now: Timestamp) {
    set(status, PROGRESSING, state, reason, message, now);
    let conditions = status.conditions.iter_mut().flatten();
    conditions
        .filter(|c| c.type_.as_deref() == Some(PROGRESSING))
        .for_each(|c| c.last_update_time = Some(Time(now)));
}

fn outdated(status: &DeploymentStatus) -> i32 {
    status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0)
}

fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

fn positive(count: i32) -> Option<i32> {
    Some(count).filter(|count| *count > 0)
}

fn seconds(seconds: i32) -> Option<Duration> {
    u64::try_from(seconds).ok().map(Duration::from_secs)
}
