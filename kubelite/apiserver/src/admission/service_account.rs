//! ServiceAccount: every pod has one that exists, and finds its token, the cluster's CA and its namespace mounted.

use std::sync::Arc;

use async_trait::async_trait;
use kubelite_api::status::ApiError;
use rand::RngExt;
use serde_json::{Value, json};

use crate::admission::{Admission, Attributes, wait_for};
use crate::auth::Objects;
use crate::auth::rbac::array;

/// Where client libraries look.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The beginning of the volume's name.
const VOLUME_PREFIX: &str = "kube-api-access-";
/// Marks the API's picture of a static pod, which has no service account.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";
/// An hour and seven seconds, as upstream: recognisable as the injected token's.
const TOKEN_SECONDS: i64 = 3607;
/// No vowels, so that no words come out (as upstream's generated names).
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Fills in pods, by the cached service accounts.
pub struct ServiceAccount {
    objects: Arc<dyn Objects>,
}

impl ServiceAccount {
    /// Judges by these objects.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        ServiceAccount { objects }
    }
}

#[async_trait]
impl Admission for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    async fn admit(&self, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), ApiError> {
        if !attributes.creates("", "pods", pod) || pod["metadata"]["annotations"].get(MIRROR).is_some() {
            return Ok(());
        }
        let name = pod["spec"]["serviceAccountName"].as_str().filter(|n| !n.is_empty()).unwrap_or("default");
        let (name, namespace) = (name.to_owned(), attributes.request.namespace.as_str());
        pod["spec"]["serviceAccountName"] = json!(name);
        pod["spec"]["serviceAccount"] = json!(name);
        let account = wait_for(self.objects.as_ref(), "serviceaccounts", namespace, &name).await;
        let Some(account) = account else {
            let why = format!(
                "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"
            );
            return Err(attributes.forbid(pod, &why));
        };
        fill(pod, &account, &random_suffix());
        Ok(())
    }
}

/// What a service account gives to a pod. `suffix` ends the volume's name.
fn fill(pod: &mut Value, account: &Value, suffix: &str) {
    let automount = pod["spec"]["automountServiceAccountToken"]
        .as_bool()
        .or_else(|| account["automountServiceAccountToken"].as_bool())
        .unwrap_or(true);
    if automount {
        mount_token(pod, suffix);
    }
    let secrets = array(&account["imagePullSecrets"]);
    if array(&pod["spec"]["imagePullSecrets"]).is_empty() && !secrets.is_empty() {
        pod["spec"]["imagePullSecrets"] = json!(secrets);
    }
}

fn mount_token(pod: &mut Value, suffix: &str) {
    let existing = array(&pod["spec"]["volumes"])
        .iter()
        .filter_map(|v| v["name"].as_str())
        .find(|n| n.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let name = existing.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{suffix}"));
    let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH});
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        let Some(containers) = pod["spec"].get_mut(list).and_then(Value::as_array_mut) else { continue };
        for container in containers.iter_mut().filter(|c| c.is_object()) {
            if array(&container["volumeMounts"]).iter().any(|m| m["mountPath"] == MOUNT_PATH) {
                continue;
            }
            push(&mut container["volumeMounts"], mount.clone());
            mounted = true;
        }
    }
    if mounted && existing.is_none() {
        push(&mut pod["spec"]["volumes"], volume(&name));
    }
}

fn push(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(list) => list.push(item),
        None => *list = json!([item]),
    }
}

fn volume(name: &str) -> Value {
    let namespace =
        json!({"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}});
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]}})
}

fn random_suffix() -> String {
    let mut rng = rand::rng();
    let letter = |_| char::from(ALPHABET.get(rng.random_range(0..ALPHABET.len())).copied().unwrap_or(b'x'));
    (0..5).map(letter).collect()
}
