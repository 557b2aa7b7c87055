//! Priority: `priorityClassName` becomes the number that the scheduler and the kubelet compare.

use std::sync::Arc;

use async_trait::async_trait;
use kubelite_api::status::ApiError;
use serde_json::{Value, json};

use crate::admission::{Admission, Attributes, Operation, wait_for};
use crate::auth::Objects;

/// Resolves priority classes from the cache.
pub struct Priority {
    objects: Arc<dyn Objects>,
}

/// What a class says.
struct Class {
    name: String,
    value: i64,
    preemption: String,
}

impl Priority {
    /// Judges by these objects.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        Priority { objects }
    }

    fn default_class(&self) -> Option<Arc<Value>> {
        let marked =
            self.objects.list("priorityclasses", "").into_iter().filter(|c| c["globalDefault"] == true);
        // Two defaults can only come from a race of two writers; upstream takes the lower one.
        marked.min_by_key(|c| c["value"].as_i64())
    }

    async fn class_of(&self, pod: &Value) -> Result<Class, String> {
        let name = pod["spec"]["priorityClassName"].as_str().unwrap_or_default();
        let class = if name.is_empty() {
            self.default_class()
        } else {
            let found = wait_for(self.objects.as_ref(), "priorityclasses", "", name).await;
            Some(found.ok_or_else(|| format!("no PriorityClass with name {name} was found"))?)
        };
        let text = |field: &Value, otherwise: &str| field.as_str().unwrap_or(otherwise).to_owned();
        let class = class.unwrap_or_else(|| Arc::new(Value::Null));
        Ok(Class {
            name: text(&class["metadata"]["name"], ""),
            value: class["value"].as_i64().unwrap_or(0),
            preemption: text(&class["preemptionPolicy"], "PreemptLowerPriority"),
        })
    }
}

#[async_trait]
impl Admission for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), ApiError> {
        if attributes.is("scheduling.k8s.io", "priorityclasses") {
            return self.one_default(attributes, object);
        }
        if !attributes.creates("", "pods", object) {
            return Ok(());
        }
        let class = self.class_of(object).await.map_err(|why| attributes.forbid(object, &why))?;
        if let Some(given) = object["spec"]["priority"].as_i64().filter(|given| *given != class.value) {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission \
                 controller computed {} from the given PriorityClass name",
                class.value
            );
            return Err(attributes.forbid(object, &why));
        }
        let spec = &mut object["spec"];
        if !class.name.is_empty() {
            spec["priorityClassName"] = json!(class.name);
        }
        spec["priority"] = json!(class.value);
        if spec["preemptionPolicy"].is_null() {
            spec["preemptionPolicy"] = json!(class.preemption);
        }
        Ok(())
    }
}

impl Priority {
    fn one_default(&self, attributes: &Attributes<'_>, class: &Value) -> Result<(), ApiError> {
        if attributes.operation == Operation::Delete || class["globalDefault"] != true {
            return Ok(());
        }
        match self.default_class() {
            Some(other) if other["metadata"]["name"] != attributes.name(class) => {
                let name = other["metadata"]["name"].as_str().unwrap_or_default();
                let why =
                    format!("PriorityClass {name} is already marked as default. Only one default can exist");
                Err(attributes.forbid(class, &why))
            }
            _ => Ok(()),
        }
    }
}
