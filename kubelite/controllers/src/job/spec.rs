//! What a Job asks for, in words that the rest of the controller uses. No I/O.

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec};
use std::sync::LazyLock;

/// On each pod that is not yet counted.
pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Who a Job is managed by, if it says nothing else.
const SELF: &str = "kubernetes.io/job-controller";

pub(super) const COMPLETE: &str = "Complete";
pub(super) const FAILED: &str = "Failed";
pub(super) const SUSPENDED: &str = "Suspended";
/// The job has failed; its pods are being ended.
pub(super) const FAILURE_TARGET: &str = "FailureTarget";
/// The job has succeeded; its pods are being ended.
pub(super) const SUCCESS_CRITERIA: &str = "SuccessCriteriaMet";

static EMPTY: LazyLock<JobSpec> = LazyLock::new(JobSpec::default);

/// The spec, which validation asks for.
pub(super) fn of(job: &Job) -> &JobSpec {
    job.spec.as_ref().unwrap_or(&EMPTY)
}

/// Whether another controller takes care of it (KEP-4368).
pub(super) fn is_foreign(job: &Job) -> bool {
    of(job).managed_by.as_deref().is_some_and(|by| by != SELF)
}

pub(super) fn is_suspended(job: &Job) -> bool {
    of(job).suspend == Some(true)
}

pub(super) fn parallelism(job: &Job) -> i32 {
    of(job).parallelism.unwrap_or(1).max(0)
}

/// How many completions an Indexed Job has; none if it isn't Indexed.
pub(super) fn indexes(job: &Job) -> Option<i32> {
    let indexed = of(job).completion_mode.as_deref() == Some("Indexed");
    of(job).completions.filter(|_| indexed)
}

/// Whether a pod that terminates is waited for, before another takes its place (KEP-3939).
pub(super) fn waits_for_failed(job: &Job) -> bool {
    of(job).pod_replacement_policy.as_deref() == Some("Failed")
}

/// A condition that is true.
pub(super) fn condition<'a>(job: &'a Job, type_: &str) -> Option<&'a JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_ && condition.status == "True")
}

/// How the job ended; none while it hasn't.
pub(crate) fn finished(job: &Job) -> Option<&JobCondition> {
    condition(job, COMPLETE).or_else(|| condition(job, FAILED))
}

/// Whether the job ended well.
pub(crate) fn succeeded(job: &Job) -> bool {
    condition(job, COMPLETE).is_some()
}

/// What has been decided about the end, while pods still run.
pub(super) fn ending(job: &Job) -> Option<&JobCondition> {
    condition(job, SUCCESS_CRITERIA).or_else(|| condition(job, FAILURE_TARGET))
}
