//! What a kind does that others don't. Every method has a default, so a kind that needs nothing has no code.
//!
//! A strategy is pure, but for the service's, which claims addresses from an allocator that looks at the cache. Validation by the schema and by
//! `kubelite_api::validate` is done by the registry for every kind.

mod event;
mod job;
mod pod;
mod service;
mod volume;

use kubelite_api::object;
use kubelite_api::status::ApiError;
use serde_json::{Value, json};

pub use event::{EVENT_FIELDS, Event, from_stored, to_stored};
pub use job::Job;
pub use pod::{Pod, bind};
pub use service::{Allocator, Claims, Service};
pub use volume::Volume;

/// What part of an object a write is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The object without its status.
    Main,
    /// `…/status`.
    Status,
    /// Written by the server itself on a client's behalf (`binding`, `finalize`): taken as it is.
    Internal,
}

/// A kind's own rules.
pub trait Strategy: Send + Sync {
    /// The value of a selectable field; empty if it is not set.
    fn field(&self, object: &Value, path: &str) -> String {
        text_at(object, path)
    }

    /// Before a new object is admitted and validated.
    fn prepare_create(&self, _claims: &Claims<'_>, _object: &mut Value) -> Result<(), ApiError> {
        Ok(())
    }

    /// After admission of a new object: what follows from all that is in it by then.
    fn derive(&self, _object: &mut Value) {}

    /// Before a change is validated: what this part may not write is taken from `old`.
    fn prepare_update(
        &self,
        _claims: &Claims<'_>,
        part: Part,
        object: &mut Value,
        old: &Value,
    ) -> Result<(), ApiError> {
        keep_other_part(part, object, old);
        Ok(())
    }

    /// Seconds in which the object's deletion may be prepared by somebody; 0 removes it at once.
    fn grace(&self, _object: &Value, _requested: Option<i64>) -> i64 {
        0
    }

    /// Seconds after which an object goes by itself.
    fn time_to_live(&self) -> Option<i64> {
        None
    }

    /// Whether a deletion that says nothing of dependents leaves them as orphans: kinds that are older than the collector.
    fn orphans_by_default(&self) -> bool {
        false
    }

    /// The finalizer that an object gets when its deletion begins: somebody has to clear up behind it.
    fn waits_for(&self) -> Option<&'static str> {
        None
    }

    /// Finalizers that each new object of the kind has in its spec, as namespaces do.
    fn blocks_deletion(&self, _object: &Value) -> bool {
        false
    }
}

/// Status and the rest are written separately: each write leaves the other part as it is; generation counts spec changes.
fn keep_other_part(part: Part, object: &mut Value, old: &Value) {
    match part {
        Part::Main => {
            copy(object, old, "status");
            let changed = object.get("spec") != old.get("spec");
            let generation = object::generation(old) + i64::from(changed);
            if object::generation(old) > 0 {
                object::set_generation(object, generation);
            }
        }
        Part::Status => {
            let status = object.get("status").cloned();
            let metadata = object.get("metadata").cloned();
            *object = old.clone();
            if let Some(status) = status {
                object["status"] = status;
            }
            keep_resource_version(object, metadata.as_ref());
        }
        Part::Internal => {}
    }
}

/// A write of the status may carry the resourceVersion that it saw; labels and annotations follow it too, as upstream.
fn keep_resource_version(object: &mut Value, metadata: Option<&Value>) {
    for field in ["resourceVersion", "labels", "annotations"] {
        if let Some(value) = metadata.and_then(|m| m.get(field)) {
            object::set_meta(object, field, value.clone());
        }
    }
}

fn copy(object: &mut Value, from: &Value, field: &str) {
    let Some(map) = object.as_object_mut() else { return };
    match from.get(field) {
        Some(value) => map.insert(field.to_owned(), value.clone()),
        None => map.remove(field),
    };
}

