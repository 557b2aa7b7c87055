//! DefaultStorageClass, DefaultIngressClass and StorageObjectInUseProtection: claims and ingresses without a class get the
//! default one, and volumes and claims stay until nobody uses them.

use std::sync::Arc;

use async_trait::async_trait;
use kubelite_api::status::ApiError;
use serde_json::{Value, json};

use crate::admission::{Admission, Attributes};
use crate::auth::Objects;
use crate::auth::rbac::array;

const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
const DEFAULT_INGRESS: &str = "ingressclass.kubernetes.io/is-default-class";

/// Fills in claims by the cached classes.
pub struct DefaultStorageClass {
    objects: Arc<dyn Objects>,
}

impl DefaultStorageClass {
    /// Judges by these objects.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        DefaultStorageClass { objects }
    }
}

#[async_trait]
impl Admission for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    async fn admit(&self, attributes: &Attributes<'_>, claim: &mut Value) -> Result<(), ApiError> {
        let created = attributes.creates("", "persistentvolumeclaims", claim);
        let says = !claim["spec"]["storageClassName"].is_null()
            || !claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].is_null();
        if !created || says {
            return Ok(());
        }
        if let Some(name) = default_class(&*self.objects, "storageclasses", DEFAULT) {
            claim["spec"]["storageClassName"] = name;
        }
        Ok(())
    }
}

/// The name of the class that is marked as the default one. Of several it is the newest, as upstream; the timestamps are RFC 3339 in UTC
/// and compare as text.
fn default_class(objects: &dyn Objects, kind: &str, mark: &str) -> Option<Value> {
    let mut classes = objects.list(kind, "");
    classes.retain(|class| class["metadata"]["annotations"][mark] == "true");
    let text = |class: &Value, field: &str| class["metadata"][field].as_str().unwrap_or("").to_owned();
    classes.sort_by_key(|c| (text(c, "creationTimestamp"), std::cmp::Reverse(text(c, "name"))));
    Some(classes.last()?["metadata"]["name"].clone())
}

/// Fills in ingresses by the cached classes.
pub struct DefaultIngressClass {
    objects: Arc<dyn Objects>,
}

impl DefaultIngressClass {
    /// Judges by these objects.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        DefaultIngressClass { objects }
    }
}

#[async_trait]
impl Admission for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    async fn admit(&self, attributes: &Attributes<'_>, ingress: &mut Value) -> Result<(), ApiError> {
        let created = attributes.creates("networking.k8s.io", "ingresses", ingress);
        let says = !ingress["spec"]["ingressClassName"].is_null()
            || !ingress["metadata"]["annotations"]["kubernetes.io/ingress.class"].is_null();
        if created
            && !says
            && let Some(name) = default_class(&*self.objects, "ingressclasses", DEFAULT_INGRESS)
        {
            ingress["spec"]["ingressClassName"] = name;
        }
        Ok(())
    }
}

/// Sets the finalizers that the protection controllers take away.
pub struct StorageObjectInUseProtection;

#[async_trait]
impl Admission for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), ApiError> {
        let finalizer = if attributes.creates("", "persistentvolumeclaims", object) {
            "kubernetes.io/pvc-protection"
        } else if attributes.creates("", "persistentvolumes", object) {
            "kubernetes.io/pv-protection"
        } else {
            return Ok(());
        };
        let mut finalizers = array(&object["metadata"]["finalizers"]).to_vec();
        if !finalizers.iter().any(|f| f == finalizer) {
            finalizers.push(json!(finalizer));
            object["metadata"]["finalizers"] = Value::Array(finalizers);
        }
        Ok(())
    }
}
