//! From credentials to a user: client certificate, service-account token, static token, nobody.
//!
//! Certificates were verified in the TLS handshake; `serve` left their subject in the request's extensions. A request
//! that brings several credentials is judged by the first kind in the order above.

use std::sync::Arc;

use http::{header::AUTHORIZATION, request::Parts};
use kubelite_api::status::ApiError;
use serde_json::Value;

use crate::auth::token::{Bound, Claims, TokenKey};
use crate::auth::{Authenticator, Objects};
use crate::request::UserInfo;

/// The subject of a verified client certificate: CN is the user, every O a group.
#[derive(Debug, Clone)]
pub struct PeerIdentity(pub UserInfo);

/// The credentials that this cluster accepts.
pub struct Credentials {
    objects: Arc<dyn Objects>,
    key: Arc<TokenKey>,
    audiences: Vec<String>,
    fixed: Vec<(String, UserInfo)>,
}

impl Credentials {
    /// Accepts service-account tokens of this key, for the API's own audience (the issuer).
    pub fn new(objects: Arc<dyn Objects>, key: Arc<TokenKey>) -> Self {
        let audiences = vec![key.issuer().to_owned()];
        Credentials { objects, key, audiences, fixed: Vec::new() }
    }

    /// Accepts this token as well, e.g. the one by which agents join.
    #[must_use]
    pub fn with_static_token(mut self, token: &str, user: UserInfo) -> Self {
        self.fixed.push((token.to_owned(), user));
        self
    }

    /// Whom a bearer token speaks for, and which of `audiences` it is meant for; `now` in seconds since 1970.
    pub fn token_user(
        &self,
        token: &str,
        audiences: &[String],
        now: i64,
    ) -> Result<(UserInfo, Vec<String>), String> {
        if let Some((_, user)) = self.fixed.iter().find(|(fixed, _)| same(fixed, token)) {
            return Ok((user.clone(), self.audiences.clone()));
        }
        let claims = self.key.verify(token, audiences, now).map_err(|e| e.to_string())?;
        check_bound(self.objects.as_ref(), &claims)?;
        let meant = claims.aud.iter().filter(|a| audiences.contains(a)).cloned().collect();
        Ok((claims_user(&claims), meant))
    }

    /// The audiences of the API itself.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }
}

impl Authenticator for Credentials {
    fn authenticate(&self, parts: &Parts) -> Result<UserInfo, ApiError> {
        if let Some(PeerIdentity(user)) = parts.extensions.get() {
            return Ok(user.clone());
        }
        let Some(header) = parts.headers.get(AUTHORIZATION) else {
            return Ok(UserInfo::anonymous());
        };
        let token = header.to_str().ok().and_then(bearer).ok_or_else(unauthorized)?;
        let now = jiff::Timestamp::now().as_second();
        self.token_user(token, &self.audiences, now).map(|(user, _)| user).map_err(|reason| {
            tracing::debug!(%reason, "a bearer token was refused");
            unauthorized()
        })
    }
}

/// 401 in upstream's words; why, is for the log alone.
pub fn unauthorized() -> ApiError {
    ApiError::new(401, "Unauthorized", "Unauthorized")
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|t| !t.is_empty())
}

/// Compares digests, so that the time it takes says nothing about the token.
fn same(a: &str, b: &str) -> bool {
    let digest = |s: &str| ring::digest::digest(&ring::digest::SHA256, s.as_bytes());
    digest(a).as_ref() == digest(b).as_ref()
}

fn check_bound(objects: &dyn Objects, claims: &Claims) -> Result<(), String> {
    let private = &claims.private;
    let alive = |resource: &str, namespace: &str, bound: &Bound| match objects.get(
        resource,
        namespace,
        &bound.name,
    ) {
        Some(object) if uid(&object) == bound.uid => Ok(()),
        _ => Err(format!("the {resource} object that the token is bound to is gone")),
    };
    let namespace = private.namespace.as_str();
    if claims.sub != service_account_name(namespace, &private.serviceaccount.name) {
        return Err("the token's subject is not its service account".to_owned());
    }
    alive("serviceaccounts", namespace, &private.serviceaccount)?;
    private.pod.as_ref().map_or(Ok(()), |pod| alive("pods", namespace, pod))?;
    private.secret.as_ref().map_or(Ok(()), |secret| alive("secrets", namespace, secret))?;
    // A pod's token names its node as a fact; only a token bound to the node itself would end with it.
    match (&private.node, &private.pod) {
        (Some(node), None) => alive("nodes", "", node),
        _ => Ok(()),
    }
}

fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

/// `system:serviceaccount:<namespace>:<name>`.
pub fn service_account_name(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// The groups of every service account of a namespace.
pub fn service_account_groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
}

fn claims_user(claims: &Claims) -> UserInfo {
    let private = &claims.private;
    let mut groups = service_account_groups(&private.namespace);
    groups.push("system:authenticated".to_owned());
    let mut extra =
        vec![("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("JTI={}", claims.jti)])];
    for (kind, bound) in [("pod", &private.pod), ("node", &private.node)] {
        if let Some(bound) = bound {
            extra.push((format!("authentication.kubernetes.io/{kind}-name"), vec![bound.name.clone()]));
            extra.push((format!("authentication.kubernetes.io/{kind}-uid"), vec![bound.uid.clone()]));
        }
    }
    UserInfo { name: claims.sub.clone(), uid: private.serviceaccount.uid.clone(), groups, extra }
}
