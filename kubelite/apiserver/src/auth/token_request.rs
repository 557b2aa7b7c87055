//! `create serviceaccounts/token` (TokenRequest): a token for a service account, bound to an object if asked.

use kubelite_api::status::{ApiError, FieldError};
use serde_json::{Value, json};

use crate::auth::Objects;
use crate::auth::authn::service_account_name;
use crate::auth::node::node_name;
use crate::auth::rbac::array;
use crate::auth::token::{Bound, Claims, Private, TokenKey};
use crate::request::{RequestInfo, UserInfo};

/// Lifetimes in seconds: what is given unasked, the least and the most that can be asked for.
const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 365 * 24 * 3600;
/// Audiences of one token.
const MAX_AUDIENCES: usize = 32;

/// Fills the status of a TokenRequest. `now` in seconds since 1970.
pub(super) fn create(
    objects: &dyn Objects,
    key: &TokenKey,
    user: &UserInfo,
    request: &RequestInfo,
    mut object: Value,
    now: i64,
) -> Result<Value, ApiError> {
    let (namespace, name) = (request.namespace.as_str(), request.name.as_str());
    let account = objects
        .get("serviceaccounts", namespace, name)
        .ok_or_else(|| ApiError::not_found("serviceaccounts", name))?;
    let spec = &object["spec"];
    let seconds = lifetime(spec)?;
    let audiences = audiences(spec, key)?;
    let reference = &spec["boundObjectRef"];
    restrict_node(objects, user, namespace, reference)?;
    let mut private = Private {
        namespace: namespace.to_owned(),
        serviceaccount: bound(&account),
        pod: None,
        secret: None,
        node: None,
    };
    bind(objects, request, reference, &mut private)?;
    let claims = Claims {
        aud: audiences.clone(),
        exp: now + seconds,
        iat: now,
        nbf: now,
        iss: key.issuer().to_owned(),
        jti: random_uuid(),
        sub: service_account_name(namespace, name),
        private,
    };
    let token = key.sign(&claims).map_err(|e| ApiError::internal(e.to_string()))?;
    let end = jiff::Timestamp::from_second(claims.exp).map_err(|e| ApiError::internal(e.to_string()))?;
    object["spec"]["audiences"] = json!(audiences);
    object["spec"]["expirationSeconds"] = json!(seconds);
    object["metadata"]["name"] = json!(name);
    object["metadata"]["namespace"] = json!(namespace);
    object["status"] = json!({"token": token, "expirationTimestamp": end.to_string()});
    Ok(object)
}

fn invalid(field: &str, message: &str) -> ApiError {
    let error =
        FieldError { reason: "FieldValueInvalid", field: field.to_owned(), message: message.to_owned() };
    ApiError::invalid("TokenRequest.authentication.k8s.io", "", &[error])
}

fn lifetime(spec: &Value) -> Result<i64, ApiError> {
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
    if seconds < MIN_SECONDS {
        let text = format!("Invalid value: {seconds}: may not specify a duration less than 10 minutes");
        return Err(invalid("spec.expirationSeconds", &text));
    }
    Ok(seconds.min(MAX_SECONDS))
}

fn audiences(spec: &Value, key: &TokenKey) -> Result<Vec<String>, ApiError> {
    let asked: Vec<String> =
        array(&spec["audiences"]).iter().filter_map(|a| a.as_str().map(str::to_owned)).collect();
    match asked.len() {
        0 => Ok(vec![key.issuer().to_owned()]),
        n if n > MAX_AUDIENCES => {
            Err(invalid("spec.audiences", &format!("Too many: {n}: must have at most {MAX_AUDIENCES} items")))
        }
        _ => Ok(asked),
    }
}

/// A node gets tokens only for pods that are bound to it.
fn restrict_node(
    objects: &dyn Objects,
    user: &UserInfo,
    namespace: &str,
    reference: &Value,
) -> Result<(), ApiError> {
    let Some(node) = node_name(user) else { return Ok(()) };
    let forbid = |why: &str| Err(ApiError::forbidden("serviceaccounts", "", why));
    if reference["kind"] != "Pod" {
        return forbid("node requested token not bound to a pod");
    }
    if reference["uid"].as_str().unwrap_or_default().is_empty() {
        return forbid("node requested token with a pod binding without a uid");
    }
    let pod = objects.get("pods", namespace, reference["name"].as_str().unwrap_or_default());
    match pod {
        Some(pod) if pod["spec"]["nodeName"] == node => Ok(()),
        _ => forbid("node requested token bound to a pod scheduled on a different node"),
    }
}

fn bound(object: &Value) -> Bound {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    Bound { name: text("name"), uid: text("uid") }
}

fn bind(
    objects: &dyn Objects,
    request: &RequestInfo,
    reference: &Value,
    private: &mut Private,
) -> Result<(), ApiError> {
    if reference.is_null() {
        return Ok(());
    }
    let kind = reference["kind"].as_str().unwrap_or_default();
    let resource = match kind {
        "Pod" => "pods",
        "Secret" => "secrets",
        "Node" => "nodes",
        _ => return Err(ApiError::bad_request(format!("cannot bind token to object of type {kind}"))),
    };
    let name = reference["name"].as_str().unwrap_or_default();
    let namespace = if kind == "Node" { "" } else { request.namespace.as_str() };
    let object = objects.get(resource, namespace, name).ok_or_else(|| ApiError::not_found(resource, name))?;
    let found = bound(&object);
    if let Some(uid) = reference["uid"].as_str().filter(|uid| !uid.is_empty() && *uid != found.uid) {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict(resource, name, &why));
    }
    match kind {
        "Pod" => {
            if object["spec"]["serviceAccountName"] != request.name.as_str() {
                let text = format!(
                    "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount name.",
                    request.name
                );
                return Err(ApiError::bad_request(text));
            }
            let node = object["spec"]["nodeName"].as_str().and_then(|n| objects.get("nodes", "", n));
            private.node = node.map(|n| bound(&n));
            private.pod = Some(found);
        }
        "Secret" => private.secret = Some(found),
        _ => private.node = Some(found),
    }
    Ok(())
}

/// RFC 9562, version 4.
fn random_uuid() -> String {
    let bits = (rand::random::<u128>() & !(0xf000 << 64) & !(0xc000 << 48)) | (0x4000 << 64) | (0x8000 << 48);
    let hex = format!("{bits:032x}");
    let part = |range| hex.get::<std::ops::Range<usize>>(range).unwrap_or_default();
    [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
}
