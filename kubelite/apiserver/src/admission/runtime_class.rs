//! RuntimeClass: what a pod's runtime costs beside its containers, and on which nodes it is.

use std::sync::Arc;

use async_trait::async_trait;
use kubelite_api::status::ApiError;
use serde_json::{Value, json};

use crate::admission::{Admission, Attributes, wait_for};
use crate::auth::Objects;
use crate::auth::rbac::array;

/// Fills in pods by the cached runtime classes.
pub struct RuntimeClass {
    objects: Arc<dyn Objects>,
}

impl RuntimeClass {
    /// Judges by these objects.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        RuntimeClass { objects }
    }
}

#[async_trait]
impl Admission for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    async fn admit(&self, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), ApiError> {
        if !attributes.creates("", "pods", pod) {
            return Ok(());
        }
        let name = pod["spec"]["runtimeClassName"].as_str().unwrap_or_default().to_owned();
        let class = if name.is_empty() {
            Arc::new(Value::Null)
        } else {
            let found = wait_for(self.objects.as_ref(), "runtimeclasses", "", &name).await;
            let missing = || format!("pod rejected: RuntimeClass \"{name}\" not found");
            found.ok_or_else(|| attributes.forbid(pod, &missing()))?
        };
        apply(pod, &class).map_err(|why| attributes.forbid(pod, &why))
    }
}

fn apply(pod: &mut Value, class: &Value) -> Result<(), String> {
    let (overhead, given) = (&class["overhead"]["podFixed"], &pod["spec"]["overhead"]);
    if given.as_object().is_some_and(|g| !g.is_empty()) && given != overhead {
        return Err(
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".to_owned()
        );
    }
    if overhead.is_object() {
        pod["spec"]["overhead"] = overhead.clone();
    }
    if class["scheduling"]["nodeSelector"].is_object() && !pod["spec"]["nodeSelector"].is_object() {
        pod["spec"]["nodeSelector"] = json!({});
    }
    for (key, value) in class["scheduling"]["nodeSelector"].as_object().into_iter().flatten() {
        let own = &pod["spec"]["nodeSelector"][key];
        if !own.is_null() && own != value {
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {own}"
            ));
        }
        pod["spec"]["nodeSelector"][key] = value.clone();
    }
    let wanted = array(&class["scheduling"]["tolerations"]);
    if !wanted.is_empty() {
        let mut tolerations = array(&pod["spec"]["tolerations"]).to_vec();
        tolerations
            .extend(wanted.iter().filter(|t| !array(&pod["spec"]["tolerations"]).contains(t)).cloned());
        pod["spec"]["tolerations"] = json!(tolerations);
    }
    Ok(())
}
