//! Jobs: their numbers, their policies, and what of them may change.

use std::collections::BTreeMap;

use serde_json::Value;

use super::report::{Report, int, text};
use super::workload::{self, MISMATCH, labels_of};
use super::{job_policy, names};
use crate::labels::LabelSelector;

/// Pods of one Indexed Job at the same time, and its failed indexes.
const MAX_INDEXED: i64 = 100_000;
/// The same, where each index has failures of its own and there are more than `MAX_INDEXED`.
const MAX_INDEXED_FAILURES: i64 = 10_000;
const MAX_MANAGED_BY: usize = 63;
const NUMBERS: [&str; 7] = [
    "parallelism",
    "completions",
    "activeDeadlineSeconds",
    "backoffLimit",
    "ttlSecondsAfterFinished",
    "backoffLimitPerIndex",
    "maxFailedIndexes",
];
/// What never changes, beside the template.
const FIXED: [&str; 6] =
    ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"];

pub(super) fn job(report: &mut Report, new: &Value, old: Option<&Value>) {
    let at_spec = new.get("spec").unwrap_or(&Value::Null);
    spec(report, at_spec, "spec");
    if old.is_none() {
        generated_selector(report, new);
        pod_names(report, new);
    }
    let labels = labels_of(new, "/spec/template/metadata/labels");
    match LabelSelector::from_value(at_spec.get("selector").unwrap_or(&Value::Null)) {
        Err(error) => report.invalid("spec.selector", &at_spec["selector"], &error.to_string()),
        Ok(_) if at_spec.get("selector").is_none_or(Value::is_null) => report.required("spec.selector", ""),
        Ok(selector) if !selector.matches(&labels) => {
            let found = new.pointer("/spec/template/metadata/labels").unwrap_or(&Value::Null);
            report.invalid("spec.template.metadata.labels", found, MISMATCH);
        }
        Ok(_) => {}
    }
    if let Some(old) = old {
        update(report, new, old);
    }
}

