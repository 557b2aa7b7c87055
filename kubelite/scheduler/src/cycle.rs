//! One decision: a pod against a snapshot.

use crate::filters::{self, interpod, spread};
use crate::resources::{self, Amounts};
use crate::scores;
use crate::snapshot::{HostPort, NodeInfo, Snapshot, host_ports};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use std::collections::BTreeMap;

/// What is computed once per pod, before its nodes are looked at.
pub(crate) struct Cycle<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) requests: Amounts,
    pub(crate) ports: Vec<HostPort>,
    pub(crate) spread: Vec<spread::Constraint>,
    pub(crate) interpod: interpod::Terms,
}

impl<'a> Cycle<'a> {
    pub(crate) fn new(pod: &'a Pod, snapshot: &Snapshot) -> Cycle<'a> {
        Cycle {
            pod,
            requests: resources::of_pod(pod),
            ports: host_ports(pod),
            spread: spread::constraints(pod, snapshot),
            interpod: interpod::terms(pod, snapshot),
        }
    }
}

/// The best node for a pod.
///
/// # Errors
/// The sentence for users that says why there is none.
pub(crate) fn select(pod: &Pod, snapshot: &Snapshot) -> Result<String, String> {
    let cycle = Cycle::new(pod, snapshot);
    let mut feasible: Vec<&NodeInfo> = Vec::new();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for node in &snapshot.nodes {
        let rejected = filters::reject(&cycle, node);
        if rejected.is_empty() {
            feasible.push(node);
        }
        rejected.into_iter().for_each(|reason| *reasons.entry(reason).or_default() += 1);
    }
    scores::best(&cycle, &feasible)
        .map(|node| node.node.name_any())
        .ok_or_else(|| sentence(snapshot.nodes.len(), &reasons))
}

/// In upstream's words, which tools and users know.
fn sentence(nodes: usize, reasons: &BTreeMap<String, usize>) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".into();
    }
    let mut parts: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Node;
    use serde_json::{Value, json};
    use std::collections::HashMap;
    use std::sync::Arc;

    fn node(name: &str, cpu: &str, taint: Option<&str>) -> Arc<Node> {
        let taints = taint.map(|key| json!([{"key": key, "effect": "NoSchedule"}])).unwrap_or(json!([]));
        let value = json!({ "metadata": {"name": name, "labels": {"zone": name, "kubernetes.io/hostname": name}},
            "spec": {"taints": taints}, "status": {"allocatable": {"cpu": cpu, "memory": "1Gi", "pods": "10"}} });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn pod(name: &str, node: Option<&str>, mut spec: Value, cpu: &str) -> Arc<Pod> {
        spec["containers"] = json!([{"name": "c", "resources": {"requests": {"cpu": cpu}},
            "ports": spec.get("ports").cloned().unwrap_or(json!([]))}]);
        spec["nodeName"] = json!(node);
        let metadata = json!({"name": name, "uid": name, "namespace": "ns", "labels": {"app": "a"}});
        Arc::new(serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap())
    }

    fn decide(nodes: Vec<Arc<Node>>, pods: &[Arc<Pod>], pod: &Pod) -> Result<String, String> {
        select(pod, &Snapshot::new(nodes, pods, &HashMap::new()))
    }

    #[test]
    fn the_emptier_node_is_chosen_and_an_assumed_pod_counts() {
        let waiting = pod("p", None, json!({}), "1");
        let other = pod("o", None, json!({}), "1");
        let assumed = HashMap::from([("o".to_string(), "a".to_string())]);
        let snapshot = Snapshot::new(vec![node("a", "2", None), node("b", "2", None)], &[other], &assumed);
        assert_eq!(select(&waiting, &snapshot).unwrap(), "b");
    }

    #[test]
    fn reasons_are_counted_in_upstreams_words() {
        let nodes = vec![node("a", "1", None), node("b", "1", None), node("c", "9", Some("dedicated"))];
        let text = decide(nodes, &[], &pod("p", None, json!({}), "2")).unwrap_err();
        assert_eq!(
            text,
            "0/3 nodes are available: 1 node(s) had untolerated taint {dedicated: }, 2 Insufficient cpu."
        );
    }

    #[test]
    fn table_of_requirements() {
        let anti = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "a"}}}]}}});
        let with = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "a"}}}]}}});
        let named = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]}}}});
        let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "a"}}}]});
        let port = json!({"ports": [{"containerPort": 80, "hostPort": 80}]});
        let table = [
            (json!({}), json!({}), Some("b")),
            (anti.clone(), json!({}), Some("b")),
            (json!({}), anti, Some("b")),
            (with, json!({}), Some("a")),
            (named, json!({}), Some("a")),
            (spread, json!({}), Some("b")),
            (port.clone(), port, Some("b")),
            (json!({"nodeSelector": {"zone": "a"}}), json!({}), Some("a")),
            (json!({"nodeSelector": {"zone": "c"}}), json!({}), None),
        ];
        for (spec, running, expected) in table {
            let running = [pod("r", Some("a"), running, "100m")];
            let found = decide(
                vec![node("a", "2", None), node("b", "2", None)],
                &running,
                &pod("p", None, spec.clone(), "0"),
            );
            assert_eq!(found.ok().as_deref(), expected, "{spec}");
        }
    }
}
