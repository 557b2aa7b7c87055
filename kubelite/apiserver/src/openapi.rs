//! OpenAPI v3: an index, and a document for each group and version, made when it is asked for.
//!
//! Clients take two things from it: the schemas (`kubectl explain`), and whether a write understands `fieldValidation`.

use std::sync::Arc;

use axum::response::Response;
use http::StatusCode;
use kubelite_api::custom::definition;
use kubelite_api::openapi;
use serde_json::{Map, Value, json};

use crate::cache::{Caches, Entry};
use crate::http::{Format, respond_value};
use crate::resources::{Resource, by_plural};

/// The definition of every object's metadata.
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The answer for a path below `/openapi/v3`; none for others.
pub fn answer(caches: &Caches, path: &str) -> Option<Response> {
    let document = match path.strip_prefix("/openapi/v3")? {
        "" => index(caches),
        rest => {
            let (group, version) = versions(caches).find(|(g, v)| rest == below(g, v))?;
            document(caches, group, version)
        }
    };
    Some(respond_value(StatusCode::OK, &document, Format::Json))
}

fn below(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

fn versions(caches: &Caches) -> impl Iterator<Item = (&'static str, &'static str)> {
    caches
        .rows()
        .groups()
        .into_iter()
        .flat_map(|(group, versions)| versions.into_iter().map(move |v| (group, v)))
}

/// The definition of a custom row.
fn defined(caches: &Caches, row: &Resource) -> Option<Arc<Entry>> {
    let definitions = by_plural("customresourcedefinitions")?;
    caches.of(definitions).get(&definitions.key("", &row.qualified()))
}

/// The hash changes with the program or, where there are custom kinds, with their definitions.
fn index(caches: &Caches) -> Value {
    let paths: Map<String, Value> = versions(caches)
        .map(|(group, version)| {
            let path = below(group, version);
            let mut hash = env!("CARGO_PKG_VERSION").to_owned();
            for row in caches.rows().custom().iter().filter(|r| r.group == group && r.version == version) {
                if let Some(definition) = defined(caches, row) {
                    hash.push_str(&format!("-{}", definition.revision));
                }
            }
            let url = format!("/openapi/v3{path}?hash={hash}");
            (path.trim_start_matches('/').to_owned(), json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}

fn document(caches: &Caches, group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    let mut custom = Map::new();
    for resource in caches.rows().all().filter(|r| r.group == group && r.version == version) {
        if let Some(definition) = defined(caches, resource).filter(|_| resource.custom.is_some()) {
            let definition: Value = serde_json::from_slice(&definition.bytes).unwrap_or_default();
            let schema = definition::versions(&definition).iter().find(|v| v["name"] == version);
            let schema =
                schema.and_then(|v| v.pointer("/schema/openAPIV3Schema")).cloned().unwrap_or_default();
            custom.insert(definition_name(resource), whole(resource, schema));
        }
        let base = below(group, version);
        let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{base}{scope}/{}", resource.plural);
        paths.insert(collection.clone(), json!({"get": operation(resource, "list"), "post": operation(resource, "post"), "delete": operation(resource, "deletecollection")}));
        paths.insert(
            format!("{collection}/{{name}}"),
            json!({
                "get": operation(resource, "get"), "put": operation(resource, "put"),
                "patch": operation(resource, "patch"), "delete": operation(resource, "delete"),
            }),
        );
    }
    let mut definitions = openapi::definitions_of(group, version);
    if !custom.is_empty() {
        definitions.insert(OBJECT_META.to_owned());
    }
    let mut components = openapi::components(definitions.iter().map(String::as_str));
    if let Some(Value::Object(schemas)) = components.get_mut("schemas") {
        schemas.append(&mut custom);
    }
    json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths, "components": components,
    })
}

/// As upstream names it: `com.example.stable.v1.CronTab`.
fn definition_name(row: &Resource) -> String {
    let group: Vec<&str> = row.group.rsplit('.').collect();
    format!("{}.{}.{}", group.join("."), row.version, row.kind)
}

/// A custom kind's schema with what every object has.
fn whole(row: &Resource, mut schema: Value) -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    if !schema["properties"].is_object() {
        schema["properties"] = json!({});
    }
    let properties = &mut schema["properties"];
    properties["apiVersion"] =
        text("APIVersion defines the versioned schema of this representation of an object.");
    properties["kind"] =
        text("Kind is a string value representing the REST resource this object represents.");
    properties["metadata"] = json!({"allOf": [{"$ref": format!("#/components/schemas/{OBJECT_META}")}], "description": "Standard object's metadata."});
    schema["x-kubernetes-group-version-kind"] =
        json!([{"group": row.group, "version": row.version, "kind": row.kind}]);
    schema
}

fn operation(resource: &Resource, action: &str) -> Value {
    let gvk = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
    let text =
        |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    let mut parameters = vec![text("pretty")];
    if matches!(action, "post" | "put" | "patch") {
        parameters.extend([text("dryRun"), text("fieldManager"), text("fieldValidation")]);
    }
    json!({
        "operationId": format!("{action}{}{}", resource.group, resource.kind), "parameters": parameters,
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk,
    })
}
