//! StatefulSets: what they have beside a template and a selector, and what of it may change.

use serde_json::{Value, json};

use super::report::{Report, list, text};
use super::workload;

/// What an update may change.
const FREE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];
const UPDATE_TEXT: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

pub(super) fn stateful_set(report: &mut Report, new: &Value, old: Option<&Value>) {
    workload::selector(report, new);
    workload::template(report, &with_claims(new), "spec.template", true);
    report.not_negative("spec.ordinals.start", new.pointer("/spec/ordinals/start"));
    let management = text(new, "/spec/podManagementPolicy");
    if !matches!(management, "OrderedReady" | "Parallel") {
        let detail = "must be 'OrderedReady' or 'Parallel'";
        report.invalid("spec.podManagementPolicy", &management.into(), detail);
    }
    update_strategy(report, new);
    for field in ["whenDeleted", "whenScaled"] {
        let policy = text(new, &format!("/spec/persistentVolumeClaimRetentionPolicy/{field}"));
        let at = format!("spec.persistentVolumeClaimRetentionPolicy.{field}");
        report.one_of(at, policy, &["Retain", "Delete"]);
    }
    if new.pointer("/spec/template/spec/activeDeadlineSeconds").is_some() {
        let detail = "activeDeadlineSeconds in StatefulSet is not Supported";
        report.forbidden("spec.template.spec.activeDeadlineSeconds", detail);
    }
    if old.is_some_and(|old| fixed(old) != fixed(new)) {
        report.forbidden("spec", UPDATE_TEXT);
    }
}

/// The template with the volumes that each pod gets from its own claims, which containers may mount.
fn with_claims(set: &Value) -> Value {
    let mut template = set.pointer("/spec/template").cloned().unwrap_or(Value::Null);
    let names: Vec<&str> =
        list(set, "/spec/volumeClaimTemplates").iter().map(|c| text(c, "/metadata/name")).collect();
    let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) else { return template };
    let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
    if let Some(volumes) = volumes.as_array_mut() {
        volumes.retain(|volume| !names.contains(&text(volume, "/name")));
        volumes.extend(
            names.iter().map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}})),
        );
    }
    template
}

fn update_strategy(report: &mut Report, new: &Value) {
    let at = "spec.updateStrategy";
    let rolling = new.pointer("/spec/updateStrategy/rollingUpdate").filter(|r| !r.is_null());
    match text(new, "/spec/updateStrategy/type") {
        "RollingUpdate" => {
            let Some(rolling) = rolling else { return };
            report.not_negative(format!("{at}.rollingUpdate.partition"), rolling.get("partition"));
            let unavailable = format!("{at}.rollingUpdate.maxUnavailable");
            report.share(&unavailable, rolling.get("maxUnavailable"));
            if let Some(zero) = rolling.get("maxUnavailable").filter(|v| **v == 0 || **v == "0%") {
                report.invalid(unavailable, zero, "cannot be 0");
            }
        }
        "OnDelete" => {
            if let Some(rolling) = rolling {
                let detail = "only allowed for updateStrategy 'RollingUpdate'";
                report.invalid(format!("{at}.rollingUpdate"), rolling, detail);
            }
        }
        "" => report.required(format!("{at}.type"), ""),
        other => report.invalid(at, &other.into(), "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

/// The spec without what may change.
fn fixed(object: &Value) -> Value {
    let mut spec = object.get("spec").cloned().unwrap_or(Value::Null);
    if let Some(fields) = spec.as_object_mut() {
        fields.retain(|field, _| !FREE.contains(&field.as_str()));
    }
    spec
}
