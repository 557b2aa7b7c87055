//! Answers: objects, lists, tables, Status; as JSON or YAML.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue, WARNING};
use jiff::Timestamp;
use kubelite_api::status::ApiError;
use kubelite_api::table;
use serde_json::{Value, json};

use super::negotiate::{Format, Include, View};
use crate::cache::Entry;
use crate::custom::Custom;
use crate::registry::Listed;
use crate::resources::Resource;
use crate::strategy;

/// An object as the client wants to see it.
pub fn shown(resource: &Resource, mut object: Value, view: View) -> Value {
    convert(resource, &mut object);
    match view {
        View::Object => object,
        View::Metadata => partial(&object),
        View::Table(include) => table_of(resource, vec![object], json!({}), include),
    }
}

/// 200 or 201 with an object.
pub fn object(
    resource: &Resource,
    code: StatusCode,
    object: Value,
    (view, format): (View, Format),
) -> Response {
    value(code, &shown(resource, object, view), format)
}

/// Any JSON value as an answer.
pub fn value(code: StatusCode, value: &Value, format: Format) -> Response {
    let (bytes, media) = match format {
        Format::Json => (serde_json::to_vec(value).unwrap_or_default(), "application/json"),
        Format::Yaml => (serde_saphyr::to_string(value).unwrap_or_default().into_bytes(), "application/yaml"),
    };
    answer(code, media, Body::from(bytes))
}

/// A Status for an error.
pub fn error(error: &ApiError) -> Response {
    let mut status = error.to_status();
    // A continue token belongs to the list's metadata, where paging clients look for it.
    if let Some(token) = status.pointer_mut("/details/continue").map(Value::take) {
        status["metadata"]["continue"] = token;
        status["details"] = json!({});
    }
    let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = value(code, &status, Format::Json);
    if error.code == 429 || error.details.get("retryAfterSeconds").is_some() {
        response.headers_mut().insert("retry-after", HeaderValue::from_static("1"));
    }
    response
}

/// `Warning` headers as RFC 7234 and upstream have them.
pub fn with_warnings(mut response: Response, warnings: &[String]) -> Response {
    for warning in warnings {
        let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(header) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(WARNING, header);
        }
    }
    response
}

/// A list; the objects' bytes are sent as they lie in the cache.
pub fn list(resource: &Resource, listed: &Listed, (view, format): (View, Format)) -> Response {
    let metadata = list_metadata(listed);
    if let View::Table(include) = view {
        let objects: Vec<Value> = listed.entries.iter().map(|entry| parsed(resource, entry)).collect();
        return value(StatusCode::OK, &table_of(resource, objects, metadata, include), format);
    }
    let (kind, version) = match view {
        View::Metadata => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned()),
        _ => (resource.list_kind(), resource.api_version()),
    };
    let head = format!(r#"{{"kind":"{kind}","apiVersion":"{version}","metadata":{metadata},"items":["#);
    let mut chunks = vec![Bytes::from(head)];
    for (i, entry) in listed.entries.iter().enumerate() {
        if i > 0 {
            chunks.push(Bytes::from_static(b","));
        }
        chunks.push(entry_bytes(resource, entry, view));
    }
    chunks.push(Bytes::from_static(b"]}"));
    if format == Format::Yaml {
        let whole: Value = serde_json::from_slice(&chunks.concat()).unwrap_or_default();
        return value(StatusCode::OK, &whole, format);
    }
    let body = Body::from_stream(stream::iter(chunks.into_iter().map(Ok::<_, std::convert::Infallible>)));
    answer(StatusCode::OK, "application/json", body)
}

/// One object's bytes in the wanted view; copied only if it has to be changed.
pub fn entry_bytes(resource: &Resource, entry: &Entry, view: View) -> Bytes {
    let whole = resource.custom.is_none_or(|custom| !custom.version().structural.has_defaults());
    if view == View::Object && whole && std::ptr::eq(resource, resource.stored()) {
        return entry.bytes.clone();
    }
    let object = shown(resource, serde_json::from_slice(&entry.bytes).unwrap_or_default(), view);
    serde_json::to_vec(&object).unwrap_or_default().into()
}

fn parsed(resource: &Resource, entry: &Entry) -> Value {
    let mut object = serde_json::from_slice(&entry.bytes).unwrap_or_default();
    convert(resource, &mut object);
    object
}

fn convert(resource: &Resource, object: &mut Value) {
    if let Some(custom) = resource.custom {
        object["apiVersion"] = resource.api_version().into();
        return custom.fill(object);
    }
    if resource.prefix == "events" && !resource.group.is_empty() {
        strategy::from_stored(object);
    }
}

fn list_metadata(listed: &Listed) -> Value {
    let mut metadata = json!({"resourceVersion": listed.revision.to_string()});
    if !listed.token.is_empty() {
        metadata["continue"] = json!(listed.token);
    }
    if let Some(remaining) = listed.remaining {
        metadata["remainingItemCount"] = json!(remaining);
    }
    metadata
}

fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

fn table_of(resource: &Resource, objects: Vec<Value>, mut metadata: Value, include: Include) -> Value {
    let now = Timestamp::now();
    let stored = resource.stored();
    let custom = resource.custom.map(Custom::version);
    let columns: Vec<Value> = match &custom {
        Some(version) => version.columns.definitions(),
        None => table::columns(stored.group, stored.kind).iter().map(table::Column::to_value).collect(),
    };
    if let [object] = objects.as_slice()
        && metadata.get("resourceVersion").is_none()
    {
        metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
    }
    let row = |object: Value| {
        let cells = match &custom {
            Some(version) => version.columns.cells(&object, now),
            None => table::cells(stored.group, stored.kind, &object, now),
        };
        let object = match include {
            Include::None => Value::Null,
            Include::Metadata => partial(&object),
            Include::Object => object,
        };
        json!({"cells": cells, "object": object})
    };
    let rows: Vec<Value> = objects.into_iter().map(row).collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": columns, "rows": rows})
}

fn answer(code: StatusCode, media: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}