/// The value at a dotted path as text; empty if there is none.
pub fn text_at(object: &Value, path: &str) -> String {
    match object.pointer(&format!("/{}", path.replace('.', "/"))) {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    }
}

/// Objects without a status that anybody writes: configmaps, leases, roles, …
pub struct Plain;

impl Strategy for Plain {
    fn prepare_update(&self, _: &Claims<'_>, _: Part, _: &mut Value, _: &Value) -> Result<(), ApiError> {
        Ok(())
    }
}

/// Objects with spec and status: workloads, nodes.
pub struct WithStatus;

impl Strategy for WithStatus {
    fn prepare_create(&self, _: &Claims<'_>, object: &mut Value) -> Result<(), ApiError> {
        // A node is registered together with what it can hold; everybody else's status is a controller's matter.
        if object["kind"] != "Node" {
            object["status"] = json!({});
            object::set_generation(object, 1);
        }
        Ok(())
    }
}

/// Objects without a status whose generation counts: network policies.
pub struct Counted;

impl Strategy for Counted {
    fn prepare_create(&self, _: &Claims<'_>, object: &mut Value) -> Result<(), ApiError> {
        object::set_generation(object, 1);
        Ok(())
    }
}

/// Attachments of volumes: their status begins with what the attacher has not done yet, and nothing is counted.
pub struct Attachment;

impl Strategy for Attachment {
    fn prepare_create(&self, _: &Claims<'_>, object: &mut Value) -> Result<(), ApiError> {
        object["status"] = json!({"attached": false});
        Ok(())
    }
}

/// Replication controllers are older than the garbage collector: their pods outlive them unless the client says otherwise.
pub struct ReplicationController;

impl Strategy for ReplicationController {
    fn prepare_create(&self, claims: &Claims<'_>, object: &mut Value) -> Result<(), ApiError> {
        WithStatus.prepare_create(claims, object)
    }

    fn orphans_by_default(&self) -> bool {
        true
    }
}

/// Namespaces live until their contents are gone.
pub struct Namespace;

impl Strategy for Namespace {
    fn prepare_create(&self, _: &Claims<'_>, object: &mut Value) -> Result<(), ApiError> {
        object["spec"] = json!({"finalizers": ["kubernetes"]});
        object["status"] = json!({"phase": "Active"});
        let name = object::name(object).to_owned();
        let labels = object::metadata_mut(object).map(|m| m.entry("labels").or_insert_with(|| json!({})));
        if let Some(Value::Object(labels)) = labels {
            labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
        }
        Ok(())
    }

    fn prepare_update(
        &self,
        _: &Claims<'_>,
        part: Part,
        object: &mut Value,
        old: &Value,
    ) -> Result<(), ApiError> {
        keep_other_part(part, object, old);
        if part == Part::Main {
            // The finalizers are written by `finalize` alone.
            copy(object, old, "spec");
        }
        Ok(())
    }

    fn blocks_deletion(&self, object: &Value) -> bool {
        object.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|f| !f.is_empty())
    }
}

/// Secrets may be written as text.
pub struct Secret;

impl Secret {
    fn encode(object: &mut Value) {
        use base64::Engine;
        let Some(Value::Object(texts)) = object.as_object_mut().and_then(|map| map.remove("stringData"))
        else {
            return;
        };
        if !object["data"].is_object() {
            object["data"] = json!({});
        }
        for (key, text) in texts {
            object["data"][key] =
                base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap_or_default()).into();
        }
    }
}

impl Strategy for Secret {
    fn prepare_create(&self, _: &Claims<'_>, object: &mut Value) -> Result<(), ApiError> {
        Secret::encode(object);
        Ok(())
    }

    fn prepare_update(
        &self,
        _: &Claims<'_>,
        _: Part,
        object: &mut Value,
        old: &Value,
    ) -> Result<(), ApiError> {
        Secret::encode(object);
        if object.get("type").is_none() {
            copy(object, old, "type");
        }
        Ok(())
    }
}
