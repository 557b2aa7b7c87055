//! OpenAPI v3: the schemas with their descriptions, for `kubectl explain` and for clients that validate or merge.
//!
//! A document is made when it is asked for and kept by nobody here: descriptions are megabytes, and the compact trees
//! of `schema` do without them. Paths and the document's head are the apiserver's.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::merge_keys;
use crate::schema::roots::{self, ROOTS, Root};

const REFERENCE: &str = "#/components/schemas/";

/// The `components` of a document that has these definitions and all that they refer to: `{"schemas": {…}}`.
pub fn components<'a>(definitions: impl IntoIterator<Item = &'a str>) -> Value {
    let mut wanted: Vec<String> = definitions.into_iter().map(str::to_owned).collect();
    // A root's definitions are generated only if it is asked for; what is no root lies below some root.
    let names: Vec<String> = ROOTS.iter().map(|r| (r.definition)()).collect();
    let asked = |name: &String| wanted.contains(name) || !wanted.iter().all(|w| names.contains(w));
    let all = roots::generate(ROOTS.iter().zip(&names).filter(|(_, name)| asked(name)).map(|(root, _)| root));
    let kinds = kinds(ROOTS);
    let mut schemas = Map::new();
    while let Some(name) = wanted.pop() {
        let Some(schema) = all.get(&name).filter(|_| !schemas.contains_key(&name)) else { continue };
        let mut schema = schema.clone();
        references(&schema, &mut wanted);
        annotate(&name, &mut schema);
        if let Some(kinds) = kinds.get(&name) {
            schema["x-kubernetes-group-version-kind"] = Value::Array(kinds.clone());
        }
        schemas.insert(name, schema);
    }
    json!({"schemas": schemas})
}

/// The definitions of all root kinds of a group and version; `group` is empty for core.
pub fn definitions_of(group: &str, version: &str) -> BTreeSet<String> {
    ROOTS.iter().filter(|r| r.group == group && r.version == version).map(|r| (r.definition)()).collect()
}

fn kinds(roots: &[Root]) -> BTreeMap<String, Vec<Value>> {
    let mut kinds = BTreeMap::new();
    for root in roots {
        let kind = json!({"group": root.group, "version": root.version, "kind": root.kind});
        kinds.entry((root.definition)()).or_insert_with(Vec::new).push(kind);
    }
    kinds
}

/// The names of the definitions that a schema refers to.
fn references(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            let name = map.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(REFERENCE));
            found.extend(name.map(str::to_owned));
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

/// Adds how fields are merged, and brings references into the form that kubectl reads.
fn annotate(definition: &str, schema: &mut Value) {
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    // Only the names are required that a type requires; a root kind may come without metadata.
    let root = properties.contains_key("apiVersion") && properties.contains_key("kind");
    for (name, field) in properties.iter_mut() {
        wrap_reference(field);
        let Some(rule) = merge_keys::lookup(definition, name) else { continue };
        for (key, value) in [
            ("x-kubernetes-patch-strategy", rule.patch_strategy),
            ("x-kubernetes-patch-merge-key", rule.merge_key),
            ("x-kubernetes-list-type", rule.list_type),
        ] {
            if !value.is_empty() {
                field[key] = json!(value);
            }
        }
        if !rule.list_map_keys.is_empty() {
            field["x-kubernetes-list-map-keys"] = json!(rule.list_map_keys);
        }
    }
    if let (true, Some(Value::Array(required))) = (root, schema.get_mut("required")) {
        required.retain(|field| field != "metadata");
        if required.is_empty()
            && let Some(schema) = schema.as_object_mut()
        {
            schema.remove("required");
        }
    }
}

/// In OpenAPI 3.0 nothing may stand beside a `$ref`; a described reference is an `allOf` of one.
fn wrap_reference(field: &mut Value) {
    let Value::Object(map) = field else { return };
    if map.len() > 1
        && let Some(reference) = map.remove("$ref")
    {
        map.insert("allOf".into(), json!([{"$ref": reference}]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_closed_and_annotated() {
        let document = components(definitions_of("apps", "v1").iter().map(String::as_str));
        let schemas = document["schemas"].as_object().unwrap();
        let mut wanted = Vec::new();
        references(&document, &mut wanted);
        assert!(!wanted.is_empty() && wanted.iter().all(|name| schemas.contains_key(name)));
        let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
        assert_eq!(
            deployment["x-kubernetes-group-version-kind"],
            json!([{"group": "apps", "version": "v1", "kind": "Deployment"}])
        );
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
        assert!(containers["description"].as_str().is_some_and(|d| d.len() > 20));
        assert!(deployment["properties"]["spec"]["description"].is_string());
        assert!(!schemas.contains_key("io.k8s.api.core.v1.Service"));
    }
}
