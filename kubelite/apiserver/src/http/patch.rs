//! Patch: a change that the client describes, made anew on what is there until nobody else was faster; and server-side apply.

use std::sync::{Mutex, PoisonError};

use axum::response::Response;
use http::StatusCode;
use kubelite_api::json::MAX_DEPTH;
use kubelite_api::status::{ApiError, FieldError};
use kubelite_api::{patch, schema};
use serde_json::Value;

use super::body::{self, FieldValidation};
use super::{Asked, Front, respond, write};
use crate::registry::Applied;
use crate::resources::Resource;

/// The media type of server-side apply.
const APPLY: &str = "application/apply-patch+yaml";

/// PATCH in four kinds.
pub(super) async fn patch(
    front: &Front,
    asked: &Asked,
    resource: &'static Resource,
) -> Result<Response, ApiError> {
    if body::media_type(&asked.headers) == APPLY {
        return apply(front, asked, resource).await;
    }
    if !asked.query.get("force").is_empty() {
        return Err(invalid_option(
            "force",
            "FieldValueForbidden",
            "Forbidden: may not be specified for non-apply patch",
        ));
    }
    let form = asked.form()?;
    let kind = PatchKind::of(body::media_type(&asked.headers))?;
    if kind == PatchKind::Strategic && resource.custom.is_some() {
        let text = "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
        return Err(ApiError::new(415, "UnsupportedMediaType", text));
    }
    let (patch, twice) = kubelite_api::json::parse(&asked.body)
        .map_err(|e| ApiError::bad_request(format!("the patch in the body cannot be read: {e}")))?;
    let validation = FieldValidation::parse(&asked.query)?;
    let warnings = Mutex::new(Vec::new());
    let change = |old: &Value| {
        let patched = kind.apply(resource, old, &patch)?;
        let (decoded, found) = body::decode(resource, (patched, twice.clone()), validation)?;
        *warnings.lock().unwrap_or_else(PoisonError::into_inner) = found;
        Ok(decoded)
    };
    let name = asked.info.name.clone();
    let patched = front.registry.update(asked.context(resource)?, &name, write::part(asked), &change).await?;
    let warnings = warnings.into_inner().unwrap_or_default();
    Ok(respond::with_warnings(respond::object(resource, StatusCode::OK, patched, form), &warnings))
}

/// PATCH with all that the client wants to own.
async fn apply(front: &Front, asked: &Asked, resource: &'static Resource) -> Result<Response, ApiError> {
    let form = asked.form()?;
    let manager = asked.query.get("fieldManager");
    if manager.is_empty() {
        return Err(invalid_option(
            "fieldManager",
            "FieldValueRequired",
            "Required value: is required for apply patch",
        ));
    }
    let parsed = body::parse(&asked.headers, &asked.body)?;
    let (object, warnings) = body::decode_as_said(resource, parsed, FieldValidation::parse(&asked.query)?)?;
    if object.pointer("/metadata/managedFields").is_some() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let applied = Applied { object: &object, manager: asked.manager(), force: asked.query.is_true("force") };
    let context = asked.context(resource)?;
    let (stored, new) = front.registry.apply(context, &asked.info.name, write::part(asked), applied).await?;
    let code = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(respond::with_warnings(respond::object(resource, code, stored, form), &warnings))
}

fn invalid_option(field: &str, reason: &'static str, message: &str) -> ApiError {
    let error = FieldError { reason, field: field.to_owned(), message: message.to_owned() };
    ApiError::invalid("PatchOptions.meta.k8s.io", "", &[error])
}

/// How a patch is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' own, with merge keys from the schema.
    Strategic,
}

impl PatchKind {
    pub(super) fn of(media_type: &str) -> Result<PatchKind, ApiError> {
        match media_type {
            "application/json-patch+json" => Ok(PatchKind::Json),
            "application/merge-patch+json" => Ok(PatchKind::Merge),
            "application/strategic-merge-patch+json" => Ok(PatchKind::Strategic),
            other => Err(ApiError::new(
                415,
                "UnsupportedMediaType",
                format!(
                    "the body of the request was in an unknown format ({other}) - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml"
                ),
            )),
        }
    }

    fn apply(self, resource: &Resource, old: &Value, change: &Value) -> Result<Value, ApiError> {
        if self != PatchKind::Strategic {
            return self.apply_plain(old, change);
        }
        let schema = schema::for_kind(resource.group, resource.version, resource.kind);
        let schema = schema.ok_or_else(|| ApiError::internal(format!("{} has no schema", resource.kind)))?;
        patch::strategic(schema, old, change)
    }

    /// The change of a value without merge keys, as a Scale is: there a strategic merge is a plain one.
    pub(super) fn apply_plain(self, old: &Value, change: &Value) -> Result<Value, ApiError> {
        if self != PatchKind::Json {
            return patch::merge(old, change);
        }
        check_depth(old, change)?;
        patch::json(old, change)
    }
}

/// Refuses a JSON patch that could nest deeper than a document may: whatever walks the result does so recursively, and a few
/// copies of a tree into its own leaf would double its depth each. Depths are bounds from above, so that nothing has to be applied.
fn check_depth(old: &Value, operations: &Value) -> Result<(), ApiError> {
    let mut depth = depth_of(old);
    for operation in operations.as_array().into_iter().flatten() {
        let steps = |field: &str| operation[field].as_str().map_or(0, |path| path.matches('/').count());
        let below = match operation["op"].as_str() {
            Some("add" | "replace") => depth_of(&operation["value"]),
            Some("copy" | "move") => depth.saturating_sub(steps("from")),
            _ => continue,
        };
        depth = depth.max(steps("path") + below);
        if depth > MAX_DEPTH {
            let text = format!(
                "the server rejected our request due to an error in our request: the patch could nest deeper than {MAX_DEPTH} levels"
            );
            return Err(ApiError::new(422, "Invalid", text));
        }
    }
    Ok(())
}

/// How many levels a value has; a scalar has none. Parsed values are bounded, so this may recurse.
fn depth_of(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth_of).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth_of).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn copies_into_themselves_are_refused_early() {
        let old = json!({"x": {"k": {}}});
        let (mut operations, mut depth) = (Vec::new(), 1);
        for _ in 0..15 {
            operations
                .push(json!({"op": "copy", "from": "/x", "path": format!("/x{}", "/k".repeat(depth + 1))}));
            depth = 2 * depth + 1;
        }
        let few: Value = operations.iter().take(4).cloned().collect();
        assert!(check_depth(&old, &few).is_ok());
        assert!(depth_of(&patch::json(&old, &few).unwrap()) <= MAX_DEPTH);
        assert_eq!(check_depth(&old, &json!(operations)).unwrap_err().code, 422);
    }

    #[test]
    fn what_people_patch_passes() {
        let old = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"template": {"spec": {"containers": [{"name": "c"}]}}}});
        let operations: Vec<Value> = (0..200)
            .flat_map(|i| {
                [
                    json!({"op": "copy", "from": "/metadata/labels/a", "path": format!("/metadata/labels/b{i}")}),
                    json!({"op": "move", "from": format!("/metadata/labels/b{i}"), "path": format!("/metadata/labels/c{i}")}),
                    json!({"op": "add", "path": "/spec/template/spec/containers/-", "value": {"name": "d", "args": ["x"]}}),
                ]
            })
            .collect();
        assert!(check_depth(&old, &json!(operations)).is_ok());
    }
}
