//! The next step of a Job. No I/O.

use super::pod::{Attempts, is_tracked};
use super::spec::{self, COMPLETE, FAILED, SUCCESS_CRITERIA, SUSPENDED};
use super::tally::{Tally, tally};
use super::verdict::{deadline, verdict};
use super::{conditions, workers};
use crate::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::sync::Arc;
use std::time::Duration;

/// What there is.
pub(super) struct Observed<'a> {
    pub(super) job: &'a Job,
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) now: Timestamp,
}

/// A sentence for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) warning: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// What to do, in this order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) status: JobStatus,
    /// Lose the finalizer: they are in the status now.
    pub(super) release: Vec<Arc<Pod>>,
    /// Go and count.
    pub(super) delete: Vec<Arc<Pod>>,
    /// Go without being counted.
    pub(super) discard: Vec<Arc<Pod>>,
    pub(super) create: Vec<(Option<i32>, Option<Attempts>)>,
    pub(super) note: Option<Note>,
    /// The job's time to live is over.
    pub(super) expired: bool,
    /// When something is due that no event will tell.
    pub(super) look_at: Option<Timestamp>,
}

impl Plan {
    /// Looks again at this time at the latest.
    pub(super) fn due(&mut self, at: Timestamp) {
        self.look_at = Some(self.look_at.map_or(at, |known| known.min(at)));
    }

    pub(super) fn look_again(&self, now: Timestamp) -> Option<Duration> {
        let wait = self.look_at?.duration_since(now).max(SignedDuration::ZERO);
        Duration::try_from(wait).ok()
    }

    pub(super) fn tell(&mut self, warning: bool, reason: &'static str, message: impl Into<String>) {
        self.note = Some(Note { warning, reason, message: message.into() });
    }
}

/// The next step of a job.
pub(super) fn plan(observed: &Observed<'_>) -> Plan {
    let Observed { job, pods, now } = *observed;
    let mut plan = Plan { status: job.status.clone().unwrap_or_default(), ..Plan::default() };
    if job.metadata.deletion_timestamp.is_some() || spec::finished(job).is_some() {
        // Nothing is counted any more, so that nobody has to wait for being counted.
        let over = |pod: &&Arc<Pod>| pods::is_finished(pod) || pods::is_terminating(pod);
        plan.release = pods.iter().filter(|pod| is_tracked(pod)).filter(over).cloned().collect();
        expire(job, now, &mut plan);
        return plan;
    }
    let tally = tally(job, pods);
    let active: Vec<Arc<Pod>> = pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
    report(observed, &tally, &active, &mut plan.status);
    plan.release.clone_from(&tally.release);
    if spec::ending(job).is_some() {
        end(observed, &tally, active, &mut plan);
    } else if let Some(verdict) = verdict(observed, &tally, active.len()) {
        conditions::set(&mut plan.status, verdict.type_, true, verdict.reason, &verdict.message, now);
        plan.delete = active;
    } else {
        deadline(job).into_iter().for_each(|at| plan.due(at));
        run(observed, &tally, active, &mut plan);
    }
    plan
}

/// The counts of the status.
fn report(observed: &Observed<'_>, tally: &Tally, active: &[Arc<Pod>], status: &mut JobStatus) {
    let job = observed.job;
    let positive = |count: i32| Some(count).filter(|count| *count > 0);
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let (succeeded, failed, uncounted) = tally.status(job);
    status.succeeded = positive(succeeded);
    status.failed = positive(failed);
    status.uncounted_terminated_pods = Some(uncounted);
    status.active = positive(number(active.len()));
    status.ready = Some(number(active.iter().filter(|pod| pods::is_ready(pod)).count()));
    status.terminating = Some(number(terminating(observed.pods).count()));
    if spec::indexes(job).is_some() {
        status.completed_indexes = Some(tally.completed.to_string()).filter(|text| !text.is_empty());
        let per_index = spec::of(job).backoff_limit_per_index.is_some();
        status.failed_indexes = Some(tally.failed_indexes.to_string()).filter(|_| per_index);
    }
    if status.start_time.is_none() && !spec::is_suspended(job) {
        status.start_time = Some(Time(observed.now));
    }
}

/// Pods that go and have not ended.
pub(super) fn terminating(pods: &[Arc<Pod>]) -> impl Iterator<Item = &Arc<Pod>> {
    pods.iter().filter(|pod| pods::is_terminating(pod) && !pods::is_finished(pod))
}

/// The end has been decided: what runs goes, and when all are gone and counted, the job says so.
fn end(observed: &Observed<'_>, tally: &Tally, active: Vec<Arc<Pod>>, plan: &mut Plan) {
    let Some(decided) = spec::ending(observed.job) else { return };
    let waits = !tally.is_settled() || !active.is_empty() || terminating(observed.pods).next().is_some();
    plan.delete = active;
    if waits {
        return;
    }
    let (reason, message) =
        (decided.reason.clone().unwrap_or_default(), decided.message.clone().unwrap_or_default());
    let well = decided.type_ == SUCCESS_CRITERIA;
    let type_ = if well { COMPLETE } else { FAILED };
    conditions::set(&mut plan.status, type_, true, &reason, &message, observed.now);
    if well {
        plan.status.completion_time = Some(Time(observed.now));
        plan.tell(false, "Completed", "Job completed");
    } else {
        plan.tell(true, conditions::known_reason(&reason), message);
    }
}

/// The job goes on: suspended, or with as many pods as it should have.
fn run(observed: &Observed<'_>, tally: &Tally, active: Vec<Arc<Pod>>, plan: &mut Plan) {
    let (job, now) = (observed.job, observed.now);
    let was_suspended = spec::condition(job, SUSPENDED).is_some();
    if spec::is_suspended(job) {
        plan.discard = active;
        if !was_suspended {
            conditions::set(&mut plan.status, SUSPENDED, true, "JobSuspended", "Job suspended", now);
            plan.tell(false, "Suspended", "Job suspended");
        }
        return;
    }
    if was_suspended {
        conditions::set(&mut plan.status, SUSPENDED, false, "JobResumed", "Job resumed", now);
        // The deadline counts from here.
        plan.status.start_time = Some(Time(now));
        plan.tell(false, "Resumed", "Job resumed");
    }
    workers::manage(observed, tally, &active, plan);
}

/// The time to live counts from the end of the job (KEP-592).
fn expire(job: &Job, now: Timestamp, plan: &mut Plan) {
    let deleting = job.metadata.deletion_timestamp.is_some();
    let Some(seconds) = spec::of(job).ttl_seconds_after_finished.filter(|_| !deleting) else { return };
    let ended = spec::finished(job).and_then(|condition| condition.last_transition_time.as_ref());
    let Some(at) = ended.and_then(|end| end.0.checked_add(SignedDuration::from_secs(seconds.into())).ok())
    else {
        return;
    };
    plan.expired = at <= now;
    plan.due(at);
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
