//! Objects in memory, for tests.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::auth::{Objects, policy};

/// (resource, object) pairs.
#[derive(Default, Clone)]
pub(crate) struct Memory(Vec<(String, Arc<Value>)>);

impl Memory {
    /// The bootstrap policy.
    pub(crate) fn with_policy() -> Self {
        policy::objects().unwrap().into_iter().fold(Memory::default(), |memory, object| {
            let resource = match object["kind"].as_str().unwrap() {
                "PriorityClass" => "priorityclasses".to_owned(),
                kind => format!("{}s", kind.to_lowercase()),
            };
            memory.and(&resource, object)
        })
    }

    /// One object more.
    pub(crate) fn and(mut self, resource: &str, object: Value) -> Self {
        self.0.push((resource.to_owned(), Arc::new(object)));
        self
    }

    pub(crate) fn shared(self) -> Arc<dyn Objects> {
        Arc::new(self)
    }
}

impl Objects for Memory {
    fn list(&self, resource: &str, namespace: &str) -> Vec<Arc<Value>> {
        let hit = |(r, o): &&(String, Arc<Value>)| {
            r == resource && (namespace.is_empty() || o["metadata"]["namespace"] == namespace)
        };
        self.0.iter().filter(hit).map(|(_, o)| o.clone()).collect()
    }

    fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.list(resource, namespace).into_iter().find(|o| o["metadata"]["name"] == name)
    }
}

/// `{"metadata": {"namespace", "name", "uid": "<name>-uid"}}` and these fields.
pub(crate) fn object(namespace: &str, name: &str, fields: Value) -> Value {
    let mut object = fields;
    object["metadata"] = json!({"name": name, "uid": format!("{name}-uid")});
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = json!(namespace);
    }
    object
}
