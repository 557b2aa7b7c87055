//! Which nodes can take a pod. Each filter is a pure function that says why a node can't.

pub(crate) mod interpod;
mod node;
pub(crate) mod spread;

use crate::cycle::Cycle;
use crate::snapshot::NodeInfo;

/// The reasons, in the words that users know; none means that the node passes.
type Filter = fn(&Cycle<'_>, &NodeInfo) -> Vec<String>;

/// In this order; the first one that rejects a node names the reason.
const FILTERS: [Filter; 8] = [
    node::unschedulable,
    node::name,
    node::taints,
    node::affinity,
    node::ports,
    node::resources,
    spread::filter,
    interpod::filter,
];

/// Why the node can't take the pod; empty if it can.
pub(crate) fn reject(cycle: &Cycle<'_>, node: &NodeInfo) -> Vec<String> {
    FILTERS.iter().map(|filter| filter(cycle, node)).find(|reasons| !reasons.is_empty()).unwrap_or_default()
}
