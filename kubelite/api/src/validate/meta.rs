//! The metadata that all objects share.

use serde_json::Value;

use super::NameRule;
use super::report::{Report, entries, list, text};
use crate::names;

/// All annotations of an object together.
const ANNOTATIONS_MAX: usize = 256 << 10;

pub(super) fn metadata(report: &mut Report, rule: NameRule, new: &Value, old: Option<&Value>) {
    let name = text(new, "/metadata/name");
    if name.is_empty() {
        report.required("metadata.name", "name or generateName is required");
    } else {
        report.each("metadata.name", name, &rule(name));
    }
    let namespace = text(new, "/metadata/namespace");
    if !namespace.is_empty() {
        report.each("metadata.namespace", namespace, &names::dns1123_label(namespace));
    }
    labels(report, new, "/metadata/labels", "metadata.labels");
    annotations(report, new, "/metadata/annotations", "metadata.annotations");
    for (i, finalizer) in list(new, "/metadata/finalizers").iter().enumerate() {
        let finalizer = finalizer.as_str().unwrap_or_default();
        let problems = names::qualified_name(finalizer);
        report.each(&format!("metadata.finalizers[{i}]"), finalizer, &problems);
    }
    owners(report, new);
    if let Some(old) = old {
        for field in ["name", "namespace", "uid", "creationTimestamp"] {
            let of = |object: &Value| object.pointer(&format!("/metadata/{field}")).cloned();
            report.immutable(&format!("metadata.{field}"), of(new).as_ref(), of(old).as_ref());
        }
    }
}

/// A map of labels.
pub(super) fn labels(report: &mut Report, object: &Value, pointer: &str, field: &str) {
    for (key, value) in entries(object, pointer) {
        report.each(field, key, &names::label_key(key));
        let value = value.as_str().unwrap_or_default();
        report.each(field, value, &names::label_value(value));
    }
}

/// A map of annotations.
pub(super) fn annotations(report: &mut Report, object: &Value, pointer: &str, field: &str) {
    let mut size = 0;
    for (key, value) in entries(object, pointer) {
        report.each(field, key, &names::annotation_key(key));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_MAX {
        report.too_long(field, ANNOTATIONS_MAX);
    }
}

fn owners(report: &mut Report, object: &Value) {
    let mut controllers = 0;
    for (i, owner) in list(object, "/metadata/ownerReferences").iter().enumerate() {
        let path = format!("metadata.ownerReferences[{i}]");
        let required = [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ];
        for (field, problem) in required {
            if text(owner, &format!("/{field}")).is_empty() {
                report.invalid(format!("{path}.{field}"), &"".into(), problem);
            }
        }
        if text(owner, "/apiVersion") == "v1" && text(owner, "/kind") == "Event" {
            report.invalid(&path, owner, "/v1, Kind=Event is disallowed from being an owner");
        }
        controllers += usize::from(owner.get("controller") == Some(&Value::Bool(true)));
    }
    if controllers > 1 {
        let owners = object.pointer("/metadata/ownerReferences").unwrap_or(&Value::Null);
        report.invalid(
            "metadata.ownerReferences",
            owners,
            "Only one reference can have Controller set to true.",
        );
    }
}
