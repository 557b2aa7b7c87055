//! By which others verify service-account tokens: the OpenID discovery document and the keys.

use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router};

use crate::auth::token::TokenKey;

/// The two documents, as routes for the core's router, behind its layers (RBAC decides who reads them).
pub fn routes(key: Arc<TokenKey>) -> Router {
    let discovery = key.discovery();
    Router::new()
        .route("/.well-known/openid-configuration", get(move || async move { Json(discovery) }))
        .route("/openid/v1/jwks", get(move || async move { Json(key.jwks()) }))
}
