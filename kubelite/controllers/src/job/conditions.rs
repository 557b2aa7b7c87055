//! Conditions of a Job's status. No I/O.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{JobCondition, JobStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The reasons that this controller gives, for events, whose reasons are static.
const REASONS: [&str; 5] = [
    "PodFailurePolicy",
    "BackoffLimitExceeded",
    "DeadlineExceeded",
    "MaxFailedIndexesExceeded",
    "FailedIndexes",
];

/// Sets a condition; the time of the transition is that of the change of its status.
pub(super) fn set(
    status: &mut JobStatus,
    type_: &str,
    is_true: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let condition = JobCondition {
        type_: type_.into(),
        status: if is_true { "True" } else { "False" }.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    let all = status.conditions.get_or_insert_default();
    match all.iter_mut().find(|known| known.type_ == type_) {
        Some(known) if known.status == condition.status => {}
        Some(known) => *known = condition,
        None => all.push(condition),
    }
}

/// A reason that was written by this controller; another one is of a client that writes the status by hand.
pub(super) fn known_reason(reason: &str) -> &'static str {
    REASONS.into_iter().find(|known| *known == reason).unwrap_or("Failed")
}
