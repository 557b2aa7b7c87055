//! The two layers of the HTTP stack: authenticate (before `RequestInfo` is made) and authorize (after).
//!
//! A request from inside the process carries its `UserInfo` in the extensions already; nothing that comes over a
//! socket can put one there. Errors are answered as a Status; what the decision was made of stays on this side.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use kubelite_api::status::ApiError;

use crate::auth::{Authenticator, Authorizer, Decision, impersonate};
use crate::request::{RequestInfo, UserInfo};

/// What the layers ask.
#[derive(Clone)]
pub struct Auth {
    /// Who asks?
    pub authenticator: Arc<dyn Authenticator>,
    /// May they?
    pub authorizer: Arc<dyn Authorizer>,
}

/// Puts the [`UserInfo`] into the request's extensions, impersonation applied, and takes the credentials out of it.
pub async fn authenticate(State(auth): State<Auth>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let user = match parts.extensions.get::<UserInfo>() {
        Some(user) => Ok(user.clone()),
        None => auth.authenticator.authenticate(&parts),
    };
    let user = user.and_then(|user| impersonate::apply(auth.authorizer.as_ref(), user, &mut parts.headers));
    match user {
        Ok(user) => {
            parts.headers.remove(AUTHORIZATION);
            parts.extensions.insert(user);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(error) => respond(&error),
    }
}

/// Lets through what the authorizer allows; 403 for the rest. 500 if the layers before did not run.
pub async fn authorize(State(auth): State<Auth>, request: Request, next: Next) -> Response {
    let (Some(user), Some(info)) =
        (request.extensions().get::<UserInfo>(), request.extensions().get::<RequestInfo>())
    else {
        return respond(&ApiError::internal("the request reached authorization without user or RequestInfo"));
    };
    match auth.authorizer.authorize(user, info) {
        Decision::Allow(_) => next.run(request).await,
        Decision::Deny(reason) => respond(&forbidden(user, info, &reason)),
    }
}

/// The 403 in upstream's words.
pub fn forbidden(user: &UserInfo, request: &RequestInfo, reason: &str) -> ApiError {
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    let (name, verb) = (&user.name, &request.verb);
    if !request.is_resource {
        let text = format!("forbidden: User \"{name}\" cannot {verb} path \"{}\"{reason}", request.path);
        return ApiError::new(403, "Forbidden", text);
    }
    let resource = match request.subresource.as_str() {
        "" => request.resource.clone(),
        sub => format!("{}/{sub}", request.resource),
    };
    let scope = match request.namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace \"{namespace}\""),
    };
    let group = &request.group;
    let why = format!(
        "User \"{name}\" cannot {verb} resource \"{resource}\" in API group \"{group}\" {scope}{reason}"
    );
    let qualified = match group.as_str() {
        "" => request.resource.clone(),
        group => format!("{}.{group}", request.resource),
    };
    ApiError::forbidden(&qualified, &request.name, &why)
}

/// An error as an HTTP answer with a Status.
pub fn respond(error: &ApiError) -> Response {
    let mut response = Response::new(Body::from(error.to_status().to_string()));
    *response.status_mut() =
        http::StatusCode::from_u16(error.code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
