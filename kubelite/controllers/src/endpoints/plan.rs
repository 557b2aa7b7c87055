//! From a service and the pods of its namespace to slices. No I/O.

use crate::claim::controller_ref;
use crate::pods;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort as LegacyPort, EndpointSubset, Endpoints, Node, ObjectReference, Pod,
    Service, ServicePort,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Endpoints in one slice.
const MAX_ENDPOINTS: usize = 100;

pub(super) fn is_managed(slice: &EndpointSlice) -> bool {
    slice.labels().get(MANAGED_BY).is_some_and(|by| by == MANAGER)
}

pub(super) fn has_selector(service: &Service) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| !selector.is_empty())
}

pub(super) fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    has_selector(service) && selector.into_iter().flatten().all(|(k, v)| pod.labels().get(k) == Some(v))
}

/// Whether a change of a pod leaves its endpoints as they are.
pub(super) fn same_endpoint(old: &Pod, new: &Pod) -> bool {
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    old.metadata.labels == new.metadata.labels
        && addresses(old) == addresses(new)
        && node(old) == node(new)
        && pods::is_ready(old) == pods::is_ready(new)
        && pods::is_terminating(old) == pods::is_terminating(new)
        && pods::is_finished(old) == pods::is_finished(new)
}

fn addresses(pod: &Pod) -> Vec<&str> {
    let status = pod.status.as_ref();
    let all = status.into_iter().flat_map(|s| s.pod_ips.iter().flatten()).map(|ip| ip.ip.as_str());
    let found: Vec<&str> = all.filter(|ip| !ip.is_empty()).collect();
    let single = status.and_then(|s| s.pod_ip.as_deref()).filter(|ip| !ip.is_empty() && found.is_empty());
    found.into_iter().chain(single).collect()
}

fn family(address: &str) -> &'static str {
    if address.contains(':') { "IPv6" } else { "IPv4" }
}

/// The slices that a service must have, without names.
pub(super) fn slices(service: &Service, pods: &[Arc<Pod>], nodes: &[Arc<Node>]) -> Vec<EndpointSlice> {
    let spec = service.spec.clone().unwrap_or_default();
    let families =
        spec.ip_families.filter(|families| !families.is_empty()).unwrap_or_else(|| vec!["IPv4".into()]);
    let mut result = Vec::new();
    for wanted in families {
        // Pods that resolve a named port differently can't share a slice.
        let mut groups: BTreeMap<String, (Vec<EndpointPort>, Vec<Endpoint>)> = BTreeMap::new();
        for pod in pods.iter().filter(|pod| selects(service, pod) && !pods::is_finished(pod)) {
            let Some(address) = addresses(pod).into_iter().find(|address| family(address) == wanted) else {
                continue;
            };
            let ports = ports(service, pod);
            let group = groups.entry(format!("{ports:?}")).or_insert_with(|| (ports, vec![]));
            group.1.push(endpoint(service, pod, address, nodes));
        }
        if groups.is_empty() {
            groups.insert(String::new(), (vec![], vec![]));
        }
        for (ports, endpoints) in groups.into_values() {
            let chunks: Vec<Vec<Endpoint>> = match endpoints.is_empty() {
                true => vec![vec![]],
                false => endpoints.chunks(MAX_ENDPOINTS).map(<[Endpoint]>::to_vec).collect(),
            };
            result.extend(chunks.into_iter().map(|chunk| slice(service, &wanted, ports.clone(), chunk)));
        }
    }
    result
}

fn slice(
    service: &Service,
    family: &str,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let mut slice = EndpointSlice {
        address_type: family.to_string(),
        endpoints: Some(endpoints),
        ports: Some(ports),
        ..EndpointSlice::default()
    };
    let mut labels = labels(service);
    labels.insert(SERVICE_LABEL.into(), service.name_any());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    slice.metadata.labels = Some(labels);
    slice.metadata.generate_name = Some(format!("{}-", service.name_any()));
    slice.metadata.namespace = service.namespace();
    slice.metadata.owner_references = Some(vec![controller_ref(service)]);
    slice
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.labels().clone();
    let headless = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None");
    if headless {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels
}

fn endpoint(service: &Service, pod: &Pod, address: &str, nodes: &[Arc<Node>]) -> Endpoint {
    let spec = pod.spec.clone().unwrap_or_default();
    let (serving, terminating) = (pods::is_ready(pod), pods::is_terminating(pod));
    let unready_too = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
    let named =
        spec.subdomain.as_ref() == Some(&service.name_any()) && pod.namespace() == service.namespace();
    let node = nodes.iter().find(|node| Some(node.name_any()) == spec.node_name);
    Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(unready_too || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: spec.hostname.filter(|hostname| named && !hostname.is_empty()),
        node_name: spec.node_name,
        target_ref: Some(reference(pod)),
        zone: node.and_then(|node| node.labels().get(ZONE).cloned()),
        ..Endpoint::default()
    }
}

fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        name: Some(pod.name_any()),
        namespace: pod.namespace(),
        uid: pod.uid(),
        ..ObjectReference::default()
    }
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let all = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let resolved = all.filter_map(|port| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(target(port, pod)?),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
            app_protocol: port.app_protocol.clone(),
        })
    });
    resolved.collect()
}

