//! Whether a Job has to end, and why. No I/O.

use super::spec::{self, FAILURE_TARGET, SUCCESS_CRITERIA};
use super::tally::Tally;
use super::{plan::Observed, policy};
use crate::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

/// An end with its condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    /// `FailureTarget` or `SuccessCriteriaMet`.
    pub(super) type_: &'static str,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

fn failure(reason: &'static str, message: impl Into<String>) -> Option<Verdict> {
    Some(Verdict { type_: FAILURE_TARGET, reason, message: message.into() })
}

fn success(reason: &'static str, message: impl Into<String>) -> Option<Verdict> {
    Some(Verdict { type_: SUCCESS_CRITERIA, reason, message: message.into() })
}

/// The end that this count means; the first reason is the one that is told.
pub(super) fn verdict(observed: &Observed<'_>, tally: &Tally, active: usize) -> Option<Verdict> {
    let job = observed.job;
    let limit = spec::of(job).backoff_limit.unwrap_or(6);
    if let Some(why) = &tally.fatal {
        return failure("PodFailurePolicy", why.clone());
    }
    if tally.failed() > limit || restarted_too_often(job, observed, limit) {
        return failure("BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    if deadline(job).is_some_and(|deadline| deadline <= observed.now) {
        return failure("DeadlineExceeded", "Job was active longer than specified deadline");
    }
    indexed(job, tally).or_else(|| {
        let succeeded = tally.succeeded(job);
        let done = match spec::of(job).completions {
            // Any pod of a work queue may say that all is done; the others end by themselves.
            None => succeeded > 0,
            Some(completions) => succeeded >= completions,
        };
        let done = done && active == 0;
        success("CompletionsReached", "Reached expected number of succeeded pods").filter(|_| done)
    })
}

/// When the job must be over; none while it is suspended, and until it has a new start after that.
pub(super) fn deadline(job: &Job) -> Option<Timestamp> {
    let suspended = spec::is_suspended(job) || spec::condition(job, spec::SUSPENDED).is_some();
    let seconds = spec::of(job).active_deadline_seconds.filter(|_| !suspended)?;
    let start = job.status.as_ref()?.start_time.as_ref()?.0;
    start.checked_add(SignedDuration::from_secs(seconds)).ok()
}

/// Containers that are restarted in their pods count as failures of the job.
fn restarted_too_often(job: &Job, observed: &Observed<'_>, limit: i32) -> bool {
    let template = spec::of(job).template.spec.as_ref();
    if template.and_then(|spec| spec.restart_policy.as_deref()) != Some("OnFailure") {
        return false;
    }
    let runs = |pod: &&Pod| matches!(pods::phase(pod), "Running" | "Pending");
    let all = observed.pods.iter().map(|pod| &**pod).filter(runs);
    let restarts: i32 = all.map(|pod| pods::restarts(pod).saturating_add(init_restarts(pod))).sum();
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

fn init_restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.init_container_statuses.as_ref());
    statuses.into_iter().flatten().map(|container| container.restart_count).sum()
}

fn indexed(job: &Job, tally: &Tally) -> Option<Verdict> {
    let completions = spec::indexes(job)?;
    let failed = tally.failed_indexes.count();
    if spec::of(job).max_failed_indexes.is_some_and(|most| failed > most) {
        let text = "Job has exceeded the specified maximal number of failed indexes";
        return failure("MaxFailedIndexesExceeded", text);
    }
    if failed > 0 && failed + tally.completed.count() >= completions {
        return failure("FailedIndexes", "Job has failed indexes");
    }
    let rule = policy::success_rule(job, completions, &tally.completed)?;
    success("SuccessPolicy", format!("Matched rules at index {rule}"))
}
