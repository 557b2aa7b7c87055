//! The nodes and what their pods take, at one moment.

use crate::resources::{self, Amounts};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A node with its pods.
pub(crate) struct NodeInfo {
    pub(crate) node: Arc<Node>,
    pub(crate) pods: Vec<Arc<Pod>>,
    pub(crate) allocatable: Amounts,
    pub(crate) requested: Amounts,
    pub(crate) ports: Vec<HostPort>,
}

/// A port that a pod takes on its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    ip: String,
    protocol: String,
    port: i32,
}

impl HostPort {
    /// Two ports exclude one another if they are the same on a common address; no address means all.
    pub(crate) fn conflicts(&self, other: &HostPort) -> bool {
        let any = |ip: &str| matches!(ip, "" | "0.0.0.0" | "::");
        let overlap = any(&self.ip) || any(&other.ip) || self.ip == other.ip;
        overlap && self.protocol == other.protocol && self.port == other.port
    }
}

/// All nodes, ordered by name.
pub(crate) struct Snapshot {
    pub(crate) nodes: Vec<NodeInfo>,
}

impl Snapshot {
    /// Distributes the pods over the nodes. `assumed` (by UID) knows the node of pods whose binding is not seen yet.
    pub(crate) fn new(
        nodes: Vec<Arc<Node>>,
        pods: &[Arc<Pod>],
        assumed: &HashMap<String, String>,
    ) -> Snapshot {
        let mut by_node: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in pods.iter().filter(|pod| !is_finished(pod)) {
            let assumed = pod.metadata.uid.as_ref().and_then(|uid| assumed.get(uid));
            if let Some(node) = node_of(pod).or(assumed.map(String::as_str)) {
                by_node.entry(node.to_string()).or_default().push(pod.clone());
            }
        }
        let info = |node: Arc<Node>| {
            let pods = by_node.remove(&node.name_any()).unwrap_or_default();
            NodeInfo::new(node, pods)
        };
        Snapshot { nodes: nodes.into_iter().map(info).collect() }
    }
}

impl NodeInfo {
    fn new(node: Arc<Node>, pods: Vec<Arc<Pod>>) -> NodeInfo {
        let mut requested = Amounts::new();
        pods.iter().for_each(|pod| resources::add(&mut requested, &resources::of_pod(pod)));
        let allocatable =
            resources::amounts(node.status.as_ref().and_then(|status| status.allocatable.as_ref()));
        let ports = pods.iter().flat_map(|pod| host_ports(pod)).collect();
        NodeInfo { node, pods, allocatable, requested, ports }
    }

    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.node.labels().get(key).map(String::as_str)
    }
}

/// The node that a pod is bound to.
pub(crate) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

pub(crate) fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The ports that a pod takes on its node.
pub(crate) fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let containers = pod.spec.iter().flat_map(|spec| {
        let sidecars =
            spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        spec.containers.iter().chain(sidecars)
    });
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let taken = ports.filter_map(|port| {
        Some(HostPort {
            port: port.host_port.filter(|port| *port > 0)?,
            ip: port.host_ip.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
        })
    });
    taken.collect()
}
