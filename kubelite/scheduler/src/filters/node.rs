//! The filters that look at one node alone.

use crate::cycle::Cycle;
use crate::snapshot::NodeInfo;
use k8s_openapi::api::core::v1::Taint;
use kube::ResourceExt;
use kubelite_api::scheduling::{admits_node, tolerating};

fn reason(rejected: bool, text: &str) -> Vec<String> {
    if rejected { vec![text.to_string()] } else { vec![] }
}

pub(super) fn unschedulable(cycle: &Cycle<'_>, node: &NodeInfo) -> Vec<String> {
    let cordoned = node.node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    };
    reason(cordoned && tolerating(cycle.pod, &taint).next().is_none(), "node(s) were unschedulable")
}

pub(super) fn name(cycle: &Cycle<'_>, node: &NodeInfo) -> Vec<String> {
    let wanted = crate::snapshot::node_of(cycle.pod);
    reason(
        wanted.is_some_and(|wanted| wanted != node.node.name_any()),
        "node(s) didn't match the requested node name",
    )
}

pub(super) fn taints(cycle: &Cycle<'_>, node: &NodeInfo) -> Vec<String> {
    let taints = node.node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let mut hard = taints.filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
    let untolerated = hard.find(|taint| tolerating(cycle.pod, taint).next().is_none());
    let text = |taint: &Taint| {
        let value = taint.value.as_deref().unwrap_or_default();
        format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)
    };
    untolerated.map(text).into_iter().collect()
}

pub(super) fn affinity(cycle: &Cycle<'_>, node: &NodeInfo) -> Vec<String> {
    reason(!admits_node(cycle.pod, &node.node), "node(s) didn't match Pod's node affinity/selector")
}

pub(super) fn ports(cycle: &Cycle<'_>, node: &NodeInfo) -> Vec<String> {
    let conflict = cycle.ports.iter().any(|port| node.ports.iter().any(|taken| taken.conflicts(port)));
    reason(conflict, "node(s) didn't have free ports for the requested pod ports")
}

pub(super) fn resources(cycle: &Cycle<'_>, node: &NodeInfo) -> Vec<String> {
    let get = |amounts: &crate::resources::Amounts, name: &str| amounts.get(name).copied().unwrap_or(0);
    let short = cycle.requests.iter().filter(|(name, amount)| {
        **amount > 0 && **amount > get(&node.allocatable, name) - get(&node.requested, name)
    });
    let text = |(name, _): (&String, &i128)| match name.as_str() {
        "pods" => "Too many pods".to_string(),
        name => format!("Insufficient {name}"),
    };
    short.map(text).collect()
}
