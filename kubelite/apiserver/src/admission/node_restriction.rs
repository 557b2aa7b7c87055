//! NodeRestriction: a node writes its own Node, the status of its own pods, and its own lease; nothing else.
//!
//! The Node authorizer has judged by resource and name; here the content of the write is judged. Who is no node is not
//! concerned.

use std::sync::Arc;

use async_trait::async_trait;
use kubelite_api::status::ApiError;
use serde_json::Value;

use crate::admission::service_account::MIRROR;
use crate::admission::{Admission, Attributes, Operation};
use crate::auth::Objects;
use crate::auth::node::{LEASE_NAMESPACE, node_name};
use crate::auth::rbac::array;

/// Labels of the kubernetes.io domains that a node may set on itself.
const OWN_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
];
/// Domains in which a node may set any label.
const OWN_DOMAINS: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

/// The check over the cached pods.
pub struct NodeRestriction {
    objects: Arc<dyn Objects>,
}

impl NodeRestriction {
    /// Judges by these objects.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        NodeRestriction { objects }
    }

    fn judge(&self, node: &str, attributes: &Attributes<'_>, object: &Value) -> Result<(), String> {
        let request = attributes.request;
        match (request.group.as_str(), request.resource.as_str(), request.subresource.as_str()) {
            ("", "pods", "") => pod(node, attributes, object),
            ("", "pods", "status") => pod_status(node, attributes.old, object),
            ("", "pods", "eviction") => {
                let pod = self.objects.get("pods", &request.namespace, &request.name);
                bound(node, pod.as_deref(), "evict pods")
            }
            ("", "pods", _) => Err(format!("node \"{node}\" may not use this subresource of pods")),
            ("", "nodes", _) => own_node(node, attributes, object),
            ("coordination.k8s.io", "leases", _) => {
                let own = request.namespace == LEASE_NAMESPACE && attributes.name(object) == node;
                own.then_some(()).ok_or_else(|| {
                    format!(
                        "can only access node lease with the same name as the requesting node: \"{node}\""
                    )
                })
            }
            ("storage.k8s.io", "csinodes", _) => {
                (attributes.name(object) == node).then_some(()).ok_or_else(|| {
                    "can only access CSINode with the same name as the requesting node".to_owned()
                })
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Admission for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), ApiError> {
        let Some(node) = node_name(attributes.user) else {
            return Ok(());
        };
        self.judge(node, attributes, object).map_err(|why| attributes.forbid(object, &why))
    }
}

/// The pod must be bound to the node.
fn bound(node: &str, pod: Option<&Value>, what: &str) -> Result<(), String> {
    match pod {
        Some(pod) if pod["spec"]["nodeName"] != node => {
            Err(format!("node \"{node}\" can only {what} with spec.nodeName set to itself"))
        }
        _ => Ok(()),
    }
}

fn pod(node: &str, attributes: &Attributes<'_>, pod: &Value) -> Result<(), String> {
    match attributes.operation {
        Operation::Create => mirror_pod(node, pod),
        Operation::Delete => bound(node, attributes.old, "delete pods"),
        _ => Err(format!("node \"{node}\" can only update the status of pods")),
    }
}

/// A node creates nothing but pictures of its static pods, and those refer to no other object.
fn mirror_pod(node: &str, pod: &Value) -> Result<(), String> {
    if pod["metadata"]["annotations"].get(MIRROR).is_none() {
        return Err(format!(
            "pod does not have \"{MIRROR}\" annotation, node \"{node}\" can only create mirror pods"
        ));
    }
    bound(node, Some(pod), "create pods")?;
    let owners = array(&pod["metadata"]["ownerReferences"]);
    if owners.iter().any(|o| o["kind"] != "Node" || o["name"] != node || o["controller"] == false) {
        return Err(format!("node \"{node}\" can only create pods that it owns itself"));
    }
    let spec = &pod["spec"];
    if spec["serviceAccountName"].as_str().is_some_and(|s| !s.is_empty()) {
        return Err(format!("node \"{node}\" can not create pods that reference a service account"));
    }
    let outside = ["secret", "configMap", "persistentVolumeClaim", "projected", "csi", "ephemeral"];
    if array(&spec["volumes"]).iter().any(|v| outside.iter().any(|kind| v[*kind].is_object()))
        || container_references(spec)
        || !array(&spec["imagePullSecrets"]).is_empty()
    {
        return Err(format!(
            "node \"{node}\" can not create pods that reference secrets, config maps or volume claims"
        ));
    }
    Ok(())
}

fn container_references(spec: &Value) -> bool {
    let from_object = |e: &Value| {
        let source = &e["valueFrom"];
        source["secretKeyRef"].is_object() || source["configMapKeyRef"].is_object()
    };
    ["containers", "initContainers", "ephemeralContainers"].iter().any(|list| {
        array(&spec[*list])
            .iter()
            .any(|c| !array(&c["envFrom"]).is_empty() || array(&c["env"]).iter().any(from_object))
    })
}

fn pod_status(node: &str, old: Option<&Value>, new: &Value) -> Result<(), String> {
    bound(node, old, "update pod status for pods")?;
    let same = |field: &str| old.is_none_or(|old| old["metadata"][field] == new["metadata"][field]);
    if !same("labels") || !same("ownerReferences") {
        return Err(format!("node \"{node}\" cannot update labels or owners through pod status"));
    }
    Ok(())
}

fn own_node(node: &str, attributes: &Attributes<'_>, object: &Value) -> Result<(), String> {
    let name = attributes.name(object);
    if name != node {
        return Err(format!("node \"{node}\" is not allowed to modify node \"{name}\""));
    }
    let null = Value::Null;
    let old = attributes.old.unwrap_or(&null);
    match attributes.operation {
        Operation::Delete => return Err(format!("node \"{node}\" is not allowed to delete itself")),
        Operation::Update if old["spec"]["taints"] != object["spec"]["taints"] => {
            return Err(format!("node \"{node}\" is not allowed to modify taints"));
        }
        _ => {}
    }
    if !array(&object["metadata"]["ownerReferences"]).is_empty()
        && old["metadata"]["ownerReferences"] != object["metadata"]["ownerReferences"]
    {
        return Err(format!("node \"{node}\" is not allowed to modify its ownerReferences"));
    }
    let foreign = changed_labels(old, object).into_iter().find(|label| !may_label(label));
    foreign.map_or(Ok(()), |label| Err(format!("node \"{node}\" is not allowed to modify label {label}")))
}

fn changed_labels(old: &Value, new: &Value) -> Vec<String> {
    let empty = serde_json::Map::new();
    let labels = |o: &Value| o["metadata"]["labels"].as_object().unwrap_or(&empty).clone();
    let (old, new) = (labels(old), labels(new));
    let mut changed: Vec<String> =
        old.keys().chain(new.keys()).filter(|k| old.get(*k) != new.get(*k)).cloned().collect();
    changed.dedup();
    changed
}

/// Labels outside the domains of Kubernetes are free; inside, the scheduler may trust what a node cannot set.
fn may_label(label: &str) -> bool {
    let (domain, _) = label.split_once('/').unwrap_or(("", label));
    let inside = |domain: &str, of: &str| domain == of || domain.ends_with(&format!(".{of}"));
    if inside(domain, "node-restriction.kubernetes.io") {
        return false;
    }
    if !inside(domain, "kubernetes.io") && !inside(domain, "k8s.io") {
        return true;
    }
    OWN_LABELS.contains(&label) || OWN_DOMAINS.iter().any(|own| inside(domain, own))
}
