//! The Node authorizer: a kubelet gets what its own pods need and nothing of other nodes.
//!
//! Three parts: a table of what every node may do whatever the object; objects that are its own by name; and secrets,
//! config maps, volume claims and tokens, which it may have if a pod that is bound to it refers to them.
//! Fields of writes (its own `spec`, its own pods) are the matter of the admission NodeRestriction.

use std::sync::Arc;

use serde_json::Value;

use crate::auth::rbac::array;
use crate::auth::{Decision, Objects};
use crate::request::{RequestInfo, UserInfo};

/// (group, resource with subresource, verbs) that hold for any object. NodeRestriction narrows the writes.
const ANY: &[(&str, &str, &str)] = &[
    ("", "services", "get list watch"),
    ("", "nodes", "create get list watch update patch"),
    ("", "nodes/status", "update patch"),
    ("", "pods", "list watch create delete"),
    ("", "pods/status", "update patch"),
    ("", "pods/eviction", "create"),
    ("", "events", "create update patch"),
    ("events.k8s.io", "events", "create update patch"),
    ("discovery.k8s.io", "endpointslices", "get list watch"),
    ("node.k8s.io", "runtimeclasses", "get list watch"),
    ("storage.k8s.io", "csidrivers", "get list watch"),
    ("storage.k8s.io", "volumeattachments", "get"),
    ("certificates.k8s.io", "certificatesigningrequests", "create get list watch"),
    ("authentication.k8s.io", "tokenreviews", "create"),
    ("authorization.k8s.io", "subjectaccessreviews", "create"),
    ("authorization.k8s.io", "localsubjectaccessreviews", "create"),
];

/// The namespace of the nodes' heartbeat leases.
pub const LEASE_NAMESPACE: &str = "kube-node-lease";

/// The node that a user is: name `system:node:<name>` and group `system:nodes`.
pub fn node_name(user: &UserInfo) -> Option<&str> {
    let name = user.name.strip_prefix("system:node:").filter(|n| !n.is_empty())?;
    user.groups.iter().any(|g| g == "system:nodes").then_some(name)
}

/// The authorizer over the cached pods.
pub struct Node {
    objects: Arc<dyn Objects>,
}

impl Node {
    /// Judges by these objects.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        Node { objects }
    }

    /// None if the user is no node; RBAC is asked then, and also after a denial.
    pub fn authorize(&self, user: &UserInfo, request: &RequestInfo) -> Option<Decision> {
        let node = node_name(user)?;
        if !request.is_resource {
            return Some(Decision::Deny(String::new()));
        }
        if in_table(request) || self.own(node, request) || self.referenced(node, request) {
            return Some(Decision::Allow("node: needed by the kubelet".to_owned()));
        }
        Some(Decision::Deny(format!("no relationship found between node '{node}' and this object")))
    }

    /// Objects that belong to the node by their name or binding.
    fn own(&self, node: &str, request: &RequestInfo) -> bool {
        let verb = request.verb.as_str();
        match (request.group.as_str(), request.resource.as_str(), request.subresource.as_str()) {
            // A creation has no name here yet: NodeRestriction compares it.
            ("coordination.k8s.io", "leases", "") => {
                request.namespace == LEASE_NAMESPACE
                    && (verb == "create"
                        || (matches!(verb, "get" | "update" | "patch" | "delete") && request.name == node))
            }
            ("storage.k8s.io", "csinodes", "") => {
                verb == "create"
                    || (matches!(verb, "get" | "update" | "patch" | "delete") && request.name == node)
            }
            ("", "pods", "") if verb == "get" => self
                .objects
                .get("pods", &request.namespace, &request.name)
                .is_none_or(|pod| pod["spec"]["nodeName"] == node),
            _ => false,
        }
    }

    fn referenced(&self, node: &str, request: &RequestInfo) -> bool {
        let verb = request.verb.as_str();
        let read = matches!(verb, "get" | "list" | "watch") && request.subresource.is_empty();
        let reference =
            match (request.group.as_str(), request.resource.as_str(), request.subresource.as_str()) {
                ("", "secrets", "") if read => Reference::Secret,
                ("", "configmaps", "") if read => Reference::ConfigMap,
                ("", "persistentvolumeclaims", "") if verb == "get" => Reference::Claim,
                ("", "persistentvolumes", "") if verb == "get" => return self.volume(node, &request.name),
                ("", "serviceaccounts", "token") if verb == "create" => Reference::ServiceAccount,
                ("", "serviceaccounts", "") if verb == "get" => Reference::ServiceAccount,
                _ => return false,
            };
        !request.name.is_empty()
            && self.pods(node, &request.namespace).iter().any(|pod| refers(pod, reference, &request.name))
    }

    /// A volume, by way of the claims of the node's pods.
    fn volume(&self, node: &str, volume: &str) -> bool {
        self.pods(node, "").iter().any(|pod| {
            let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
            claims(pod).iter().any(|claim| {
                self.objects
                    .get("persistentvolumeclaims", namespace, claim)
                    .is_some_and(|c| c["spec"]["volumeName"] == volume)
            })
        })
    }

    fn pods(&self, node: &str, namespace: &str) -> Vec<Arc<Value>> {
        let mut pods = self.objects.list("pods", namespace);
        pods.retain(|pod| pod["spec"]["nodeName"] == node);
        pods
    }
}

