//! Which of the possible nodes is best. Each score is 0 to 100 after normalisation and has a weight.

use crate::cycle::Cycle;
use crate::resources::{DEFAULT_CPU, DEFAULT_MEMORY};
use crate::snapshot::NodeInfo;
use kube::ResourceExt;
use kubelite_api::scheduling::{preference, tolerating};

const HIGHEST: i64 = 100;

/// A score, its weight, and whether more of the raw number is better.
struct Score {
    raw: fn(&Cycle<'_>, &NodeInfo) -> i64,
    weight: i64,
    more_is_better: bool,
}

const SCORES: [Score; 5] = [
    Score { raw: least_allocated, weight: 1, more_is_better: true },
    Score { raw: |cycle, node| preference(cycle.pod, &node.node), weight: 2, more_is_better: true },
    Score { raw: untolerated, weight: 3, more_is_better: false },
    Score { raw: crowd, weight: 2, more_is_better: false },
    Score { raw: siblings, weight: 1, more_is_better: false },
];

/// The node with the highest sum of weighted scores; among equals the first by name.
pub(crate) fn best<'a>(cycle: &Cycle<'_>, nodes: &[&'a NodeInfo]) -> Option<&'a NodeInfo> {
    let mut totals = vec![0; nodes.len()];
    for score in &SCORES {
        let raw: Vec<i64> = nodes.iter().map(|node| (score.raw)(cycle, node)).collect();
        let most = raw.iter().copied().max().unwrap_or(0);
        for (total, raw) in totals.iter_mut().zip(raw) {
            let share = if most > 0 { raw * HIGHEST / most } else { 0 };
            *total += score.weight * if score.more_is_better { share } else { HIGHEST - share };
        }
    }
    let ranked = nodes.iter().zip(totals);
    ranked
        .min_by_key(|(node, total)| (std::cmp::Reverse(*total), node.node.name_any()))
        .map(|(node, _)| *node)
}

/// The free share of processor and memory, with the pod on it; pods without requests count a little all the same.
fn least_allocated(cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
    let free = |name: &str, least: i128| {
        let allocatable = node.allocatable.get(name).copied().unwrap_or(0);
        let wanted = cycle.requests.get(name).copied().filter(|amount| *amount > 0).unwrap_or(least);
        let taken = node.requested.get(name).copied().unwrap_or(0) + wanted;
        let share = (allocatable - taken).max(0) * 1000 / allocatable.max(1);
        i64::try_from(share).unwrap_or(0)
    };
    (free("cpu", DEFAULT_CPU) + free("memory", DEFAULT_MEMORY)) / 2
}

/// Soft taints that the pod doesn't tolerate.
fn untolerated(cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
    let taints = node.node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let soft = taints
        .filter(|taint| taint.effect == "PreferNoSchedule" && tolerating(cycle.pod, taint).next().is_none());
    i64::try_from(soft.count()).unwrap_or(i64::MAX)
}

/// Matching pods in the node's domains of the soft spread constraints.
fn crowd(cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
    let soft = cycle.spread.iter().filter(|constraint| !constraint.hard);
    let here =
        soft.map(|c| node.label(&c.key).and_then(|domain| c.domains.get(domain)).copied().unwrap_or(0));
    i64::try_from(here.sum::<usize>()).unwrap_or(i64::MAX)
}

/// Pods of the same controller on the node: replicas go apart by themselves.
fn siblings(cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
    let Some(owner) = cycle.pod.owner_references().iter().find(|owner| owner.controller == Some(true)) else {
        return 0;
    };
    let same =
        node.pods.iter().filter(|pod| pod.owner_references().iter().any(|other| other.uid == owner.uid));
    i64::try_from(same.count()).unwrap_or(i64::MAX)
}
