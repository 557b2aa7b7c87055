//! The next step of a CronJob: what its jobs have become, and whether it is time for another one. No I/O.

use crate::claim::controller_ref;
use crate::job;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kubelite_api::cron::{self, Missed, Schedule};
use std::sync::Arc;
use std::time::Duration;

/// Says for which time a job was made.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// What there is.
pub(super) struct Observed<'a> {
    pub(super) cron: &'a CronJob,
    /// Its jobs.
    pub(super) jobs: &'a [Arc<Job>],
    pub(super) now: Timestamp,
}

/// A sentence for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) warning: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// A job to be made, for this time.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Start {
    pub(super) job: Box<Job>,
    pub(super) at: Timestamp,
}

/// What to do, in this order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) notes: Vec<Note>,
    /// Finished jobs beyond the history limits, and those that a new one replaces.
    pub(super) delete: Vec<Arc<Job>>,
    pub(super) start: Option<Start>,
    /// Without what the start adds to it.
    pub(super) status: CronJobStatus,
    pub(super) look_again: Option<Duration>,
}

impl Plan {
    fn tell(&mut self, warning: bool, reason: &'static str, message: impl Into<String>) {
        self.notes.push(Note { warning, reason, message: message.into() });
    }
}

/// How a status names a job.
pub(super) fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".into()),
        kind: Some("Job".into()),
        name: job.metadata.name.clone(),
        namespace: job.namespace(),
        uid: job.uid(),
        resource_version: job.resource_version(),
        ..ObjectReference::default()
    }
}

/// The next step of a cron job.
pub(super) fn plan(observed: &Observed<'_>) -> Plan {
    let mut plan = Plan { status: observed.cron.status.clone().unwrap_or_default(), ..Plan::default() };
    settle(observed, &mut plan);
    clean_up(observed, &mut plan);
    let spec = &observed.cron.spec;
    if observed.cron.metadata.deletion_timestamp.is_none() && spec.suspend != Some(true) {
        match schedule(spec) {
            Ok(schedule) => begin(observed, &schedule, &mut plan),
            Err((reason, message)) => plan.tell(true, reason, message),
        }
    }
    plan.status.active = plan.status.active.take().filter(|active| !active.is_empty());
    plan
}

/// What has become of the active jobs, and when one last succeeded.
fn settle(observed: &Observed<'_>, plan: &mut Plan) {
    let find = |uid: Option<&str>| observed.jobs.iter().find(|job| job.metadata.uid.as_deref() == uid);
    let active = plan.status.active.take().unwrap_or_default();
    let mut still = Vec::new();
    for reference in active {
        let name = reference.name.clone().unwrap_or_default();
        match find(reference.uid.as_deref()) {
            None => plan.tell(false, "MissingJob", format!("Active job went missing: {name}")),
            Some(job) => match job::finished(job) {
                Some(end) => {
                    let text = format!("Saw completed job: {name}, condition: {}", end.type_);
                    plan.tell(false, "SawCompletedJob", text);
                }
                None => still.push(reference),
            },
        }
    }
    for job in observed.jobs {
        let known = still.iter().any(|reference| reference.uid == job.metadata.uid);
        if !known && job::finished(job).is_none() {
            let name = job.name_any();
            let text = format!("Saw a job that the controller did not create or forgot: {name}");
            plan.tell(true, "UnexpectedJob", text);
        }
    }
    let ended = observed.jobs.iter().filter(|job| job::succeeded(job));
    let ended = ended.filter_map(|job| job.status.as_ref()?.completion_time.clone());
    plan.status.last_successful_time = ended.chain(plan.status.last_successful_time.take()).max();
    plan.status.active = Some(still);
}

/// Finished jobs beyond the limits go, the oldest first.
fn clean_up(observed: &Observed<'_>, plan: &mut Plan) {
    let spec = &observed.cron.spec;
    for (well, limit) in [(true, spec.successful_jobs_history_limit), (false, spec.failed_jobs_history_limit)]
    {
        let Some(limit) = limit else { continue };
        let of_kind = |job: &&Arc<Job>| job::finished(job).is_some() && job::succeeded(job) == well;
        let mut jobs: Vec<Arc<Job>> = observed.jobs.iter().filter(of_kind).cloned().collect();
        let start = |job: &Job| job.status.as_ref().and_then(|status| status.start_time.clone());
        jobs.sort_by_key(|job| (start(job), job.name_any()));
        jobs.truncate(jobs.len().saturating_sub(usize::try_from(limit).unwrap_or(0)));
        jobs.retain(|job| job.metadata.deletion_timestamp.is_none());
        plan.delete.extend(jobs);
    }
}

