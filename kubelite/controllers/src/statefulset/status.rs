//! What a stateful set reports. No I/O.

use super::identity;
use super::plan::{Observed, is_running};
use crate::pods;
use k8s_openapi::api::apps::v1::StatefulSetStatus;
use k8s_openapi::api::core::v1::Pod;
use std::time::Duration;

/// The status that these pods mean. The update is complete when every replica is of it and ready; then it is the current
/// revision.
pub(super) fn of(observed: &Observed<'_>) -> StatefulSetStatus {
    let Observed { set, pods, current, update, now, .. } = observed;
    let min_ready = set.spec.min_ready_seconds.unwrap_or(0);
    let count = |test: &dyn Fn(&Pod) -> bool| {
        i32::try_from(pods.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX)
    };
    let of = |name: &str| count(&|pod| !pods::is_terminating(pod) && identity::revision_of(pod) == name);
    let positive = |count: i32| Some(count).filter(|count| *count > 0);
    let (replicas, ready) = (count(&|_| true), count(&is_running));
    let available = count(&|pod| is_running(pod) && pods::is_available(pod, min_ready, *now));
    let updated = of(&update.name);
    let wanted = identity::replicas(set);
    let rolling = set.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
    let complete = rolling != Some("OnDelete") && [replicas, ready, updated] == [wanted; 3];
    let current = if complete { &update.name } else { &current.name };
    StatefulSetStatus {
        replicas,
        ready_replicas: positive(ready),
        available_replicas: Some(available),
        current_replicas: positive(of(current)),
        updated_replicas: positive(updated),
        current_revision: Some(current.clone()),
        update_revision: Some(update.name.clone()),
        observed_generation: set.metadata.generation,
        ..set.status.clone().unwrap_or_default()
    }
}

/// When a ready pod becomes available next, which no event will tell.
pub(super) fn next_look(observed: &Observed<'_>) -> Option<Duration> {
    let min_ready = observed.set.spec.min_ready_seconds.unwrap_or(0);
    let at = observed.pods.iter().filter_map(|pod| pods::available_at(pod, min_ready));
    let next = at.filter(|at| *at > observed.now).min()?;
    Duration::try_from(next.duration_since(observed.now)).ok()
}