/// A Job's spec at `path`, also that of a CronJob's template.
pub(super) fn spec(report: &mut Report, spec: &Value, path: &str) {
    for field in NUMBERS {
        report.not_negative(format!("{path}.{field}"), spec.get(field));
    }
    let indexed = text(spec, "/completionMode") == "Indexed";
    if !text(spec, "/completionMode").is_empty() {
        report.one_of(
            format!("{path}.completionMode"),
            text(spec, "/completionMode"),
            &["NonIndexed", "Indexed"],
        );
    }
    let given = |field: &str| spec.get(field).is_some_and(|value| !value.is_null());
    if given("backoffLimitPerIndex") && !indexed {
        let detail = "requires indexed completion mode";
        report.invalid(format!("{path}.backoffLimitPerIndex"), &spec["backoffLimitPerIndex"], detail);
    }
    if given("maxFailedIndexes") && !given("backoffLimitPerIndex") {
        report.required(format!("{path}.backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if indexed {
        indexed_numbers(report, spec, path);
    }
    managed_by(report, text(spec, "/managedBy"), &format!("{path}.managedBy"));
    job_policy::policies(report, spec, path, indexed);
    workload::template(
        report,
        spec.get("template").unwrap_or(&Value::Null),
        &format!("{path}.template"),
        false,
    );
    let (at, policy) =
        (format!("{path}.template.spec.restartPolicy"), text(spec, "/template/spec/restartPolicy"));
    match policy {
        "Always" => report.required(at, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if given("podFailurePolicy") => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            report.invalid(at, &policy.into(), detail);
        }
        _ => {}
    }
}

fn indexed_numbers(report: &mut Report, spec: &Value, path: &str) {
    let (completions, parallelism) = (int(spec, "/completions"), int(spec, "/parallelism"));
    let failed = int(spec, "/maxFailedIndexes");
    if completions.is_none() {
        report.required(format!("{path}.completions"), "when completion mode is Indexed");
    }
    let mut at_most = |field: &str, value: Option<i64>, limit: i64, what: &str| {
        if let Some(value) = value.filter(|value| *value > limit) {
            report.invalid(
                format!("{path}.{field}"),
                &value.into(),
                &format!("must be less than or equal to {what}"),
            );
        }
    };
    let mode = format!("{MAX_INDEXED} when completion mode is Indexed");
    at_most("parallelism", parallelism, MAX_INDEXED, &mode);
    at_most("maxFailedIndexes", failed, completions.unwrap_or(i64::MAX), "completions");
    at_most("maxFailedIndexes", failed, MAX_INDEXED, &MAX_INDEXED.to_string());
    let many = completions.is_some_and(|completions| completions > MAX_INDEXED);
    if many && int(spec, "/backoffLimitPerIndex").is_some() {
        let what = format!(
            "{MAX_INDEXED_FAILURES} when completions are above {MAX_INDEXED} and used with backoff limit per index"
        );
        at_most("parallelism", parallelism, MAX_INDEXED_FAILURES, &what);
        at_most("maxFailedIndexes", failed, MAX_INDEXED_FAILURES, &what);
        if failed.is_none() {
            let detail = format!("must be specified when completions are above {MAX_INDEXED}");
            report.required(format!("{path}.maxFailedIndexes"), &detail);
        }
    }
}

/// `example.com/controller`
fn managed_by(report: &mut Report, value: &str, at: &str) {
    if value.is_empty() {
        return;
    }
    let Some((domain, path)) = value.split_once('/') else {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        return report.invalid(at, &value.into(), detail);
    };
    report.each(at, value, &names::dns1123_subdomain(domain));
    if path.is_empty()
        || !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._~!$&'()*+,;=:@%-".contains(&b))
    {
        report.invalid(at, &value.into(), "Invalid path");
    }
    if value.len() > MAX_MANAGED_BY {
        report.too_long(at, MAX_MANAGED_BY);
    }
}

/// What the server generates must not have been set to something else.
fn generated_selector(report: &mut Report, job: &Value) {
    if job.pointer("/spec/manualSelector") == Some(&Value::Bool(true)) {
        return;
    }
    let (uid, name) = (text(job, "/metadata/uid"), text(job, "/metadata/name"));
    let expected: BTreeMap<String, String> = [
        ("controller-uid", uid),
        ("batch.kubernetes.io/controller-uid", uid),
        ("job-name", name),
        ("batch.kubernetes.io/job-name", name),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();
    let labels = labels_of(job, "/spec/template/metadata/labels");
    for (key, value) in &expected {
        let (at, detail) = (format!("spec.template.metadata.labels[{key}]"), format!("must be '{value}'"));
        match labels.get(key) {
            None => report.required(at, &detail),
            Some(found) if found != value => report.invalid(at, &found.as_str().into(), &detail),
            Some(_) => {}
        }
    }
    let selector = job.pointer("/spec/selector").unwrap_or(&Value::Null);
    if LabelSelector::from_value(selector).is_ok_and(|selector| !selector.matches(&expected)) {
        report.invalid("spec.selector", selector, "`selector` not auto-generated");
    }
}

/// The pods of an Indexed Job are hosts of that name.
fn pod_names(report: &mut Report, job: &Value) {
    let last = int(job, "/spec/completions").unwrap_or(0) - 1;
    if text(job, "/spec/completionMode") != "Indexed" || last < 0 {
        return;
    }
    let name = text(job, "/metadata/name");
    for problem in names::dns1123_label(&format!("{name}-{last}")) {
        let detail = format!("will not able to create pod with invalid DNS hostname: {problem}");
        report.invalid("metadata.name", &name.into(), &detail);
    }
}

fn update(report: &mut Report, new: &Value, old: &Value) {
    let pair = |field: &str| (new.pointer(&format!("/spec/{field}")), old.pointer(&format!("/spec/{field}")));
    for field in FIXED {
        let (new, old) = pair(field);
        report.immutable(&format!("spec.{field}"), new, old);
    }
    let (completions, before) = pair("completions");
    if completions != before {
        let elastic = text(new, "/spec/completionMode") == "Indexed" && completions.is_some();
        if !elastic {
            report.immutable("spec.completions", completions, before);
        } else if completions != pair("parallelism").0 {
            let detail = "can only be modified in tandem with spec.parallelism";
            report.invalid("spec.completions", completions.unwrap_or(&Value::Null), detail);
        }
    }
    // Where the pods go may be decided until they are made (KEP-2926).
    let open = old.pointer("/spec/suspend") == Some(&Value::Bool(true))
        && old.pointer("/status/startTime").is_none();
    let fixed =
        |job: &Value| if open { without_directives(job) } else { job.pointer("/spec/template").cloned() };
    report.immutable("spec.template", fixed(new).as_ref(), fixed(old).as_ref());
}

/// The template without what says where its pods go.
fn without_directives(job: &Value) -> Option<Value> {
    let mut template = job.pointer("/spec/template")?.clone();
    for (part, fields) in [
        ("spec", &["affinity", "nodeSelector", "tolerations", "schedulingGates"][..]),
        ("metadata", &["labels", "annotations"][..]),
    ] {
        if let Some(part) = template.get_mut(part).and_then(Value::as_object_mut) {
            part.retain(|field, _| !fields.contains(&field.as_str()));
        }
    }
    if template.get("metadata").and_then(Value::as_object).is_some_and(serde_json::Map::is_empty)
        && let Some(template) = template.as_object_mut()
    {
        template.remove("metadata");
    }
    Some(template)
}
