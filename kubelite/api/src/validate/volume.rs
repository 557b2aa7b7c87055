//! Persistent volumes and claims.

use serde_json::Value;

use super::report::{Report, entries, list, text};
use crate::quantity::Quantity;

const MODES: [&str; 4] = ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"];
const CLAIM_UPDATE: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
/// What of a volume's spec is no source of it.
const NO_SOURCE: [&str; 9] = [
    "capacity",
    "accessModes",
    "claimRef",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "mountOptions",
    "volumeMode",
    "nodeAffinity",
    "volumeAttributesClassName",
];

pub(super) fn claim(report: &mut Report, new: &Value, old: Option<&Value>) {
    claim_spec(report, new.get("spec").unwrap_or(&Value::Null), "spec");
    let Some(old) = old else { return };
    if fixed_claim(new, old) != fixed_claim(old, old) {
        report.forbidden("spec", CLAIM_UPDATE);
    }
    let request = |claim: &Value| text(claim, "/spec/resources/requests/storage").parse::<Quantity>().ok();
    let bound = text(old, "/status/phase") == "Bound";
    if request(new) != request(old) && !bound {
        report.forbidden("spec", CLAIM_UPDATE);
    }
    if bound && request(new).zip(request(old)).is_some_and(|(new, old)| new < old) {
        report.forbidden("spec.resources.requests.storage", "field can not be less than status.capacity");
    }
}

/// A claim's spec at `path`, also that of a StatefulSet's template.
fn claim_spec(report: &mut Report, spec: &Value, path: &str) {
    modes(report, spec, path);
    let at = format!("{path}.resources.requests.storage");
    match spec.pointer("/resources/requests/storage") {
        None => report.required(format!("{path}.resources[storage]"), ""),
        Some(size) => positive(report, size, &at),
    }
    report.one_of(format!("{path}.volumeMode"), text(spec, "/volumeMode"), &["Block", "Filesystem"]);
}

/// The spec without what may change. A volume is named once, by the binder.
fn fixed_claim(claim: &Value, old: &Value) -> Value {
    let mut spec = claim.get("spec").cloned().unwrap_or(Value::Null);
    if let Some(fields) = spec.as_object_mut() {
        fields.remove("volumeAttributesClassName");
        if text(old, "/spec/volumeName").is_empty() {
            fields.remove("volumeName");
        }
        if let Some(requests) = fields.get_mut("resources").and_then(|r| r.get_mut("requests")) {
            requests.as_object_mut().map(|requests| requests.remove("storage"));
        }
    }
    spec
}

pub(super) fn volume(report: &mut Report, new: &Value, old: Option<&Value>) {
    let spec = new.get("spec").unwrap_or(&Value::Null);
    modes(report, spec, "spec");
    if entries(spec, "/capacity").next().is_none() {
        report.required("spec.capacity", "");
    }
    for (resource, size) in entries(spec, "/capacity") {
        positive(report, size, &format!("spec.capacity[{resource}]"));
    }
    match sources(new).len() {
        0 => report.required("spec", "must specify a volume type"),
        1 => {}
        _ => report.forbidden("spec", "may not specify more than 1 volume type"),
    }
    let policies = ["Delete", "Recycle", "Retain"];
    report.one_of(
        "spec.persistentVolumeReclaimPolicy",
        text(spec, "/persistentVolumeReclaimPolicy"),
        &policies,
    );
    report.one_of("spec.volumeMode", text(spec, "/volumeMode"), &["Block", "Filesystem"]);
    if let Some(old) = old {
        if sources(new) != sources(old) {
            report.forbidden(
                "spec.persistentvolumesource",
                "spec.persistentvolumesource is immutable after creation",
            );
        }
        report.immutable("spec.volumeMode", spec.get("volumeMode"), old.pointer("/spec/volumeMode"));
    }
}

fn sources(volume: &Value) -> Vec<(&str, &Value)> {
    entries(volume, "/spec").filter(|(field, _)| !NO_SOURCE.contains(field)).collect()
}

fn modes(report: &mut Report, spec: &Value, path: &str) {
    let modes = list(spec, "/accessModes");
    if modes.is_empty() {
        report.required(format!("{path}.accessModes"), "at least 1 access mode is required");
    }
    for mode in modes {
        report.one_of(format!("{path}.accessModes"), mode.as_str().unwrap_or_default(), &MODES);
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        let detail = "may not use ReadWriteOncePod with other access modes";
        report.forbidden(format!("{path}.accessModes"), detail);
    }
}

fn positive(report: &mut Report, size: &Value, at: &str) {
    let parsed = size.as_str().and_then(|text| text.parse::<Quantity>().ok());
    if parsed.is_some_and(|size| size.is_zero() || size.is_negative()) {
        report.invalid(at, size, "must be greater than zero");
    }
}
