//! The Node object: what is written at registration, and the status. Pure.

use super::machine::{Identity, Load};
use crate::Config;
use crate::pod::status::seconds;
use crate::runtime::{Image, Readiness, RuntimeError, RuntimeStatus, Version};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec,
    NodeStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// The version of Kubernetes whose kubelet this one behaves like.
pub(super) const VERSION: &str = "v1.37.0+kubelite";
/// Less free memory than this is pressure, and is kept out of allocatable.
pub(crate) const MEMORY_RESERVE: u64 = 100 << 20;
/// Less free disk than a tenth is pressure, and is kept out of allocatable.
const DISK_RESERVE_PERCENT: u64 = 10;
/// Less free inodes or task IDs than this is pressure.
const COUNT_RESERVE_PERCENT: u64 = 5;
/// Images that the status names at most, the largest first.
const MAX_IMAGES: usize = 50;

/// All that the status depends on.
pub(super) struct Facts<'a> {
    pub(super) config: &'a Config,
    pub(super) identity: &'a Identity,
    pub(super) load: Load,
    pub(super) version: &'a Version,
    pub(super) runtime: &'a Result<RuntimeStatus, RuntimeError>,
    pub(super) images: &'a [Image],
    pub(super) now: Timestamp,
}

/// Labels that every node has, and those that were asked for.
pub(super) fn labels(config: &Config, identity: &Identity) -> BTreeMap<String, String> {
    let mut labels = config.labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", identity.architecture),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", identity.architecture),
    ] {
        labels.entry(key.to_string()).or_insert_with(|| value.to_string());
    }
    labels
}

/// A node that registers. It takes no pods before a controller saw it ready.
pub(super) fn new(facts: &Facts<'_>) -> Node {
    let mut node = Node::default();
    node.metadata.name = Some(facts.config.node_name.clone());
    node.metadata.labels = Some(labels(facts.config, facts.identity));
    let taint =
        Taint { key: "node.kubernetes.io/not-ready".into(), effect: "NoSchedule".into(), ..Taint::default() };
    node.spec = Some(NodeSpec { taints: Some(vec![taint]), ..NodeSpec::default() });
    node.status = Some(status(facts, &[]));
    node
}

/// The fields of the status that are the kubelet's; `old` are the conditions at the API.
pub(super) fn status(facts: &Facts<'_>, old: &[NodeCondition]) -> NodeStatus {
    let (capacity, allocatable) = resources(facts);
    let address = |type_: &str, address: String| NodeAddress { type_: type_.into(), address };
    NodeStatus {
        addresses: Some(vec![
            address("InternalIP", facts.config.node_ip.to_string()),
            address("Hostname", facts.config.node_name.clone()),
        ]),
        capacity: Some(capacity),
        allocatable: Some(allocatable),
        conditions: Some(conditions(facts, old)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(facts.config.listen.port()) }),
        }),
        images: Some(images(facts.images)),
        node_info: Some(info(facts)),
        ..NodeStatus::default()
    }
}

fn resources(facts: &Facts<'_>) -> (BTreeMap<String, Quantity>, BTreeMap<String, Quantity>) {
    let (memory, disk) = (facts.identity.memory, facts.load.disk.size);
    let of = |memory: u64, disk: String| {
        let list = [
            ("cpu", facts.identity.cpus.to_string()),
            ("memory", format!("{}Ki", memory / 1024)),
            ("ephemeral-storage", disk),
            ("hugepages-1Gi", "0".to_string()),
            ("hugepages-2Mi", "0".to_string()),
            ("pods", facts.config.max_pods.to_string()),
        ];
        list.into_iter().map(|(k, v)| (k.to_string(), Quantity(v))).collect()
    };
    let usable = disk - disk / 100 * DISK_RESERVE_PERCENT;
    (of(memory, format!("{}Ki", disk / 1024)), of(memory.saturating_sub(MEMORY_RESERVE), usable.to_string()))
}

fn images(all: &[Image]) -> Vec<ContainerImage> {
    let mut all: Vec<&Image> = all.iter().collect();
    all.sort_by_key(|i| (std::cmp::Reverse(i.size), i.id.clone()));
    let names = |i: &Image| i.digests.iter().chain(&i.tags).cloned().collect::<Vec<_>>();
    all.into_iter()
        .take(MAX_IMAGES)
        .map(|i| ContainerImage { names: Some(names(i)), size_bytes: i64::try_from(i.size).ok() })
        .collect()
}

