//! CronJobs: when, and a Job to be made then.

use jiff::tz::TimeZone;
use serde_json::Value;

use super::job;
use super::report::{Report, text};
use crate::cron::{self, Schedule};

/// The names of its jobs are eleven characters longer, and theirs are labels.
const NAME_MAX: usize = 52;

pub(super) fn cron_job(report: &mut Report, new: &Value, old: Option<&Value>) {
    let name = text(new, "/metadata/name");
    if old.is_none() && name.len() > NAME_MAX {
        report.invalid("metadata.name", &name.into(), &format!("must be no more than {NAME_MAX} characters"));
    }
    schedule(report, text(new, "/spec/schedule"));
    if let Some(zone) = new.pointer("/spec/timeZone").and_then(Value::as_str) {
        time_zone(report, zone);
    }
    for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        report.not_negative(format!("spec.{field}"), new.pointer(&format!("/spec/{field}")));
    }
    report.one_of(
        "spec.concurrencyPolicy",
        text(new, "/spec/concurrencyPolicy"),
        &["Allow", "Forbid", "Replace"],
    );
    let template = new.pointer("/spec/jobTemplate/spec").unwrap_or(&Value::Null);
    job::spec(report, template, "spec.jobTemplate.spec");
    if template.get("manualSelector") == Some(&Value::Bool(true)) {
        let detail = "a CronJob's jobs can only have generated selectors";
        report.invalid("spec.jobTemplate.spec.manualSelector", &Value::Bool(true), detail);
    }
}

fn schedule(report: &mut Report, schedule: &str) {
    let at = "spec.schedule";
    if schedule.is_empty() {
        return report.required(at, "");
    }
    if schedule.contains("TZ") {
        let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        return report.invalid(at, &schedule.into(), detail);
    }
    if let Err(error) = Schedule::parse(schedule, TimeZone::UTC) {
        report.invalid(at, &schedule.into(), &error);
    }
}

fn time_zone(report: &mut Report, zone: &str) {
    let detail = match zone {
        "" => "timeZone must be nil or non-empty string".to_owned(),
        local if local.eq_ignore_ascii_case("local") => {
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones".to_owned()
        }
        known if cron::zone(known).is_some() => return,
        unknown => format!("unknown time zone {unknown}"),
    };
    report.invalid("spec.timeZone", &zone.into(), &detail);
}
