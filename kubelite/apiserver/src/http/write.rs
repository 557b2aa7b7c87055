//! Create and update, of objects and of the subresources that write them; and the changes of a Scale.

use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use kubelite_api::object;
use kubelite_api::status::ApiError;
use serde_json::Value;

use super::body::{self, FieldValidation};
use super::patch::PatchKind;
use super::{Asked, Front, negotiate, respond};
use crate::resources::{self, Resource};
use crate::scale;
use crate::strategy::{self, Part};

/// POST of an object.
pub(super) async fn create(
    front: &Front,
    asked: &Asked,
    resource: &'static Resource,
) -> Result<Response, ApiError> {
    let form = asked.form()?;
    let (object, warnings) = decoded(asked, resource)?;
    let created = front.registry.create(asked.context(resource)?, object).await?;
    Ok(respond::with_warnings(respond::object(resource, StatusCode::CREATED, created, form), &warnings))
}

/// PUT of an object, its status or, for namespaces, its finalizers.
pub(super) async fn update(
    front: &Front,
    asked: &Asked,
    resource: &'static Resource,
) -> Result<Response, ApiError> {
    let form = asked.form()?;
    let (object, warnings) = decoded(asked, resource)?;
    let name = asked.info.name.clone();
    let finalize = asked.info.subresource == "finalize";
    let change = move |old: &Value| {
        if !finalize {
            return Ok(object.clone());
        }
        let mut finalized = old.clone();
        finalized["spec"]["finalizers"] = object["spec"]["finalizers"].clone();
        Ok(finalized)
    };
    let updated = front.registry.update(asked.context(resource)?, &name, part(asked), &change).await?;
    Ok(respond::with_warnings(respond::object(resource, StatusCode::OK, updated, form), &warnings))
}

/// PUT or PATCH of a workload's Scale: only `spec.replicas` counts.
pub(super) async fn scale(
    front: &Front,
    asked: &Asked,
    resource: &'static Resource,
) -> Result<Response, ApiError> {
    let (sent, _) = match asked.info.verb.as_str() {
        "patch" => {
            kubelite_api::json::parse(&asked.body).map_err(|e| ApiError::bad_request(e.to_string()))?
        }
        _ => body::parse(&asked.headers, &asked.body)?,
    };
    let kind = match asked.info.verb.as_str() {
        "patch" => Some(PatchKind::of(body::media_type(&asked.headers))?),
        _ => None,
    };
    let change = |old: &Value| {
        let before = scale::of(resource, old);
        let wanted = match kind {
            None => sent.clone(),
            Some(kind) => kind.apply_plain(&before, &sent)?,
        };
        scale::apply(resource, old, &wanted)
    };
    let name = asked.info.name.clone();
    let updated = front.registry.update(asked.context(resource)?, &name, Part::Main, &change).await?;
    Ok(respond::value(StatusCode::OK, &scale::of(resource, &updated), negotiate::Format::Json))
}

/// POST of a Binding: the pod gets its node.
pub(super) async fn bind(front: &Front, asked: &Asked) -> Result<Response, ApiError> {
    let pods = resources::by_plural("pods").ok_or_else(super::not_found)?;
    let (binding, _) = body::parse(&asked.headers, &asked.body)?;
    let name = match asked.info.name.as_str() {
        "" => object::name(&binding).to_owned(),
        name => name.to_owned(),
    };
    let change = |old: &Value| {
        let mut pod = old.clone();
        strategy::bind(&mut pod, &binding, Timestamp::now())?;
        Ok(pod)
    };
    front.registry.update(asked.context(pods)?, &name, Part::Internal, &change).await?;
    let status = serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(respond::value(StatusCode::CREATED, &status, negotiate::Format::Json))
}

/// POST of a review, or for a token.
pub(super) async fn ask(front: &Front, asked: &Asked) -> Result<Response, ApiError> {
    let (view, format) = asked.form()?;
    if view != negotiate::View::Object {
        return Err(ApiError::new(
            406,
            "NotAcceptable",
            "a review can only be had as itself: application/json",
        ));
    }
    if asked.info.verb != "create" {
        return Err(super::not_allowed());
    }
    let (object, _) = body::parse(&asked.headers, &asked.body)?;
    let answer = front.parts.reviews.create(&asked.user, &asked.info, object).await?;
    Ok(respond::value(StatusCode::CREATED, &answer, format))
}

fn decoded(asked: &Asked, resource: &Resource) -> Result<(Value, Vec<String>), ApiError> {
    body::decode(resource, body::parse(&asked.headers, &asked.body)?, FieldValidation::parse(&asked.query)?)
}

pub(super) fn part(asked: &Asked) -> Part {
    match asked.info.subresource.as_str() {
        "status" => Part::Status,
        "finalize" => Part::Internal,
        _ => Part::Main,
    }
}