fn zone(spec: &CronJobSpec) -> Option<TimeZone> {
    spec.time_zone.as_deref().map_or(Some(TimeZone::UTC), cron::zone)
}

fn schedule(spec: &CronJobSpec) -> Result<Schedule, (&'static str, String)> {
    let name = spec.time_zone.as_deref().unwrap_or_default();
    let zone = zone(spec).ok_or_else(|| ("UnknownTimeZone", format!("invalid timeZone: {name:?}")))?;
    let unparseable =
        |error| ("UnparseableSchedule", format!("unparseable schedule: {:?} : {error}", spec.schedule));
    Schedule::parse(&spec.schedule, zone).map_err(unparseable)
}

/// A job for the latest time that has come, unless there was one or the policy is against it.
fn begin(observed: &Observed<'_>, schedule: &Schedule, plan: &mut Plan) {
    let Observed { cron, now, .. } = *observed;
    let next = schedule.next(now);
    plan.look_again = next.and_then(|next| Duration::try_from(next.duration_since(now)).ok());
    let Some((at, missed)) = schedule.latest(earliest(cron, plan, now), now) else { return };
    if missed == Missed::Many {
        let text =
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.tell(true, "TooManyMissedTimes", text);
    }
    let job = job_for(cron, at);
    let active = plan.status.active.get_or_insert_default();
    if active.iter().any(|reference| reference.name == job.metadata.name) {
        return;
    }
    match cron.spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
            return plan.tell(false, "JobAlreadyActive", text);
        }
        Some("Replace") => {
            let replaced: Vec<_> = active.drain(..).map(|reference| reference.uid).collect();
            plan.delete
                .extend(observed.jobs.iter().filter(|job| replaced.contains(&job.metadata.uid)).cloned());
        }
        _ => {}
    }
    plan.start = Some(Start { job: Box::new(job), at });
}

/// Times up to this one are done with: had a job, or are too long ago to begin.
fn earliest(cron: &CronJob, plan: &Plan, now: Timestamp) -> Timestamp {
    let made = cron.metadata.creation_timestamp.as_ref().map_or(now, |made| made.0);
    let done = plan.status.last_schedule_time.as_ref().map_or(made, |last| last.0);
    let deadline = cron.spec.starting_deadline_seconds;
    let deadline = deadline.and_then(|seconds| now.checked_sub(SignedDuration::from_secs(seconds)).ok());
    deadline.map_or(done, |deadline| done.max(deadline))
}

/// The job of a time. Its name is that time in minutes, so that nobody makes it twice.
fn job_for(cron: &CronJob, at: Timestamp) -> Job {
    let template = &cron.spec.job_template;
    let mut metadata = template.metadata.clone().unwrap_or_default();
    metadata.name = Some(format!("{}-{}", cron.name_any(), at.as_second() / 60));
    metadata.namespace = cron.namespace();
    metadata.owner_references = Some(vec![controller_ref(cron)]);
    let local = at.to_zoned(zone(&cron.spec).unwrap_or(TimeZone::UTC));
    let offset = if local.offset().seconds() == 0 { "Z" } else { "%:z" };
    let text = local.strftime(&format!("%Y-%m-%dT%H:%M:%S{offset}")).to_string();
    metadata.annotations.get_or_insert_default().insert(SCHEDULED.into(), text);
    Job { metadata, spec: template.spec.clone(), status: None }
}

/// The status once the job of a start is there.
pub(super) fn started(mut status: CronJobStatus, job: &Job, at: Timestamp) -> CronJobStatus {
    status.last_schedule_time = Some(Time(at));
    if job::finished(job).is_none() {
        status.active.get_or_insert_default().push(reference(job));
    }
    status
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
