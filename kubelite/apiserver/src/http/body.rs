//! Bodies: read within bounds, decoded from JSON, YAML or protobuf, and checked against the schema as strictly as the client wants.

use axum::body::Body;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, Limited};
use kubelite_api::custom::definition;
use kubelite_api::status::{ApiError, FieldError};
use kubelite_api::{json, object, protobuf, schema};
use serde_json::Value;

use super::path::Query;
use crate::resources::{DEFINITIONS, Resource};
use crate::strategy;

/// The largest body, as upstream's limit for a request to etcd leaves it.
const LIMIT: usize = 3 * 1024 * 1024;

/// What to do about fields that the schema doesn't know, and about fields that are there twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them.
    Ignore,
    /// Drop them and say so.
    Warn,
    /// Refuse.
    Strict,
}

impl FieldValidation {
    /// The query's `fieldValidation`; Warn if it says nothing.
    pub fn parse(query: &Query) -> Result<Self, ApiError> {
        match query.get("fieldValidation") {
            "" | "Warn" => Ok(Self::Warn),
            "Ignore" => Ok(Self::Ignore),
            "Strict" => Ok(Self::Strict),
            other => Err(ApiError::bad_request(format!(
                "fieldValidation: Unsupported value: \"{other}\": supported values: \"Ignore\", \"Warn\", \"Strict\""
            ))),
        }
    }
}

/// Reads a whole body.
pub async fn read(body: Body) -> Result<bytes::Bytes, ApiError> {
    let message = format!("the body is larger than {LIMIT} bytes, or it broke off");
    let too_large = |_| ApiError::new(413, "RequestEntityTooLarge", message);
    Ok(Limited::new(body, LIMIT).collect().await.map_err(too_large)?.to_bytes())
}

/// The media type of a body, without parameters.
pub fn media_type(headers: &HeaderMap) -> &str {
    let text = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("application/json");
    text.split(';').next().unwrap_or_default().trim()
}

/// A body as a tree, with the paths of fields that stood there twice.
pub fn parse(headers: &HeaderMap, bytes: &[u8]) -> Result<(Value, Vec<String>), ApiError> {
    let broken = |what: &str, e: &dyn std::fmt::Display| {
        ApiError::bad_request(format!("the {what} in the body cannot be read: {e}"))
    };
    match media_type(headers) {
        "application/json" | "*/*" => json::parse(bytes).map_err(|e| broken("JSON", &e)),
        "application/yaml" | "application/apply-patch+yaml" => {
            let text = std::str::from_utf8(bytes).map_err(|e| broken("YAML", &e))?;
            let value: Value = serde_saphyr::from_str(text).map_err(|e| broken("YAML", &e))?;
            Ok((value, Vec::new()))
        }
        protobuf::MEDIA_TYPE => {
            Ok((protobuf::decode(bytes).map_err(|e| broken("protobuf", &e))?, Vec::new()))
        }
        other => Err(ApiError::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format ({other}) - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf"
            ),
        )),
    }
}

/// An object from a body: of the right kind, pruned, its types checked, defaults in. The strings are warnings.
pub fn decode(
    resource: &Resource,
    parsed: (Value, Vec<String>),
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), ApiError> {
    let (mut value, warnings) = decode_as_said(resource, parsed, validation)?;
    if let Some(custom) = resource.custom {
        custom.fill(&mut value);
        return Ok((value, warnings));
    }
    if let Some(schema) = schema::for_kind(resource.stored().group, resource.stored().version, resource.kind)
    {
        schema.apply_defaults(&mut value);
    }
    Ok((value, warnings))
}

/// The same without defaults.
pub fn decode_as_said(
    resource: &Resource,
    (mut value, twice): (Value, Vec<String>),
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), ApiError> {
    check_kind(resource, &mut value)?;
    let decoded = match resource.custom {
        Some(custom) => custom.prune(&mut value),
        None => schema::for_kind(resource.group, resource.version, resource.kind)
            .map(|schema| schema.decode(&mut value))
            .unwrap_or_default(),
    };
    if let Some(error) = decoded.errors.first() {
        return Err(ApiError::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: {error}",
            resource.kind, resource.version, resource.kind
        )));
    }
    let unknown = decoded.unknown.iter().map(|path| format!("unknown field \"{path}\""));
    let findings: Vec<String> =
        unknown.chain(twice.iter().map(|path| format!("duplicate field \"{path}\""))).collect();
    if validation == FieldValidation::Strict && !findings.is_empty() {
        return Err(ApiError::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: strict decoding error: {}",
            resource.kind,
            resource.version,
            resource.kind,
            findings.join(", ")
        )));
    }
    if resource.prefix == "events" && !resource.group.is_empty() {
        strategy::to_stored(&mut value);
    }
    let mut warnings = if validation == FieldValidation::Warn { findings } else { Vec::new() };
    match resource.prefix {
        DEFINITIONS => warnings.extend(definition::warnings(&value)),
        "networkpolicies" => {
            warnings.push("network policies are kept, and not enforced by this cluster".to_owned());
        }
        _ => {}
    }
    Ok((value, warnings))
}

/// `apiVersion` and `kind` may be left out where the path says them; another kind is an error.
fn check_kind(resource: &Resource, value: &mut Value) -> Result<(), ApiError> {
    let Some(map) = value.as_object_mut() else {
        return Err(ApiError::bad_request("the body is no object"));
    };
    let wanted = [("apiVersion", resource.api_version()), ("kind", resource.kind.to_owned())];
    for (field, wanted) in wanted {
        match map.get(field).and_then(Value::as_str).unwrap_or_default() {
            "" => drop(map.insert(field.to_owned(), wanted.into())),
            is if is == wanted => {}
            is => {
                let what = if field == "kind" { "kind" } else { "API version" };
                return Err(ApiError::bad_request(format!(
                    "the {what} in the data ({is}) does not match the expected {what} ({wanted})"
                )));
            }
        }
    }
    if object::metadata(value).is_none() {
        if !value["metadata"].is_null() {
            let error = FieldError {
                reason: "FieldValueInvalid",
                field: "metadata".into(),
                message: "must be an object".into(),
            };
            return Err(ApiError::invalid(resource.kind, "", &[error]));
        }
        value["metadata"] = serde_json::json!({});
    }
    Ok(())
}
