//! The filters that look at one node alone.

use crate::affinity;
use crate::cycle::Cycle;
use crate::snapshot::NodeInfo;
use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};
use kube::ResourceExt;

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
    reason(cordoned && !tolerates(cycle.pod, &taint), "node(s) were unschedulable")
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
    let untolerated = hard.find(|taint| !tolerates(cycle.pod, taint));
    let text = |taint: &Taint| {
        let value = taint.value.as_deref().unwrap_or_default();
        format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)
    };
    untolerated.map(text).into_iter().collect()
}

/// Whether one of the pod's tolerations admits the taint.
pub(crate) fn tolerates(pod: &Pod, taint: &Taint) -> bool {
    pod.spec
        .iter()
        .flat_map(|spec| spec.tolerations.iter().flatten())
        .any(|toleration| admits(toleration, taint))
}

fn admits(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let exists = toleration.operator.as_deref() == Some("Exists");
    let key = given(&toleration.key);
    let value = toleration.value.clone().unwrap_or_default() == taint.value.clone().unwrap_or_default();
    given(&toleration.effect).is_none_or(|effect| effect == taint.effect)
        && key.as_ref().map_or(exists, |key| *key == taint.key)
        && (exists || value)
}

pub(super) fn affinity(cycle: &Cycle<'_>, node: &NodeInfo) -> Vec<String> {
    reason(!affinity::required(cycle.pod, node), "node(s) didn't match Pod's node affinity/selector")
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
