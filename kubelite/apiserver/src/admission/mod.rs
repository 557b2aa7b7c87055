//! Admission: what may be written, and what is filled in on the way, whatever the kind.
//!
//! Each check is one small type behind [`Admission`]; the verbs call the chain once, after decoding and defaulting and before
//! validation. What a kind itself demands is no admission: that is its strategy.

use async_trait::async_trait;
use kubelite_api::status::ApiError;
use serde_json::Value;

use crate::request::{RequestInfo, UserInfo};

/// What is about to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A change by update or patch, also of a subresource.
    Update,
    /// A deletion.
    Delete,
    /// `exec`, `attach`, `portforward`, `proxy`.
    Connect,
}

/// One write on its way to the store.
#[derive(Debug)]
pub struct Attributes<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// For what.
    pub request: &'a RequestInfo,
    /// What will be done.
    pub operation: Operation,
    /// The object as it is now; none for a creation.
    pub old: Option<&'a Value>,
    /// True if nothing will be stored.
    pub dry_run: bool,
}

/// One admission check. It may change `object` (null for deletions) or refuse with a Status.
#[async_trait]
pub trait Admission: Send + Sync + 'static {
    /// The name as in `--enable-admission-plugins`, e.g. `NamespaceLifecycle`.
    fn name(&self) -> &'static str;

    /// Looks at one write.
    async fn admit(&self, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), ApiError>;
}
