//! Kinds whose rules are few.

use serde_json::Value;

use super::report::{Report, entries, list, text};
use crate::names;

/// The most that a ConfigMap or a Secret may hold.
const DATA_MAX: usize = 1 << 20;

/// For kinds whose metadata is all that is checked.
pub(super) fn nothing(_: &mut Report, _: &Value, _: Option<&Value>) {}

pub(super) fn config_map(report: &mut Report, new: &Value, old: Option<&Value>) {
    let mut size = data(report, new, "data", str::len);
    size += data(report, new, "binaryData", decoded);
    for (key, _) in entries(new, "/data") {
        if new.pointer("/binaryData").and_then(|b| b.get(key)).is_some() {
            report.invalid(format!("data[{key}]"), &key.into(), "duplicate of key present in binaryData");
        }
    }
    if size > DATA_MAX {
        report.too_long("", DATA_MAX);
    }
    frozen(report, new, old, &["data", "binaryData"]);
}

pub(super) fn secret(report: &mut Report, new: &Value, old: Option<&Value>) {
    if data(report, new, "data", decoded) > DATA_MAX {
        report.too_long("data", DATA_MAX);
    }
    let needed: &[&str] = match text(new, "/type") {
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        _ => &[],
    };
    for key in needed {
        if new.pointer("/data").and_then(|d| d.get(*key)).is_none() {
            report.required(format!("data[{key}]"), "");
        }
    }
    frozen(report, new, old, &["data"]);
    if let Some(old) = old {
        report.immutable("type", new.get("type"), old.get("type"));
    }
}

/// How many bytes base64 text stands for.
fn decoded(text: &str) -> usize {
    text.trim_end_matches('=').len() * 3 / 4
}

/// Checks the keys and counts the bytes.
fn data(report: &mut Report, object: &Value, field: &str, size: fn(&str) -> usize) -> usize {
    let mut total = 0;
    for (key, value) in entries(object, &format!("/{field}")) {
        report.each(&format!("{field}[{key}]"), key, &names::config_key(key));
        total += value.as_str().map_or(0, size);
    }
    total
}

/// What is immutable stays so, with its data.
fn frozen(report: &mut Report, new: &Value, old: Option<&Value>, fields: &[&str]) {
    let Some(old) = old.filter(|old| old.get("immutable") == Some(&Value::Bool(true))) else { return };
    let detail = "field is immutable when `immutable` is set";
    if new.get("immutable") != Some(&Value::Bool(true)) {
        report.forbidden("immutable", detail);
    }
    for field in fields {
        if new.get(*field) != old.get(*field) {
            report.forbidden(*field, detail);
        }
    }
}

pub(super) fn node(report: &mut Report, new: &Value, old: Option<&Value>) {
    for (i, taint) in list(new, "/spec/taints").iter().enumerate() {
        let (at, key) = (format!("spec.taints[{i}]"), text(taint, "/key"));
        report.each(&format!("{at}.key"), key, &names::qualified_name(key));
        let value = text(taint, "/value");
        report.each(&format!("{at}.value"), value, &names::label_value(value));
        let effects = ["NoExecute", "NoSchedule", "PreferNoSchedule"];
        report.one_of(format!("{at}.effect"), text(taint, "/effect"), &effects);
    }
    for field in ["podCIDR", "providerID"] {
        let was = old.map_or("", |old| text(old, &format!("/spec/{field}")));
        if !was.is_empty() && was != text(new, &format!("/spec/{field}")) {
            let detail = "node updates may not change podCIDR or providerID except from \"\" to valid";
            report.forbidden(format!("spec.{field}"), detail);
        }
    }
}

pub(super) fn lease(report: &mut Report, new: &Value, _: Option<&Value>) {
    let seconds = new.pointer("/spec/leaseDurationSeconds");
    if let Some(seconds) = seconds.filter(|s| s.as_i64().is_some_and(|s| s <= 0)) {
        report.invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0");
    }
    report.not_negative("spec.leaseTransitions", new.pointer("/spec/leaseTransitions"));
}

pub(super) fn role(report: &mut Report, new: &Value, _: Option<&Value>) {
    for (i, rule) in list(new, "/rules").iter().enumerate() {
        let at = format!("rules[{i}]");
        if list(rule, "/verbs").is_empty() {
            report.required(format!("{at}.verbs"), "verbs must contain at least one value");
        }
        let urls = !list(rule, "/nonResourceURLs").is_empty();
        if urls && !list(rule, "/resources").is_empty() {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            report.invalid(format!("{at}.nonResourceURLs"), &rule["nonResourceURLs"], detail);
        }
        if !urls && list(rule, "/apiGroups").is_empty() {
            report.required(format!("{at}.apiGroups"), "resource rules must supply at least one api group");
        }
        if !urls && list(rule, "/resources").is_empty() {
            report.required(format!("{at}.resources"), "resource rules must supply at least one resource");
        }
    }
}

pub(super) fn binding(report: &mut Report, new: &Value, old: Option<&Value>) {
    report.one_of("roleRef.apiGroup", text(new, "/roleRef/apiGroup"), &["rbac.authorization.k8s.io"]);
    report.one_of("roleRef.kind", text(new, "/roleRef/kind"), &["ClusterRole", "Role"]);
    if text(new, "/roleRef/name").is_empty() {
        report.required("roleRef.name", "");
    }
    for (i, subject) in list(new, "/subjects").iter().enumerate() {
        let (at, kind) = (format!("subjects[{i}]"), text(subject, "/kind"));
        report.one_of(format!("{at}.kind"), kind, &["Group", "ServiceAccount", "User"]);
        if text(subject, "/name").is_empty() {
            report.required(format!("{at}.name"), "");
        }
        if kind == "ServiceAccount" && text(subject, "/namespace").is_empty() {
            report.required(format!("{at}.namespace"), "");
        }
    }
    if old.is_some_and(|old| old.get("roleRef") != new.get("roleRef")) {
        let role = new.get("roleRef").unwrap_or(&Value::Null);
        report.invalid("roleRef", role, "cannot change roleRef");
    }
}
