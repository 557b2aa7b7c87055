//! Thin views of an object that is a JSON tree: the parts of its metadata that generic code reads and writes.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::scalar;

/// `metadata`, if it is an object.
pub fn metadata(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata")?.as_object()
}

/// `metadata` for writing. Made if it is missing; `None` only if `object` is no object.
pub fn metadata_mut(object: &mut Value) -> Option<&mut Map<String, Value>> {
    let metadata = object.as_object_mut()?.entry("metadata").or_insert(Value::Null);
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    metadata.as_object_mut()
}

/// A text of the metadata; empty if it isn't there.
pub fn meta_str<'a>(object: &'a Value, field: &str) -> &'a str {
    metadata(object).and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// Sets a field of the metadata.
pub fn set_meta(object: &mut Value, field: &str, value: impl Into<Value>) {
    if let Some(metadata) = metadata_mut(object) {
        metadata.insert(field.to_owned(), value.into());
    }
}

/// Removes a field of the metadata.
pub fn remove_meta(object: &mut Value, field: &str) -> Option<Value> {
    metadata_mut(object)?.remove(field)
}

/// `metadata.name`
pub fn name(object: &Value) -> &str {
    meta_str(object, "name")
}

/// Sets `metadata.name`.
pub fn set_name(object: &mut Value, name: &str) {
    set_meta(object, "name", name);
}

/// `metadata.generateName`
pub fn generate_name(object: &Value) -> &str {
    meta_str(object, "generateName")
}

/// `metadata.namespace`
pub fn namespace(object: &Value) -> &str {
    meta_str(object, "namespace")
}

/// Sets `metadata.namespace`; an empty one is removed.
pub fn set_namespace(object: &mut Value, namespace: &str) {
    if namespace.is_empty() {
        remove_meta(object, "namespace");
    } else {
        set_meta(object, "namespace", namespace);
    }
}

/// `metadata.uid`
pub fn uid(object: &Value) -> &str {
    meta_str(object, "uid")
}

/// Sets `metadata.uid`.
pub fn set_uid(object: &mut Value, uid: &str) {
    set_meta(object, "uid", uid);
}

/// `metadata.resourceVersion`
pub fn resource_version(object: &Value) -> &str {
    meta_str(object, "resourceVersion")
}

/// Sets `metadata.resourceVersion`; an empty one is removed.
pub fn set_resource_version(object: &mut Value, version: &str) {
    if version.is_empty() {
        remove_meta(object, "resourceVersion");
    } else {
        set_meta(object, "resourceVersion", version);
    }
}

/// `metadata.generation`, 0 if it isn't there.
pub fn generation(object: &Value) -> i64 {
    metadata(object).and_then(|m| m.get("generation")).and_then(Value::as_i64).unwrap_or(0)
}

/// Sets `metadata.generation`.
pub fn set_generation(object: &mut Value, generation: i64) {
    set_meta(object, "generation", generation);
}

/// `metadata.labels`
pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    metadata(object)?.get("labels")?.as_object()
}

/// One label.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    labels(object)?.get(key)?.as_str()
}

/// `metadata.annotations`
pub fn annotations(object: &Value) -> Option<&Map<String, Value>> {
    metadata(object)?.get("annotations")?.as_object()
}

/// One annotation.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    annotations(object)?.get(key)?.as_str()
}

/// Sets one annotation.
pub fn set_annotation(object: &mut Value, key: &str, value: &str) {
    let Some(metadata) = metadata_mut(object) else { return };
    let annotations = metadata.entry("annotations").or_insert(Value::Null);
    if !annotations.is_object() {
        *annotations = Value::Object(Map::new());
    }
    if let Value::Object(annotations) = annotations {
        annotations.insert(key.to_owned(), value.into());
    }
}

/// `metadata.creationTimestamp`
pub fn creation_timestamp(object: &Value) -> Option<Timestamp> {
    metadata(object)?.get("creationTimestamp").and_then(scalar::time_of)
}

/// Sets `metadata.creationTimestamp`.
pub fn set_creation_timestamp(object: &mut Value, time: Timestamp) {
    set_meta(object, "creationTimestamp", scalar::format_time(time));
}

/// `metadata.deletionTimestamp`
pub fn deletion_timestamp(object: &Value) -> Option<Timestamp> {
    metadata(object)?.get("deletionTimestamp").and_then(scalar::time_of)
}

/// Sets `metadata.deletionTimestamp`.
pub fn set_deletion_timestamp(object: &mut Value, time: Timestamp) {
    set_meta(object, "deletionTimestamp", scalar::format_time(time));
}

/// `metadata.finalizers`
pub fn finalizers(object: &Value) -> Vec<&str> {
    let list = metadata(object).and_then(|m| m.get("finalizers")).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Sets `metadata.finalizers`; none at all removes the field.
pub fn set_finalizers(object: &mut Value, finalizers: &[&str]) {
    if finalizers.is_empty() {
        remove_meta(object, "finalizers");
    } else {
        set_meta(object, "finalizers", finalizers.to_vec());
    }
}

/// `metadata.ownerReferences`
pub fn owner_references(object: &Value) -> &[Value] {
    let list = metadata(object).and_then(|m| m.get("ownerReferences")).and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}

/// The owner that manages this object.
pub fn controller(object: &Value) -> Option<&Value> {
    owner_references(object).iter().find(|o| o.get("controller") == Some(&Value::Bool(true)))
}
