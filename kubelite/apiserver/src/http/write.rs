//! Create, update and patch, of objects and of the subresources that write them.

use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use kubelite_api::status::ApiError;
use kubelite_api::{object, patch, schema};
use serde_json::Value;

use super::body::{self, FieldValidation};
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
    let form = negotiate::accept(&asked.headers)?;
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
    let form = negotiate::accept(&asked.headers)?;
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

/// PATCH in three kinds.
pub(super) async fn patch(
    front: &Front,
    asked: &Asked,
    resource: &'static Resource,
) -> Result<Response, ApiError> {
    let form = negotiate::accept(&asked.headers)?;
    let kind = PatchKind::of(body::media_type(&asked.headers))?;
    let (patch, _) = kubelite_api::json::parse(&asked.body)
        .map_err(|e| ApiError::bad_request(format!("the patch in the body cannot be read: {e}")))?;
    let validation = FieldValidation::parse(&asked.query)?;
    let warnings = std::sync::Mutex::new(Vec::new());
    let change = |old: &Value| {
        let patched = kind.apply(resource, old, &patch)?;
        let (decoded, found) = body::decode(resource, (patched, Vec::new()), validation)?;
        *warnings.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = found;
        Ok(decoded)
    };
    let name = asked.info.name.clone();
    let patched = front.registry.update(asked.context(resource)?, &name, part(asked), &change).await?;
    let warnings = warnings.into_inner().unwrap_or_default();
    Ok(respond::with_warnings(respond::object(resource, StatusCode::OK, patched, form), &warnings))
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
        let before = scale::of(old);
        let wanted = match kind {
            None => sent.clone(),
            Some(PatchKind::Json) => patch::json(&before, &sent)?,
            Some(_) => patch::merge(&before, &sent)?,
        };
        scale::apply(old, &wanted)
    };
    let name = asked.info.name.clone();
    let updated = front.registry.update(asked.context(resource)?, &name, Part::Main, &change).await?;
    Ok(respond::value(StatusCode::OK, &scale::of(&updated), negotiate::Format::Json))
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
    let (view, format) = negotiate::accept(&asked.headers)?;
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

fn part(asked: &Asked) -> Part {
    match asked.info.subresource.as_str() {
        "status" => Part::Status,
        "finalize" => Part::Internal,
        _ => Part::Main,
    }
}

/// How a patch is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' own, with merge keys from the schema.
    Strategic,
}

impl PatchKind {
    fn of(media_type: &str) -> Result<PatchKind, ApiError> {
        match media_type {
            "application/json-patch+json" => Ok(PatchKind::Json),
            "application/merge-patch+json" => Ok(PatchKind::Merge),
            "application/strategic-merge-patch+json" => Ok(PatchKind::Strategic),
            "application/apply-patch+yaml" => Err(ApiError::new(
                415,
                "UnsupportedMediaType",
                "server-side apply is not there yet; apply on the client's side (kubectl apply without --server-side)",
            )),
            other => Err(ApiError::new(
                415,
                "UnsupportedMediaType",
                format!(
                    "the body of the request was in an unknown format ({other}) - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json"
                ),
            )),
        }
    }

    fn apply(self, resource: &Resource, old: &Value, change: &Value) -> Result<Value, ApiError> {
        match self {
            PatchKind::Json => patch::json(old, change),
            PatchKind::Merge => patch::merge(old, change),
            PatchKind::Strategic => {
                let schema = schema::for_kind(resource.group, resource.version, resource.kind);
                let schema =
                    schema.ok_or_else(|| ApiError::internal(format!("{} has no schema", resource.kind)))?;
                patch::strategic(schema, old, change)
            }
        }
    }
}