fn in_table(request: &RequestInfo) -> bool {
    let full = if request.subresource.is_empty() {
        request.resource.clone()
    } else {
        format!("{}/{}", request.resource, request.subresource)
    };
    ANY.iter().any(|(group, resource, verbs)| {
        *group == request.group && *resource == full && verbs.split(' ').any(|v| v == request.verb)
    })
}

/// What a pod may refer to by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference {
    /// `secrets`
    Secret,
    /// `configmaps`
    ConfigMap,
    /// `persistentvolumeclaims`
    Claim,
    /// `serviceaccounts`
    ServiceAccount,
}

/// Whether a pod refers to an object of its namespace.
pub fn refers(pod: &Value, what: Reference, name: &str) -> bool {
    match what {
        Reference::ServiceAccount => pod["spec"]["serviceAccountName"] == name,
        Reference::Claim => claims(pod).iter().any(|c| c == name),
        Reference::Secret => {
            array(&pod["spec"]["imagePullSecrets"]).iter().any(|s| s["name"] == name)
                || volumes_refer(pod, "secret", "secretName", name)
                || containers_refer(pod, "secretKeyRef", "secretRef", name)
        }
        Reference::ConfigMap => {
            volumes_refer(pod, "configMap", "name", name)
                || containers_refer(pod, "configMapKeyRef", "configMapRef", name)
        }
    }
}

fn volumes_refer(pod: &Value, source: &str, field: &str, name: &str) -> bool {
    array(&pod["spec"]["volumes"]).iter().any(|volume| {
        volume[source][field] == name
            || array(&volume["projected"]["sources"]).iter().any(|s| s[source]["name"] == name)
            || (source == "secret" && volume["csi"]["nodePublishSecretRef"]["name"] == name)
    })
}

fn containers_refer(pod: &Value, key: &str, whole: &str, name: &str) -> bool {
    ["containers", "initContainers", "ephemeralContainers"].iter().any(|list| {
        array(&pod["spec"][list]).iter().any(|container| {
            array(&container["env"]).iter().any(|e| e["valueFrom"][key]["name"] == name)
                || array(&container["envFrom"]).iter().any(|e| e[whole]["name"] == name)
        })
    })
}

/// The claims of a pod; that of an ephemeral volume is named after pod and volume.
fn claims(pod: &Value) -> Vec<String> {
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    array(&pod["spec"]["volumes"])
        .iter()
        .filter_map(|volume| {
            if volume["ephemeral"].is_object() {
                return Some(format!("{pod_name}-{}", volume["name"].as_str()?));
            }
            Some(volume["persistentVolumeClaim"]["claimName"].as_str()?.to_owned())
        })
        .collect()
}
