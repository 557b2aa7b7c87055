//! Delete, of one or of many, and eviction, which is a deletion asked for politely.

use axum::response::Response;
use http::StatusCode;
use kubelite_api::object;
use kubelite_api::status::ApiError;
use serde_json::{Value, json};

use super::{Asked, Front, body, negotiate, read, respond};
use crate::registry::{DeleteOptions, Deleted};
use crate::resources::Resource;

/// DELETE of one object.
pub(super) async fn delete(
    front: &Front,
    asked: &Asked,
    resource: &'static Resource,
) -> Result<Response, ApiError> {
    let form = negotiate::accept(&asked.headers)?;
    let options = options(asked)?;
    let name = asked.info.name.clone();
    let mut context = asked.context(resource)?;
    context.dry_run |= !options.dry_run.is_empty();
    match front.registry.delete(context, &name, &options).await? {
        Deleted::Begun(object) => Ok(respond::object(resource, StatusCode::OK, object, form)),
        Deleted::Gone(object) => Ok(respond::value(StatusCode::OK, &success(resource, &object), form.1)),
    }
}

/// DELETE of a collection.
pub(super) async fn collection(
    front: &Front,
    asked: &Asked,
    resource: &'static Resource,
) -> Result<Response, ApiError> {
    let (_, format) = negotiate::accept(&asked.headers)?;
    let options = options(asked)?;
    let query = read::query(asked, resource)?;
    let mut context = asked.context(resource)?;
    context.dry_run |= !options.dry_run.is_empty();
    let items = front.registry.delete_collection(context, &query, &options).await?;
    let list = json!({
        "kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(),
        "metadata": {"resourceVersion": front.registry.caches.revision().to_string()}, "items": items,
    });
    Ok(respond::value(StatusCode::OK, &list, format))
}

/// POST of an Eviction. Without disruption budgets every eviction is granted, as upstream does where none matches.
pub(super) async fn evict(
    front: &Front,
    asked: &Asked,
    resource: &'static Resource,
) -> Result<Response, ApiError> {
    let (eviction, _) = body::parse(&asked.headers, &asked.body)?;
    let options = parse(eviction.get("deleteOptions").cloned().unwrap_or_default())?;
    let name = asked.info.name.clone();
    front.registry.delete(asked.context(resource)?, &name, &options).await?;
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(respond::value(StatusCode::CREATED, &status, negotiate::Format::Json))
}

/// From the body or, where it says nothing, from the query.
fn options(asked: &Asked) -> Result<DeleteOptions, ApiError> {
    let sent = if asked.body.is_empty() { Value::Null } else { body::parse(&asked.headers, &asked.body)?.0 };
    let mut options = parse(sent)?;
    if options.grace_period_seconds.is_none() {
        options.grace_period_seconds = asked.query.number("gracePeriodSeconds")?;
    }
    let policy = asked.query.get("propagationPolicy");
    if options.propagation_policy.is_none() && !policy.is_empty() {
        options.propagation_policy = Some(policy.to_owned());
    }
    if options.orphan_dependents.is_none() && asked.query.is_true("orphanDependents") {
        options.orphan_dependents = Some(true);
    }
    match options.propagation_policy.as_deref() {
        None | Some("Foreground" | "Background" | "Orphan") => Ok(options),
        Some(other) => Err(ApiError::bad_request(format!(
            "propagationPolicy: Unsupported value: \"{other}\": supported values: \"Foreground\", \"Background\", \"Orphan\""
        ))),
    }
}

fn parse(options: Value) -> Result<DeleteOptions, ApiError> {
    if options.is_null() {
        return Ok(DeleteOptions::default());
    }
    serde_json::from_value(options)
        .map_err(|e| ApiError::bad_request(format!("the DeleteOptions cannot be read: {e}")))
}

fn success(resource: &Resource, object: &Value) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"name": object::name(object), "group": resource.group, "kind": resource.plural, "uid": object::uid(object)},
    })
}
