//! The rows of jobs, volumes, budgets and priorities.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cells::{int, join, or_none, text};
use super::{age, human_duration, since};
use crate::{object, scalar};

fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    value.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Whether a condition is true.
fn holds(object: &Value, kind: &str) -> bool {
    list(object, "/status/conditions")
        .iter()
        .any(|c| text(c, "/type") == kind && text(c, "/status") == "True")
}

pub(super) fn job(o: &Value, now: Timestamp) -> Vec<Value> {
    let status = match () {
        () if holds(o, "Complete") => "Complete",
        () if holds(o, "Failed") => "Failed",
        () if object::deletion_timestamp(o).is_some() => "Terminating",
        () if holds(o, "Suspended") => "Suspended",
        () if holds(o, "FailureTarget") => "FailureTarget",
        () if holds(o, "SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    };
    let done = int(o, "/status/succeeded");
    let completions = match o.pointer("/spec/completions").and_then(Value::as_i64) {
        Some(wanted) => format!("{done}/{wanted}"),
        None if int(o, "/spec/parallelism") > 1 => format!("{done}/1 of {}", int(o, "/spec/parallelism")),
        None => format!("{done}/1"),
    };
    let time = |path| o.pointer(path).and_then(scalar::time_of);
    let duration = time("/status/startTime").map(|start| {
        let end = time("/status/completionTime").unwrap_or(now);
        human_duration(end.as_second() - start.as_second())
    });
    let [containers, images, selector] = super::workload::wide(o);
    vec![
        json!(object::name(o)),
        json!(status),
        json!(completions),
        json!(duration.unwrap_or_default()),
        json!(age(o, now)),
        containers,
        images,
        selector,
    ]
}

pub(super) fn cron_job(o: &Value, now: Timestamp) -> Vec<Value> {
    let suspended = o.pointer("/spec/suspend") == Some(&Value::Bool(true));
    let last = o.pointer("/status/lastScheduleTime").and_then(scalar::time_of);
    let last = last.map_or_else(|| "<none>".to_owned(), |last| since(Some(last), now));
    let [containers, images, selector] = super::workload::wide(o.pointer("/spec/jobTemplate").unwrap_or(o));
    vec![
        json!(object::name(o)),
        json!(text(o, "/spec/schedule")),
        json!(or_none(text(o, "/spec/timeZone"))),
        json!(if suspended { "True" } else { "False" }),
        json!(list(o, "/status/active").len()),
        json!(last),
        json!(age(o, now)),
        containers,
        images,
        selector,
    ]
}

/// `RWO,ROX`
fn modes(object: &Value, path: &str) -> String {
    join(list(object, path).iter().map(|mode| match mode.as_str().unwrap_or_default() {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        other => other,
    }))
}

pub(super) fn volume(o: &Value, now: Timestamp) -> Vec<Value> {
    let claim = match text(o, "/spec/claimRef/name") {
        "" => String::new(),
        name => format!("{}/{name}", text(o, "/spec/claimRef/namespace")),
    };
    vec![
        json!(object::name(o)),
        json!(text(o, "/spec/capacity/storage")),
        json!(modes(o, "/spec/accessModes")),
        json!(text(o, "/spec/persistentVolumeReclaimPolicy")),
        json!(lifecycle(o)),
        json!(claim),
        json!(text(o, "/spec/storageClassName")),
        json!(unset(text(o, "/spec/volumeAttributesClassName"))),
        json!(text(o, "/status/reason")),
        json!(age(o, now)),
        json!(unset(text(o, "/spec/volumeMode"))),
    ]
}

pub(super) fn claim(o: &Value, now: Timestamp) -> Vec<Value> {
    let bound = !text(o, "/spec/volumeName").is_empty();
    vec![
        json!(object::name(o)),
        json!(lifecycle(o)),
        json!(text(o, "/spec/volumeName")),
        json!(if bound { text(o, "/status/capacity/storage") } else { "" }),
        json!(if bound { modes(o, "/status/accessModes") } else { String::new() }),
        json!(text(o, "/spec/storageClassName")),
        json!(unset(text(o, "/spec/volumeAttributesClassName"))),
        json!(age(o, now)),
        json!(unset(text(o, "/spec/volumeMode"))),
    ]
}

fn lifecycle(o: &Value) -> &str {
    if object::deletion_timestamp(o).is_some() { "Terminating" } else { text(o, "/status/phase") }
}

fn unset(text: &str) -> &str {
    if text.is_empty() { "<unset>" } else { text }
}

pub(super) fn priority_class(o: &Value, now: Timestamp) -> Vec<Value> {
    let global = o.get("globalDefault") == Some(&Value::Bool(true));
    let policy = text(o, "/preemptionPolicy");
    vec![json!(object::name(o)), json!(int(o, "/value")), json!(global), json!(age(o, now)), json!(policy)]
}

pub(super) fn budget(o: &Value, now: Timestamp) -> Vec<Value> {
    let bound = |path| match o.pointer(path) {
        Some(Value::String(share)) => share.clone(),
        Some(Value::Number(count)) => count.to_string(),
        _ => "N/A".to_owned(),
    };
    vec![
        json!(object::name(o)),
        json!(bound("/spec/minAvailable")),
        json!(bound("/spec/maxUnavailable")),
        json!(int(o, "/status/disruptionsAllowed")),
        json!(age(o, now)),
    ]
}
