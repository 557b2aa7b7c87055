//! Errors as the API tells them: Kubernetes' `Status`, with upstream's reasons, codes and wording.
//!
//! What doesn't live here: HTTP. The apiserver turns an [`ApiError`] into a response.

use serde_json::{Value, json};

/// One invalid field, as `Status.details.causes` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// `FieldValueRequired`, `FieldValueInvalid`, `FieldValueNotSupported`, `FieldValueForbidden`, `FieldValueDuplicate`, …
    pub reason: &'static str,
    /// The path, e.g. `spec.containers[0].image`.
    pub field: String,
    /// The text behind the path, e.g. `Required value` or `Invalid value: "x": must be …`.
    pub message: String,
}

/// An answer that is not success. `Display` is the message alone.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status code.
    pub code: u16,
    /// The machine-readable reason, e.g. `NotFound`, `Conflict`, `Invalid`, `Expired`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// `Status.details`, an object: client-go reads it without looking whether it is there.
    pub details: Value,
}

impl ApiError {
    /// An error whose details are empty.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        ApiError { code, reason, message: message.into(), details: json!({}) }
    }

    /// 404: `pods "x" not found`. `resource` is `pods` or, with its group, `deployments.apps`.
    pub fn not_found(resource: &str, name: &str) -> Self {
        Self::about(404, "NotFound", resource, name, format!("{resource} \"{name}\" not found"))
    }

    /// 409: `pods "x" already exists`.
    pub fn already_exists(resource: &str, name: &str) -> Self {
        Self::about(409, "AlreadyExists", resource, name, format!("{resource} \"{name}\" already exists"))
    }

    /// 409: somebody else changed the object, or a precondition failed.
    pub fn conflict(resource: &str, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} \"{name}\": {why}");
        Self::about(409, "Conflict", resource, name, message)
    }

    /// 403 in upstream's words.
    pub fn forbidden(resource: &str, name: &str, why: &str) -> Self {
        let message = if name.is_empty() {
            format!("{resource} is forbidden: {why}")
        } else {
            format!("{resource} \"{name}\" is forbidden: {why}")
        };
        Self::about(403, "Forbidden", resource, name, message)
    }

    /// 422 with a cause per field. `kind` is `Pod` or, with its group, `Deployment.apps`.
    pub fn invalid(kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let texts: Vec<String> = errors.iter().map(|e| format!("{}: {}", e.field, e.message)).collect();
        let text = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let mut error =
            Self::about(422, "Invalid", kind, name, format!("{kind} \"{name}\" is invalid: {text}"));
        let causes: Vec<Value> = errors
            .iter()
            .map(|e| json!({"reason": e.reason, "message": e.message, "field": e.field}))
            .collect();
        error.details["causes"] = Value::Array(causes);
        error
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 410: the resourceVersion is too old; the client lists anew.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 500.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalError", message)
    }

    /// Whether this is a 404.
    pub fn is_not_found(&self) -> bool {
        self.code == 404
    }

    /// The `Status` object that goes to the client.
    pub fn to_status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "details": self.details, "code": self.code,
        })
    }

    fn about(code: u16, reason: &'static str, resource: &str, name: &str, message: String) -> Self {
        let (kind, group) = resource.split_once('.').unwrap_or((resource, ""));
        let mut details = json!({"kind": kind});
        if !name.is_empty() {
            details["name"] = json!(name);
        }
        if !group.is_empty() {
            details["group"] = json!(group);
        }
        ApiError { code, reason, message, details }
    }
}
