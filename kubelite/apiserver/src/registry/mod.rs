//! The semantics of create, update, delete and list, once for all kinds.
//!
//! What a kind adds is its strategy; what every write passes is admission; what may stand in an object is the schema's and the
//! validators' matter. The registry brings them into their order and talks to the store: every change is a compare on the
//! revision that was read.

mod apply;
mod create;
mod delete;
mod leases;
mod list;
mod update;

use std::sync::Arc;
use std::time::Duration;

use kubelite_api::schema::Schema;
use kubelite_api::status::ApiError;
use kubelite_api::{managed, object, scalar, schema, validate};
use serde_json::{Value, json};

pub use apply::Applied;
pub use delete::{DeleteOptions, Deleted};
pub use leases::Leases;
pub(crate) use list::parse_version;
pub use list::{ListQuery, Listed};
pub use update::Change;

use crate::admission::{Admission, Attributes, Operation};
use crate::cache::Caches;
use crate::request::{RequestInfo, UserInfo};
use crate::resources::Resource;
use crate::storage::{KeyValue, Revision, StorageError, StorageHandle};
use crate::strategy::Allocator;

/// How often a write that lost a race is tried again with what stands there now.
const TRIES: usize = 16;
/// How long a read waits for the cache to catch up with the server's own writes.
const CATCH_UP: Duration = Duration::from_secs(5);

/// One client's request for one resource.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// For what.
    pub request: &'a RequestInfo,
    /// The row.
    pub resource: &'static Resource,
    /// Do all but the storing.
    pub dry_run: bool,
    /// Who owns what this request changes.
    pub owner: Owner<'a>,
}

/// How the owners of fields come into an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner<'a> {
    /// The manager of this name owns what it changes.
    Manager(&'a str),
    /// They stand in the object already: it was applied.
    Settled,
}

/// All objects, and what may happen to them.
pub struct Registry {
    /// Where they lie.
    pub storage: StorageHandle,
    /// From where they are listed.
    pub caches: Arc<Caches>,
    /// Service addresses and ports.
    pub allocator: Allocator,
    /// For objects that go by themselves.
    pub leases: Leases,
    /// What looks at every write.
    pub admission: Vec<Arc<dyn Admission>>,
}

/// An object with the revision that it was read at.
#[derive(Debug, Clone)]
pub struct Current {
    /// With its resourceVersion.
    pub object: Value,
    /// The same as a number.
    pub revision: Revision,
}

impl Registry {
    /// One object as it is now.
    pub async fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Current, ApiError> {
        let (kv, _) = self.storage.get(&resource.key(namespace, name)).await.map_err(unavailable)?;
        let kv = kv.ok_or_else(|| ApiError::not_found(&resource.qualified(), name))?;
        let mut current = decode_stored(&kv)?;
        // A definition may have got defaults since it was written.
        resource.custom.iter().for_each(|custom| custom.fill(&mut current.object));
        Ok(current)
    }

    async fn admit(
        &self,
        context: Context<'_>,
        operation: Operation,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        let Context { user, request, dry_run, .. } = context;
        let attributes = Attributes { user, request, operation, old, dry_run };
        for admission in &self.admission {
            admission.admit(&attributes, object).await?;
        }
        Ok(())
    }

    /// Waits until the cache is at least as new as a revision that a client has seen, here or elsewhere.
    pub(crate) async fn reach(&self, revision: Revision) -> Result<(), ApiError> {
        if self.caches.wait_for(revision, CATCH_UP).await {
            return Ok(());
        }
        let text = format!("Too large resource version: {revision}, current: {}", self.caches.revision());
        let mut error = ApiError::new(504, "Timeout", text);
        error.details = json!({"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}], "retryAfterSeconds": 1});
        Err(error)
    }

    /// Waits until the cache has seen this server's own write.
    async fn settle(&self, revision: Revision) {
        if !self.caches.wait_for(revision, CATCH_UP).await {
            tracing::warn!(revision, "the watch cache does not catch up with the store");
        }
    }
}

fn check(resource: &Resource, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let mut errors = validate::object(resource.group, resource.kind, object, old);
    if let Some(custom) = resource.custom {
        errors.extend(custom.version().structural.check(object));
    }
    if errors.is_empty() {
        return Ok(());
    }
    let name = match object::name(object) {
        "" => object::generate_name(object),
        name => name,
    };
    Err(ApiError::invalid(&resource.qualified_kind(), name, &errors))
}

/// Writes down who owns what of a new object or a change.
fn own(context: Context<'_>, old: &Value, object: &mut Value, trusted: bool) {
    if let Owner::Manager(name) = context.owner {
        with_schema(context.resource, |schema| {
            as_manager(context, name, |manager| managed::update(schema, old, object, manager, trusted));
        });
    }
}

/// Does something with the schema of what is stored; none if there is none.
fn with_schema<T>(resource: &Resource, act: impl FnOnce(&Schema) -> T) -> Option<T> {
    if let Some(custom) = resource.custom {
        return Some(act(&custom.version().schema));
    }
    let stored = resource.stored();
    schema::for_kind(stored.group, stored.version, stored.kind).map(act)
}

/// Does something as the manager of this name, who writes now.
fn as_manager<T>(context: Context<'_>, name: &str, act: impl FnOnce(&managed::Manager<'_>) -> T) -> T {
    let (api_version, now) = (context.resource.api_version(), scalar::format_time(jiff::Timestamp::now()));
    let subresource = &context.request.subresource;
    act(&managed::Manager { name, api_version: &api_version, subresource, now: &now })
}

fn apply_defaults(resource: &Resource, object: &mut Value) {
    if let Some(custom) = resource.custom {
        return custom.fill(object);
    }
    if let Some(schema) = schema::for_kind(resource.group, resource.version, resource.kind) {
        schema.apply_defaults(object);
    }
}

/// A custom object is stored in its storage version, whatever version it was written in: they differ by their name alone.
fn in_stored_version(resource: &Resource, object: &mut Value) {
    if resource.custom.is_some() {
        object["apiVersion"] = resource.stored().api_version().into();
    }
}

fn decode_stored(kv: &KeyValue) -> Result<Current, ApiError> {
    let mut object: Value = serde_json::from_slice(&kv.value)
        .map_err(|e| ApiError::internal(format!("the object at {} is damaged in the store: {e}", kv.key)))?;
    object::set_resource_version(&mut object, &kv.mod_revision.to_string());
    Ok(Current { object, revision: kv.mod_revision })
}

/// The bytes for the store: without the resourceVersion, which is the key's revision.
fn encode(object: &Value) -> Result<bytes::Bytes, ApiError> {
    let mut stored = object.clone();
    object::remove_meta(&mut stored, "resourceVersion");
    serde_json::to_vec(&stored).map(Into::into).map_err(|e| ApiError::internal(e.to_string()))
}

fn unavailable(error: StorageError) -> ApiError {
    match error {
        StorageError::Compacted { .. } => ApiError::expired("The provided resource version is too old"),
        other => ApiError::new(503, "ServiceUnavailable", other.to_string()),
    }
}
