//! OpenAPI v3: an index, and a document for each group and version, made when it is asked for.
//!
//! Clients take two things from it: the schemas (`kubectl explain`), and whether a write understands `fieldValidation`.

use axum::response::Response;
use http::StatusCode;
use kubelite_api::openapi;
use serde_json::{Map, Value, json};

use crate::http::{Format, respond_value};
use crate::resources::{RESOURCES, Resource, groups};

/// The answer for a path below `/openapi/v3`; none for others.
pub fn answer(path: &str) -> Option<Response> {
    let document = match path.strip_prefix("/openapi/v3")? {
        "" => index(),
        rest => {
            let (group, version) = groups().into_iter().find(|(g, v)| rest == below(g, v))?;
            document(group, version)
        }
    };
    Some(respond_value(StatusCode::OK, &document, Format::Json))
}

fn below(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

/// The hash changes with the program alone, since built-in kinds are all there is.
fn index() -> Value {
    let paths: Map<String, Value> = groups()
        .into_iter()
        .map(|(group, version)| {
            let path = below(group, version);
            let url = format!("/openapi/v3{path}?hash={}", env!("CARGO_PKG_VERSION"));
            (path.trim_start_matches('/').to_owned(), json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}

fn document(group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    for resource in RESOURCES.iter().filter(|r| r.group == group && r.version == version) {
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
    let definitions = openapi::definitions_of(group, version);
    json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths, "components": openapi::components(definitions.iter().map(String::as_str)),
    })
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
