//! One object as the cache keeps it: bytes that were encoded once, and what selectors look at.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use kubelite_api::object;
use serde_json::Value;

use crate::resources::Resource;
use crate::storage::{KeyValue, Revision};

/// One object, as it was at one revision.
#[derive(Debug)]
pub struct Entry {
    /// Its key in the store.
    pub key: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its resourceVersion.
    pub revision: Revision,
    /// The whole object as JSON, resourceVersion included.
    pub bytes: Bytes,
    /// Its labels, for selectors.
    pub labels: BTreeMap<String, String>,
    /// The values of the resource's selectable fields, in the order of the row.
    pub fields: Vec<String>,
    parsed: OnceLock<Arc<Value>>,
}

impl Entry {
    /// An object as the store has it; none if it is damaged.
    pub fn read(resource: &Resource, kv: &KeyValue) -> Option<Entry> {
        Entry::new(resource, kv, kv.mod_revision)
    }

    pub(super) fn new(resource: &Resource, kv: &KeyValue, revision: Revision) -> Option<Entry> {
        let mut value: Value = serde_json::from_slice(&kv.value).ok()?;
        object::set_resource_version(&mut value, &revision.to_string());
        let labels = object::labels(&value).into_iter().flatten();
        let labels = labels.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect();
        let fields = resource.fields.iter().map(|path| resource.strategy.field(&value, path)).collect();
        Some(Entry {
            key: kv.key.clone(),
            namespace: object::namespace(&value).to_owned(),
            name: object::name(&value).to_owned(),
            revision,
            bytes: serde_json::to_vec(&value).ok()?.into(),
            labels,
            fields,
            parsed: OnceLock::new(),
        })
    }

    /// The same object under the resourceVersion of a later change: how a watcher sees it leave its selection.
    pub fn at_revision(&self, revision: Revision) -> Entry {
        let mut value: Value = serde_json::from_slice(&self.bytes).unwrap_or_default();
        object::set_resource_version(&mut value, &revision.to_string());
        Entry {
            key: self.key.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            revision,
            bytes: serde_json::to_vec(&value).unwrap_or_default().into(),
            labels: self.labels.clone(),
            fields: self.fields.clone(),
            parsed: OnceLock::new(),
        }
    }

    /// The object as a tree. Kept once it was asked for: only what the server itself reasons about is.
    pub fn value(&self) -> Arc<Value> {
        self.parsed.get_or_init(|| Arc::new(serde_json::from_slice(&self.bytes).unwrap_or_default())).clone()
    }

    /// A selectable field's value; empty if the resource has no such field.
    pub fn field(&self, resource: &Resource, path: &str) -> String {
        match path {
            "metadata.name" => self.name.clone(),
            "metadata.namespace" => self.namespace.clone(),
            _ => {
                let position = resource.fields.iter().position(|f| *f == path);
                position.and_then(|i| self.fields.get(i)).cloned().unwrap_or_default()
            }
        }
    }
}
