//! Pod topology spread: no domain may have `maxSkew` matching pods more than the emptiest one.

use crate::cycle::Cycle;
use crate::snapshot::{NodeInfo, Snapshot};
use k8s_openapi::api::core::v1::{Pod, TopologySpreadConstraint};
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};
use kubelite_api::scheduling::admits_node;
use std::collections::HashMap;

/// A constraint with the pods that each domain has now.
pub(crate) struct Constraint {
    pub(crate) key: String,
    pub(crate) hard: bool,
    max_skew: usize,
    pub(crate) domains: HashMap<String, usize>,
    fewest: usize,
    matches_itself: bool,
}

/// The pod's constraints over the nodes that its node affinity admits.
pub(crate) fn constraints(pod: &Pod, snapshot: &Snapshot) -> Vec<Constraint> {
    let all = pod.spec.iter().flat_map(|spec| spec.topology_spread_constraints.iter().flatten());
    all.map(|constraint| count(pod, constraint, snapshot)).collect()
}

fn count(pod: &Pod, constraint: &TopologySpreadConstraint, snapshot: &Snapshot) -> Constraint {
    let selector = selector(pod, constraint);
    let matches = |other: &Pod| selector.as_ref().is_some_and(|selector| selector.matches(other.labels()));
    let mut domains: HashMap<String, usize> = HashMap::new();
    for node in snapshot.nodes.iter().filter(|node| admits_node(pod, &node.node)) {
        let Some(domain) = node.label(&constraint.topology_key) else { continue };
        let here = node.pods.iter().filter(|other| other.namespace() == pod.namespace());
        let here = here.filter(|other| other.metadata.deletion_timestamp.is_none() && matches(other)).count();
        *domains.entry(domain.to_string()).or_default() += here;
    }
    let enough =
        usize::try_from(constraint.min_domains.unwrap_or(1)).is_ok_and(|least| domains.len() >= least);
    Constraint {
        key: constraint.topology_key.clone(),
        hard: constraint.when_unsatisfiable == "DoNotSchedule",
        max_skew: usize::try_from(constraint.max_skew).unwrap_or(1),
        fewest: if enough { domains.values().min().copied().unwrap_or(0) } else { 0 },
        domains,
        matches_itself: matches(pod),
    }
}

/// The selector, narrowed by the pod's own values of `matchLabelKeys`.
fn selector(pod: &Pod, constraint: &TopologySpreadConstraint) -> Option<Selector> {
    let mut labels = constraint.label_selector.clone()?;
    let keys = constraint.match_label_keys.iter().flatten();
    let own = keys.filter_map(|key| Some((key.clone(), pod.labels().get(key)?.clone())));
    labels.match_labels.get_or_insert_default().extend(own);
    Selector::try_from(labels).ok()
}

pub(super) fn filter(cycle: &Cycle<'_>, node: &NodeInfo) -> Vec<String> {
    for constraint in cycle.spread.iter().filter(|constraint| constraint.hard) {
        let Some(domain) = node.label(&constraint.key) else {
            return vec![
                "node(s) didn't match pod topology spread constraints (missing required label)".into(),
            ];
        };
        let here =
            constraint.domains.get(domain).copied().unwrap_or(0) + usize::from(constraint.matches_itself);
        if here > constraint.fewest + constraint.max_skew {
            return vec!["node(s) didn't match pod topology spread constraints".into()];
        }
    }
    vec![]
}
