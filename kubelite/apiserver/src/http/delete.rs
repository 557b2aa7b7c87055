//! Delete, of one or of many, and eviction, which is a deletion asked for politely.

use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use kubelite_api::object;
use kubelite_api::status::ApiError;
use serde_json::{Value, json};

use super::{Asked, Front, body, negotiate, read, respond};
use crate::eviction;
use crate::registry::{Context, DeleteOptions, Deleted};
use crate::resources::{self, Resource};
use crate::strategy::Part;

/// DELETE of one object.
pub(super) async fn delete(
    front: &Front,
    asked: &Asked,
    resource: &'static Resource,
) -> Result<Response, ApiError> {
    let form = asked.form()?;
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
    let (_, format) = asked.form()?;
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

/// POST of an Eviction: a budget is asked first, and pays.
pub(super) async fn evict(
    front: &Front,
    asked: &Asked,
    resource: &'static Resource,
) -> Result<Response, ApiError> {
    let (eviction, _) = body::parse(&asked.headers, &asked.body)?;
    let mut options = parse(eviction.get("deleteOptions").cloned().unwrap_or_default())?;
    let name = asked.info.name.clone();
    let mut context = asked.context(resource)?;
    context.dry_run |= !options.dry_run.is_empty();
    let pod = front.registry.get(resource, &asked.info.namespace, &name).await?;
    let now = Timestamp::now();
    if eviction::needs_budget(&pod.object) {
        spend(front, context, &pod.object, now).await?;
    }
    // The condition changes the version that the client saw, so it is compared with that write.
    let seen = options.preconditions.resource_version.take();
    let uid = options.preconditions.uid.clone();
    let change = |old: &Value| {
        let mut marked = eviction::mark(old, now);
        seen.iter().for_each(|seen| object::set_resource_version(&mut marked, seen));
        uid.iter().for_each(|uid| object::set_uid(&mut marked, uid));
        Ok(marked)
    };
    front.registry.update(context, &name, Part::Internal, &change).await?;
    front.registry.delete(context, &name, &options).await?;
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(respond::value(StatusCode::CREATED, &status, negotiate::Format::Json))
}

/// Takes the eviction off the pod's budget, if it has one and it counts.
async fn spend(front: &Front, context: Context<'_>, pod: &Value, now: Timestamp) -> Result<(), ApiError> {
    let Some(budgets) = resources::by_plural("poddisruptionbudgets") else { return Ok(()) };
    let prefix = budgets.key(object::namespace(pod), "");
    let all: Vec<_> =
        front.registry.caches.of(budgets).list(&prefix).iter().map(|entry| entry.value()).collect();
    let Some(budget) = eviction::budget_of(pod, all.iter().map(|budget| &**budget))? else { return Ok(()) };
    let change = |budget: &Value| {
        if eviction::may_go_unready(pod, budget) {
            return Ok(budget.clone());
        }
        eviction::spend(budget, object::name(pod), now)
    };
    let context = Context { resource: budgets, ..context };
    front.registry.update(context, object::name(budget), Part::Internal, &change).await.map(|_| ())
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
