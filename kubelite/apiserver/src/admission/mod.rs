//! Admission: what may be written, and what is filled in on the way, whatever the kind.
//!
//! Each check is one small type behind [`Admission`]; the verbs call the chain once, after decoding and defaulting and before
//! validation. What a kind itself demands is no admission: that is its strategy.

mod certificates;
mod limit_ranger;
mod namespace;
mod node_restriction;
mod pod_security;
mod priority;
mod rbac_escalation;
mod resource_quota;
mod runtime_class;
mod service_account;
mod storage;
mod taint_nodes;
mod tolerations;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kubelite_api::quantity::Quantity;
use kubelite_api::status::ApiError;
use serde_json::Value;

pub use certificates::Certificates;
pub use limit_ranger::LimitRanger;
pub use namespace::NamespaceLifecycle;
pub use node_restriction::NodeRestriction;
pub use pod_security::PodSecurity;
pub use priority::Priority;
pub use rbac_escalation::RbacEscalation;
pub use resource_quota::ResourceQuota;
pub use runtime_class::RuntimeClass;
pub use service_account::ServiceAccount;
pub use storage::{DefaultIngressClass, DefaultStorageClass, StorageObjectInUseProtection};
pub use taint_nodes::TaintNodesByCondition;
pub use tolerations::DefaultTolerationSeconds;

use crate::auth::Objects;
use crate::auth::chain::Chain;
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

/// The compiled-in checks, in the order in which they run: what fills in comes before what judges the result.
pub fn chain(objects: &Arc<dyn Objects>, authorizer: &Arc<Chain>) -> Vec<Arc<dyn Admission>> {
    vec![
        Arc::new(NamespaceLifecycle::new(objects.clone())),
        Arc::new(LimitRanger::new(objects.clone())),
        Arc::new(ServiceAccount::new(objects.clone())),
        Arc::new(NodeRestriction::new(objects.clone())),
        Arc::new(TaintNodesByCondition),
        Arc::new(Priority::new(objects.clone())),
        Arc::new(DefaultTolerationSeconds),
        Arc::new(RuntimeClass::new(objects.clone())),
        Arc::new(PodSecurity::new(objects.clone())),
        Arc::new(DefaultStorageClass::new(objects.clone())),
        Arc::new(DefaultIngressClass::new(objects.clone())),
        Arc::new(StorageObjectInUseProtection),
        Arc::new(Certificates::new(authorizer.clone())),
        Arc::new(RbacEscalation::new(objects.clone(), authorizer.clone())),
        // The last: what another check refuses is not counted.
        Arc::new(ResourceQuota::new(objects.clone())),
    ]
}

/// How often an object that should be there is looked for again: the cache may be a moment behind the writer.
const CACHE_TRIES: u32 = 25;
/// The pause between two looks.
const CACHE_PAUSE: Duration = Duration::from_millis(20);

/// An object of the cache, given half a second to appear there.
async fn wait_for(objects: &dyn Objects, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
    for _ in 0..CACHE_TRIES {
        if let Some(object) = objects.get(resource, namespace, name) {
            return Some(object);
        }
        tokio::time::sleep(CACHE_PAUSE).await;
    }
    None
}

/// A quantity as JSON has it, string or number.
fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

impl Attributes<'_> {
    /// Whether this is about the resource itself (no subresource) of a group.
    fn is(&self, group: &str, resource: &str) -> bool {
        self.request.group == group
            && self.request.resource == resource
            && self.request.subresource.is_empty()
    }

    /// Whether this creates such an object, and the object has the outer shape of one: `metadata` and `spec` can be
    /// written into.
    fn creates(&self, group: &str, resource: &str, object: &Value) -> bool {
        let shaped = |field: &str| object[field].is_object() || object[field].is_null();
        self.is(group, resource)
            && self.operation == Operation::Create
            && object.is_object()
            && shaped("metadata")
            && shaped("spec")
    }

    /// A refusal in upstream's words; the name is the object's where the path has none yet.
    fn forbid(&self, object: &Value, why: &str) -> ApiError {
        let resource = match self.request.group.as_str() {
            "" => self.request.resource.clone(),
            group => format!("{}.{group}", self.request.resource),
        };
        ApiError::forbidden(&resource, self.name(object), why)
    }

    /// The name of what is written: from the path, or from the object that is created.
    fn name<'o>(&'o self, object: &'o Value) -> &'o str {
        let metadata = &object["metadata"];
        match self.request.name.as_str() {
            "" => metadata["name"].as_str().or_else(|| metadata["generateName"].as_str()).unwrap_or_default(),
            name => name,
        }
    }
}

#[cfg(test)]
mod tests;
