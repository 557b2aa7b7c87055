//! Pruning and defaults: what an object loses and gains when it is read.

use serde_json::{Map, Value};

use super::Structural;
use crate::schema::{self, Decoded};

/// The definition of the metadata that every object has.
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

impl Structural {
    /// Removes what the schema doesn't know, and checks the metadata, of a whole object.
    pub fn prune(&self, object: &mut Value) -> Decoded {
        let mut found = Decoded::default();
        self.prune_at(object, "", true, &mut found);
        found
    }

    fn prune_at(&self, value: &mut Value, path: &str, whole: bool, found: &mut Decoded) {
        match value {
            Value::Array(list) => {
                for (i, item) in list.iter_mut().enumerate() {
                    if let Some(items) = &self.items {
                        items.prune_at(item, &format!("{path}[{i}]"), false, found);
                    }
                }
            }
            Value::Object(map) => self.prune_fields(map, path, whole || self.embedded, found),
            _ => {}
        }
    }

    fn prune_fields(&self, map: &mut Map<String, Value>, path: &str, whole: bool, found: &mut Decoded) {
        map.retain(|name, value| {
            let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match self.properties.get(name).or(self.additional.as_deref()) {
                _ if whole && name == "metadata" => prune_metadata(value, &at, found),
                _ if whole && (name == "apiVersion" || name == "kind") => {}
                Some(schema) => schema.prune_at(value, &at, false, found),
                None if self.preserve || self.anything => {}
                None => {
                    found.unknown.push(at);
                    return false;
                }
            }
            true
        });
    }

    /// Fills in what isn't given, and takes out nulls that mean nothing.
    pub fn fill(&self, value: &mut Value) {
        match value {
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    list.iter_mut().for_each(|item| items.fill(item));
                }
            }
            Value::Object(map) => {
                for (name, schema) in &self.properties {
                    if map.get(name).is_some_and(|v| v.is_null() && !schema.nullable) {
                        map.remove(name);
                    }
                    if let (Some(default), None) = (&schema.default, map.get(name)) {
                        map.insert(name.clone(), default.clone());
                    }
                    if let Some(value) = map.get_mut(name) {
                        schema.fill(value);
                    }
                }
                if let Some(schema) = &self.additional {
                    map.values_mut().for_each(|value| schema.fill(value));
                }
            }
            _ => {}
        }
    }
}

fn prune_metadata(metadata: &mut Value, path: &str, found: &mut Decoded) {
    let Some(schema) = schema::lookup(OBJECT_META).filter(|_| metadata.is_object()) else { return };
    let decoded = schema.decode(metadata);
    found.unknown.extend(decoded.unknown.into_iter().map(|below| format!("{path}.{below}")));
    found.errors.extend(decoded.errors);
}
