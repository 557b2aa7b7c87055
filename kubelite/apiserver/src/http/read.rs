//! Get and list.

use axum::response::Response;
use http::StatusCode;
use kubelite_api::fields::FieldSelector;
use kubelite_api::labels::LabelSelector;
use kubelite_api::status::ApiError;

use super::{Asked, Front, negotiate, respond};
use crate::registry::ListQuery;
use crate::resources::Resource;
use crate::scale;

/// One object.
pub(super) async fn get(
    front: &Front,
    asked: &Asked,
    resource: &'static Resource,
) -> Result<Response, ApiError> {
    let form = asked.form()?;
    let current = front.registry.get(resource, &asked.info.namespace, &asked.info.name).await?;
    Ok(respond::object(resource, StatusCode::OK, current.object, form))
}

/// The Scale of a workload.
pub(super) async fn scale(
    front: &Front,
    asked: &Asked,
    resource: &'static Resource,
) -> Result<Response, ApiError> {
    let current = front.registry.get(resource, &asked.info.namespace, &asked.info.name).await?;
    Ok(respond::value(StatusCode::OK, &scale::of(resource, &current.object), negotiate::Format::Json))
}

/// Many.
pub(super) async fn list(
    front: &Front,
    asked: &Asked,
    resource: &'static Resource,
) -> Result<Response, ApiError> {
    let form = asked.form()?;
    let listed = front.registry.list(resource, &asked.info.namespace, &query(asked, resource)?).await?;
    Ok(respond::list(resource, &listed, form))
}

/// The selection in a query.
pub(super) fn query(asked: &Asked, resource: &'static Resource) -> Result<ListQuery, ApiError> {
    let given = &asked.query;
    let mut fields = given.get("fieldSelector").to_owned();
    // A watch of one name is a watch of the collection with that name selected.
    if !asked.info.name.is_empty() {
        fields = format!("metadata.name={}", asked.info.name);
    }
    let fields = FieldSelector::parse(&fields).map_err(|e| ApiError::bad_request(e.to_string()))?;
    check_fields(resource, &fields)?;
    let labels = LabelSelector::parse(given.get("labelSelector"))
        .map_err(|e| ApiError::bad_request(format!("unable to parse requirement: {e}")))?;
    let limit = usize::try_from(given.number("limit")?.unwrap_or(0)).unwrap_or(0);
    Ok(ListQuery {
        labels,
        fields,
        limit,
        token: given.get("continue").to_owned(),
        version: given.get("resourceVersion").to_owned(),
        exact: given.get("resourceVersionMatch") == "Exact",
    })
}

fn check_fields(resource: &'static Resource, selector: &FieldSelector) -> Result<(), ApiError> {
    let known = |path: &str| {
        matches!(path, "metadata.name" | "metadata.namespace") || resource.fields.contains(&path)
    };
    match selector.requirements().iter().find(|r| !known(&r.field)) {
        None => Ok(()),
        Some(unknown) => {
            let kind = resource.kind;
            let text = format!("field label not supported: {} (for {kind})", unknown.field);
            Err(ApiError::bad_request(text))
        }
    }
}
