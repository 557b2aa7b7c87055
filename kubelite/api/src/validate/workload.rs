//! The kinds that have a pod template and a selector.

use std::collections::BTreeMap;

use serde_json::Value;

use super::report::{Report, entries, text};
use super::{meta, pod};
use crate::labels::LabelSelector;

pub(super) const MISMATCH: &str = "`selector` does not match template `labels`";

pub(super) fn labels_of(object: &Value, pointer: &str) -> BTreeMap<String, String> {
    entries(object, pointer).map(|(k, v)| (k.to_owned(), v.as_str().unwrap_or_default().to_owned())).collect()
}

/// A template at `pointer` (its path is `path`), whose pods must always restart.
pub(super) fn template(report: &mut Report, template: &Value, path: &str, always: bool) {
    let at = format!("{path}.metadata.labels");
    meta::labels(report, template, "/metadata/labels", &at);
    meta::annotations(report, template, "/metadata/annotations", &format!("{path}.metadata.annotations"));
    let spec = template.get("spec").unwrap_or(&Value::Null);
    pod::pod_spec(report, &format!("{path}.spec"), spec);
    let policy = text(spec, "/restartPolicy");
    if always && matches!(policy, "Never" | "OnFailure") {
        report.one_of(format!("{path}.spec.restartPolicy"), policy, &["Always"]);
    }
}

pub(super) fn pod_template(report: &mut Report, new: &Value, _: Option<&Value>) {
    template(report, new.get("template").unwrap_or(&Value::Null), "template", false);
}

/// ReplicaSet, DaemonSet, and the base of Deployment and StatefulSet.
pub(super) fn selecting(report: &mut Report, new: &Value, old: Option<&Value>) {
    selector(report, new);
    template(report, new.pointer("/spec/template").unwrap_or(&Value::Null), "spec.template", true);
    if let Some(old) = old {
        report.immutable("spec.selector", new.pointer("/spec/selector"), old.pointer("/spec/selector"));
    }
}

/// The numbers that all have, and a selector that selects what the template makes.
pub(super) fn selector(report: &mut Report, new: &Value) {
    report.not_negative("spec.replicas", new.pointer("/spec/replicas"));
    report.not_negative("spec.minReadySeconds", new.pointer("/spec/minReadySeconds"));
    report.not_negative("spec.revisionHistoryLimit", new.pointer("/spec/revisionHistoryLimit"));
    let labels = labels_of(new, "/spec/template/metadata/labels");
    match new.pointer("/spec/selector").filter(|s| !s.is_null()) {
        None => report.required("spec.selector", ""),
        Some(selector) => match LabelSelector::from_value(selector) {
            Err(error) => report.invalid("spec.selector", selector, &error.to_string()),
            Ok(parsed) if parsed.is_empty() => {
                let kind = match text(new, "/kind") {
                    "DaemonSet" => "daemonset",
                    "StatefulSet" => "statefulset",
                    _ => "deployment", // Upstream says so of a ReplicaSet, too.
                };
                report.invalid("spec.selector", selector, &format!("empty selector is invalid for {kind}"));
            }
            Ok(parsed) if !parsed.matches(&labels) => {
                let found = new.pointer("/spec/template/metadata/labels").unwrap_or(&Value::Null);
                report.invalid("spec.template.metadata.labels", found, MISMATCH);
            }
            Ok(_) => {}
        },
    }
}

pub(super) fn deployment(report: &mut Report, new: &Value, old: Option<&Value>) {
    selecting(report, new, old);
    let kind = text(new, "/spec/strategy/type");
    report.one_of("spec.strategy.type", kind, &["Recreate", "RollingUpdate"]);
    let rolling = new.pointer("/spec/strategy/rollingUpdate");
    if rolling.is_some() && kind == "Recreate" {
        let detail = "may not be specified when strategy `type` is 'Recreate'";
        report.forbidden("spec.strategy.rollingUpdate", detail);
    }
    let zero = |field| rolling.and_then(|r| r.get(field)).is_some_and(|v| v == 0 || v == "0%");
    if kind == "RollingUpdate" && zero("maxUnavailable") && zero("maxSurge") {
        let value = rolling.and_then(|r| r.get("maxUnavailable")).unwrap_or(&Value::Null);
        report.invalid(
            "spec.strategy.rollingUpdate.maxUnavailable",
            value,
            "may not be 0 when `maxSurge` is 0",
        );
    }
    let (ready, deadline) = ("/spec/minReadySeconds", "/spec/progressDeadlineSeconds");
    let seconds = |pointer: &str| new.pointer(pointer).and_then(Value::as_i64);
    if let Some(deadline) = seconds(deadline).filter(|d| *d <= seconds(ready).unwrap_or(0)) {
        report.invalid(
            "spec.progressDeadlineSeconds",
            &deadline.into(),
            "must be greater than minReadySeconds",
        );
    }
}

pub(super) fn replication_controller(report: &mut Report, new: &Value, _: Option<&Value>) {
    report.not_negative("spec.replicas", new.pointer("/spec/replicas"));
    report.not_negative("spec.minReadySeconds", new.pointer("/spec/minReadySeconds"));
    let selector = labels_of(new, "/spec/selector");
    if selector.is_empty() {
        report.required("spec.selector", "");
    }
    let Some(pods) = new.pointer("/spec/template").filter(|t| !t.is_null()) else {
        report.required("spec.template", "");
        return;
    };
    let labels = labels_of(pods, "/metadata/labels");
    if !selector.iter().all(|(key, value)| labels.get(key) == Some(value)) {
        let found = pods.pointer("/metadata/labels").unwrap_or(&Value::Null);
        report.invalid("spec.template.metadata.labels", found, MISMATCH);
    }
    template(report, pods, "spec.template", true);
}