/// The pod's port behind a service port: a number, or the container port of that name and protocol.
fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
            let mut named = containers.flat_map(|container| container.ports.iter().flatten());
            let same = |p: &k8s_openapi::api::core::v1::ContainerPort| {
                p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol
            };
            named.find(|p| same(p)).map(|p| p.container_port)
        }
    }
}

/// The older form of the same: one object per service, pods grouped by their ports.
pub(super) fn endpoints(service: &Service, pods: &[Arc<Pod>]) -> Endpoints {
    let mut subsets: BTreeMap<String, EndpointSubset> = BTreeMap::new();
    let unready_too = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
    for pod in pods.iter().filter(|pod| selects(service, pod) && pods::is_active(pod)) {
        let Some(ip) = addresses(pod).first().map(ToString::to_string) else { continue };
        let endpoint = endpoint(service, pod, &ip, &[]);
        let ports = ports(service, pod).into_iter().map(legacy_port).collect::<Vec<_>>();
        let subset = subsets.entry(format!("{ports:?}")).or_default();
        subset.ports = Some(ports).filter(|ports| !ports.is_empty());
        let address = EndpointAddress {
            ip,
            hostname: endpoint.hostname,
            node_name: endpoint.node_name,
            target_ref: endpoint.target_ref,
        };
        match unready_too || pods::is_ready(pod) {
            true => subset.addresses.get_or_insert_default().push(address),
            false => subset.not_ready_addresses.get_or_insert_default().push(address),
        }
    }
    let mut result = Endpoints { subsets: Some(subsets.into_values().collect()), ..Endpoints::default() };
    result.subsets = result.subsets.filter(|subsets| !subsets.is_empty());
    result.metadata.name = service.metadata.name.clone();
    result.metadata.namespace = service.namespace();
    let mut labels = labels(service);
    labels.insert("endpoints.kubernetes.io/managed-by".into(), "endpoint-controller".into());
    result.metadata.labels = Some(labels);
    result
}

fn legacy_port(port: EndpointPort) -> LegacyPort {
    LegacyPort {
        name: port.name.filter(|name| !name.is_empty()),
        port: port.port.unwrap_or(0),
        protocol: port.protocol,
        app_protocol: port.app_protocol,
    }
}

/// One write.
pub(super) enum Change {
    Create(Box<EndpointSlice>),
    Replace(Box<EndpointSlice>),
    Delete(Arc<EndpointSlice>),
}

/// The writes from the slices that are to those that must be: equal ones stay, the names of others are used again.
pub(super) fn difference(wanted: Vec<EndpointSlice>, existing: &[Arc<EndpointSlice>]) -> Vec<Change> {
    let same = |a: &EndpointSlice, b: &EndpointSlice| {
        let empty = |slice: &EndpointSlice| {
            (slice.endpoints.clone().unwrap_or_default(), slice.ports.clone().unwrap_or_default())
        };
        a.address_type == b.address_type && a.metadata.labels == b.metadata.labels && empty(a) == empty(b)
    };
    let mut free: Vec<Arc<EndpointSlice>> = existing.to_vec();
    let mut missing = Vec::new();
    for slice in wanted {
        match free.iter().position(|found| same(found, &slice)) {
            Some(at) => _ = free.swap_remove(at),
            None => missing.push(slice),
        }
    }
    let mut changes = Vec::new();
    for mut slice in missing {
        match free.iter().position(|found| found.address_type == slice.address_type) {
            Some(at) => {
                slice.metadata = kube::api::ObjectMeta {
                    labels: slice.metadata.labels,
                    ..free.swap_remove(at).metadata.clone()
                };
                changes.push(Change::Replace(Box::new(slice)));
            }
            None => changes.push(Change::Create(Box::new(slice))),
        }
    }
    changes.extend(free.into_iter().map(Change::Delete));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service() -> Service {
        serde_json::from_value(json!({ "metadata": {"name": "web", "namespace": "ns", "uid": "s"},
            "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]} }))
        .unwrap()
    }

    fn pod(index: usize, ready: bool, port: i32) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        let value = json!({ "metadata": {"name": format!("p{index}"), "namespace": "ns", "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
            "status": {"podIP": format!("10.0.0.{index}"), "phase": "Running",
                "conditions": [{"type": "Ready", "status": status}]} });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn named_ports_split_slices_and_readiness_shows() {
        let made = slices(&service(), &[pod(1, true, 8080), pod(2, false, 8080), pod(3, true, 9090)], &[]);
        assert_eq!(made.len(), 2);
        let first = made[0].endpoints.as_ref().unwrap();
        let ready: Vec<_> = first.iter().map(|e| e.conditions.as_ref().unwrap().ready.unwrap()).collect();
        assert_eq!((made[0].ports.as_ref().unwrap()[0].port, ready), (Some(8080), vec![true, false]));
    }

    #[test]
    fn slices_are_full_at_a_hundred_and_settle() {
        let pods: Vec<_> = (1..=150).map(|i| pod(i, true, 80)).collect();
        let made = slices(&service(), &pods, &[]);
        let sizes: Vec<_> = made.iter().map(|slice| slice.endpoints.as_ref().unwrap().len()).collect();
        assert_eq!(sizes, [100, 50]);
        let existing: Vec<_> = made.iter().cloned().map(Arc::new).collect();
        assert!(difference(made, &existing).is_empty(), "what is already so is not written again");
    }
}