fn info(facts: &Facts<'_>) -> NodeSystemInfo {
    let identity = facts.identity.clone();
    NodeSystemInfo {
        architecture: identity.architecture.into(),
        boot_id: identity.boot_id,
        container_runtime_version: format!("{}://{}", facts.version.name, facts.version.version),
        kernel_version: identity.kernel,
        kube_proxy_version: String::new(),
        kubelet_version: VERSION.into(),
        machine_id: identity.machine_id,
        operating_system: "linux".into(),
        os_image: identity.os_image,
        system_uuid: identity.system_uuid,
        ..NodeSystemInfo::default()
    }
}

/// Whether the runtime or its network keeps the node from being ready, in the words that users see.
pub(super) fn unready(runtime: &Result<RuntimeStatus, RuntimeError>) -> Option<String> {
    let part = |what: &str, type_: &str, r: &Readiness| {
        format!("container runtime {what}not ready: {type_}=false reason:{} message:{}", r.reason, r.message)
    };
    match runtime {
        Err(error) => Some(format!("container runtime is down: {error}")),
        Ok(status) if !status.runtime.ready => Some(part("", "RuntimeReady", &status.runtime)),
        Ok(status) if !status.network.ready => Some(part("network ", "NetworkReady", &status.network)),
        Ok(_) => None,
    }
}

fn conditions(facts: &Facts<'_>, old: &[NodeCondition]) -> Vec<NodeCondition> {
    let load = facts.load;
    let low = |free: u64, all: u64, percent: u64| all > 0 && free < all / 100 * percent;
    let memory = load.memory_available < MEMORY_RESERVE;
    let disk = low(load.disk.available, load.disk.size, DISK_RESERVE_PERCENT)
        || low(load.disk.inodes_free, load.disk.inodes, COUNT_RESERVE_PERCENT);
    let tasks = low(load.tasks_max.saturating_sub(load.tasks), load.tasks_max, COUNT_RESERVE_PERCENT);
    let pressure = |type_: &str, is: bool, yes: [&str; 2], no: [&str; 2]| {
        let [reason, message] = if is { yes } else { no };
        condition(facts, old, type_, is, reason, message.to_string())
    };
    let ready = match unready(facts.runtime) {
        None => {
            condition(facts, old, "Ready", true, "KubeletReady", "kubelet is posting ready status".into())
        }
        Some(message) => condition(facts, old, "Ready", false, "KubeletNotReady", message),
    };
    vec![
        pressure(
            "MemoryPressure",
            memory,
            ["KubeletHasInsufficientMemory", "kubelet has insufficient memory available"],
            ["KubeletHasSufficientMemory", "kubelet has sufficient memory available"],
        ),
        pressure(
            "DiskPressure",
            disk,
            ["KubeletHasDiskPressure", "kubelet has disk pressure"],
            ["KubeletHasNoDiskPressure", "kubelet has no disk pressure"],
        ),
        pressure(
            "PIDPressure",
            tasks,
            ["KubeletHasInsufficientPID", "kubelet has insufficient PID available"],
            ["KubeletHasSufficientPID", "kubelet has sufficient PID available"],
        ),
        ready,
    ]
}

fn condition(
    facts: &Facts<'_>,
    old: &[NodeCondition],
    type_: &str,
    is: bool,
    reason: &str,
    message: String,
) -> NodeCondition {
    let state = if is { "True" } else { "False" };
    let before = old.iter().find(|c| c.type_ == type_ && c.status == state);
    let since = before.and_then(|c| c.last_transition_time.clone());
    NodeCondition {
        type_: type_.into(),
        status: state.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_heartbeat_time: Some(seconds(facts.now)),
        last_transition_time: Some(since.unwrap_or_else(|| seconds(facts.now))),
    }
}

/// The status without what differs at every look.
pub(super) fn essence(status: &NodeStatus) -> NodeStatus {
    let mut status = status.clone();
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_heartbeat_time = None;
        condition.last_transition_time = None;
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_said_in_upstreams_words() {
        let ready = Readiness { ready: true, ..Readiness::default() };
        let network = Readiness {
            ready: false,
            reason: "NetworkPluginNotReady".into(),
            message: "Network plugin returns error: cni plugin not initialized".into(),
        };
        let cases = [
            (Ok(RuntimeStatus { runtime: ready.clone(), network: ready.clone() }), None),
            (
                Ok(RuntimeStatus { runtime: ready, network }),
                Some(
                    "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady \
                     message:Network plugin returns error: cni plugin not initialized",
                ),
            ),
            (
                Err(RuntimeError::Unavailable("gone".into())),
                Some("container runtime is down: container runtime is not reachable: gone"),
            ),
        ];
        for (status, expected) in cases {
            assert_eq!(unready(&status).as_deref(), expected);
        }
    }
}
