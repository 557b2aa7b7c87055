//! Node selectors: the terms of node affinity against a node's labels and name.

use crate::snapshot::NodeInfo;
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Pod};
use kube::ResourceExt;

/// Whether the pod's nodeSelector and required node affinity admit the node.
pub(crate) fn required(pod: &Pod, node: &NodeInfo) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| node.label(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let terms = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected
        && terms.is_none_or(|selector| selector.node_selector_terms.iter().any(|term| matches(term, node)))
}

/// The sum of the weights of the preferred terms that fit.
pub(crate) fn preferred(pod: &Pod, node: &NodeInfo) -> i64 {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()?.node_affinity.as_ref());
    let terms = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    terms
        .into_iter()
        .flatten()
        .filter(|term| matches(&term.preference, node))
        .map(|term| i64::from(term.weight))
        .sum()
}

/// A term without requirements matches nothing.
fn matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let labels: Vec<_> = term.match_expressions.iter().flatten().collect();
    let fields: Vec<_> = term.match_fields.iter().flatten().collect();
    let name = node.node.name_any();
    !(labels.is_empty() && fields.is_empty())
        && labels.iter().all(|requirement| fits(requirement, node.label(&requirement.key)))
        && fields
            .iter()
            .all(|requirement| requirement.key == "metadata.name" && fits(requirement, Some(&name)))
}

fn fits(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let among = value.is_some_and(|value| values.iter().any(|v| v == value));
    let compared = || {
        let number = value?.parse::<i64>().ok()?;
        let bound = values.first()?.parse::<i64>().ok()?;
        Some(number.cmp(&bound))
    };
    match requirement.operator.as_str() {
        "In" => among,
        "NotIn" => !among,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared().is_some_and(std::cmp::Ordering::is_gt),
        "Lt" => compared().is_some_and(std::cmp::Ordering::is_lt),
        _ => false,
    }
}
