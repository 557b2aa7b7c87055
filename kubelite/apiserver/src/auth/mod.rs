//! Who asks, and may they: authentication, authorisation, and the API objects that are about nothing else.
//!
//! ```text
//!  request ─► authenticate (certificate │ bearer token │ nobody) ─► impersonate ─► RequestInfo (core) ─► authorize ─► verbs
//!                                                                                        Node, then RBAC │
//!                                                                                  403 in upstream's words
//! ```
//!
//! What lives here: the decisions, all of them functions over cached objects, and the two thin layers that apply them.
//! What doesn't: TLS (`serve`), the objects' storage (the core gives a view of its cache as [`Objects`]), admission.

pub mod authn;
pub mod chain;
pub mod impersonate;
pub mod layers;
pub mod node;
pub mod oidc;
pub mod policy;
pub mod rbac;
pub mod reviews;
pub mod token;
mod token_request;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use http::request::Parts;
use kubelite_api::status::ApiError;
use serde_json::Value;

use crate::request::{RequestInfo, UserInfo};

/// A view of the objects in the core's cache; never waits for the store.
///
/// `resource` is the plural of a built-in kind, without its group: `pods`, `clusterroles`, `leases`, `priorityclasses`.
pub trait Objects: Send + Sync + 'static {
    /// All objects of a resource in a namespace; with the namespace `""` those of all namespaces, or the cluster-scoped ones.
    fn list(&self, resource: &str, namespace: &str) -> Vec<Arc<Value>>;

    /// One object, if it exists. The namespace of cluster-scoped objects is `""`.
    fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>>;
}

/// Turns the credentials of a request into a user.
pub trait Authenticator: Send + Sync + 'static {
    /// Who asks; [`UserInfo::anonymous`] if there are no credentials, 401 if there are bad ones.
    fn authenticate(&self, parts: &Parts) -> Result<UserInfo, ApiError>;
}

/// What an authorizer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may happen; the text says by which rule.
    Allow(String),
    /// It may not; the text is for the 403's message and may be empty.
    Deny(String),
}

impl Decision {
    /// Whether it may happen.
    pub fn allowed(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }
}

/// Says who may do what.
pub trait Authorizer: Send + Sync + 'static {
    /// Judges one request. Pure over the cache: the same objects give the same answer.
    fn authorize(&self, user: &UserInfo, request: &RequestInfo) -> Decision;
}

/// Resources that are asked and never stored: `create` of tokenreviews, subjectaccessreviews, selfsubjectaccessreviews,
/// localsubjectaccessreviews, selfsubjectrulesreviews, selfsubjectreviews, and of the subresource serviceaccounts/token.
#[async_trait]
pub trait Virtual: Send + Sync + 'static {
    /// Whether `create` of this resource is answered here.
    fn handles(&self, request: &RequestInfo) -> bool;

    /// Answers with the object, its status filled (HTTP 201).
    async fn create(&self, user: &UserInfo, request: &RequestInfo, object: Value) -> Result<Value, ApiError>;
}
