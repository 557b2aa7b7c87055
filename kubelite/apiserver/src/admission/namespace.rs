//! NamespaceLifecycle: nothing is created in a namespace that is missing or going, and three namespaces stay.

use std::sync::Arc;

use async_trait::async_trait;
use kubelite_api::status::ApiError;
use serde_json::{Value, json};

use crate::admission::{Admission, Attributes, Operation, wait_for};
use crate::auth::Objects;

/// Namespaces that are never deleted.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

/// The check over the cached namespaces.
pub struct NamespaceLifecycle {
    objects: Arc<dyn Objects>,
}

impl NamespaceLifecycle {
    /// Judges by these objects.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        NamespaceLifecycle { objects }
    }
}

#[async_trait]
impl Admission for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), ApiError> {
        let request = attributes.request;
        if attributes.is("", "namespaces") {
            if attributes.operation == Operation::Delete && IMMORTAL.contains(&request.name.as_str()) {
                return Err(attributes.forbid(object, "this namespace may not be deleted"));
            }
            return Ok(());
        }
        if attributes.operation != Operation::Create
            || request.namespace.is_empty()
            || request.resource == "namespaces"
        {
            return Ok(());
        }
        let name = request.namespace.as_str();
        let namespace = wait_for(self.objects.as_ref(), "namespaces", "", name)
            .await
            .ok_or_else(|| ApiError::not_found("namespaces", name))?;
        if namespace["status"]["phase"] != "Terminating"
            && namespace["metadata"]["deletionTimestamp"].is_null()
        {
            return Ok(());
        }
        let why = format!("unable to create new content in namespace {name} because it is being terminated");
        let mut error = attributes.forbid(object, &why);
        // Clients recognise the case by this cause.
        error.details["causes"] = json!([{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {name} is being terminated"),
            "field": "metadata.namespace",
        }]);
        Err(error)
    }
}
