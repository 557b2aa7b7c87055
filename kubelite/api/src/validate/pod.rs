//! Pods and pod templates.

use serde_json::Value;

use super::container;
use super::report::{Report, list, text};
use crate::names;

const UPDATE_TEXT: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(super) fn pod(report: &mut Report, new: &Value, old: Option<&Value>) {
    let spec = new.get("spec").unwrap_or(&Value::Null);
    pod_spec(report, "spec", spec);
    if let Some(old) = old {
        update(report, spec, old.get("spec").unwrap_or(&Value::Null));
    }
}

/// A pod's spec at `path`.
pub(super) fn pod_spec(report: &mut Report, path: &str, spec: &Value) {
    let volumes = volumes(report, path, spec);
    container::all(report, path, spec, &volumes);
    report.one_of(
        format!("{path}.restartPolicy"),
        text(spec, "/restartPolicy"),
        &["Always", "Never", "OnFailure"],
    );
    let dns = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    report.one_of(format!("{path}.dnsPolicy"), text(spec, "/dnsPolicy"), &dns);
    if text(spec, "/dnsPolicy") == "None" && list(spec, "/dnsConfig/nameservers").is_empty() {
        let field = format!("{path}.dnsConfig.nameservers");
        report.required(field, "must provide at least one DNS nameserver when `dnsPolicy` is None");
    }
    let grace = spec.get("terminationGracePeriodSeconds");
    report.not_negative(format!("{path}.terminationGracePeriodSeconds"), grace);
    if let Some(deadline) = spec.get("activeDeadlineSeconds").filter(|d| d.as_i64().is_none_or(|d| d < 1)) {
        let text = "must be between 1 and 2147483647, inclusive";
        report.invalid(format!("{path}.activeDeadlineSeconds"), deadline, text);
    }
    for (field, rule) in [
        ("nodeName", names::dns1123_subdomain as fn(&str) -> Vec<String>),
        ("serviceAccountName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
    ] {
        let value = text(spec, &format!("/{field}"));
        if !value.is_empty() {
            report.each(&format!("{path}.{field}"), value, &rule(value));
        }
    }
    super::meta::labels(report, spec, "/nodeSelector", &format!("{path}.nodeSelector"));
    tolerations(report, path, spec);
}

/// The names of the volumes.
fn volumes<'a>(report: &mut Report, path: &str, spec: &'a Value) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for (i, volume) in list(spec, "/volumes").iter().enumerate() {
        let (at, name) = (format!("{path}.volumes[{i}]"), text(volume, "/name"));
        if name.is_empty() {
            report.required(format!("{at}.name"), "");
        } else {
            report.each(&format!("{at}.name"), name, &names::dns1123_label(name));
        }
        if seen.contains(&name) {
            report.duplicate(format!("{at}.name"), &name.into());
        }
        let sources = volume.as_object().map_or(0, |v| v.keys().filter(|k| *k != "name").count());
        match sources {
            0 => report.required(&at, "must specify a volume type"),
            1 => {}
            _ => report.forbidden(&at, "may not specify more than 1 volume type"),
        }
        seen.push(name);
    }
    seen
}

fn tolerations(report: &mut Report, path: &str, spec: &Value) {
    for (i, toleration) in list(spec, "/tolerations").iter().enumerate() {
        let at = format!("{path}.tolerations[{i}]");
        let (key, operator) = (text(toleration, "/key"), text(toleration, "/operator"));
        if key.is_empty() && operator != "Exists" {
            let detail =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            report.invalid(format!("{at}.operator"), &operator.into(), detail);
        }
        if !key.is_empty() {
            report.each(&format!("{at}.key"), key, &names::label_key(key));
        }
        if operator == "Exists" && !text(toleration, "/value").is_empty() {
            let value = text(toleration, "/value");
            report.invalid(
                format!("{at}.operator"),
                &value.into(),
                "value must be empty when `operator` is 'Exists'",
            );
        }
        let effect = text(toleration, "/effect");
        if !effect.is_empty() {
            report.one_of(format!("{at}.effect"), effect, &["NoExecute", "NoSchedule", "PreferNoSchedule"]);
        }
    }
}

/// Nearly all of a pod's spec is what it was made with.
fn update(report: &mut Report, new: &Value, old: &Value) {
    let count = |spec: &Value, field: &str| list(spec, field).len();
    for field in ["containers", "initContainers"] {
        let pointer = format!("/{field}");
        if count(new, &pointer) != count(old, &pointer) {
            report.forbidden(format!("spec.{field}"), "pod updates may not add or remove containers");
            return;
        }
    }
    let olds = list(old, "/tolerations");
    if !olds.iter().all(|toleration| list(new, "/tolerations").contains(toleration)) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        report.forbidden("spec.tolerations", detail);
    }
    let gates = list(old, "/schedulingGates");
    if list(new, "/schedulingGates").iter().any(|gate| !gates.contains(gate)) {
        report.forbidden("spec.schedulingGates", "only deletion is allowed, but found new scheduling gates");
    }
    if fixed(new) != fixed(old) {
        report.forbidden("spec", UPDATE_TEXT);
    }
}

/// The spec without what may change.
fn fixed(spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let Value::Object(fields) = &mut spec {
        for free in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
            fields.remove(free);
        }
        if fields.get("terminationGracePeriodSeconds").and_then(Value::as_i64).is_some_and(|s| s < 0) {
            fields.insert("terminationGracePeriodSeconds".into(), 1.into());
        }
        for lists in ["containers", "initContainers"] {
            let containers = fields.get_mut(lists).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
                container.remove("image");
            }
        }
    }
    spec
}
