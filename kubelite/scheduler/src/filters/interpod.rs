//! Required affinity and anti-affinity between pods.

use crate::cycle::Cycle;
use crate::snapshot::{NodeInfo, Snapshot};
use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm};
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};
use std::collections::HashSet;

/// Domains (label key, value) that matter to a pod.
pub(crate) struct Terms {
    /// Per affinity term: its key, the domains where a matching pod runs, whether the pod itself would match.
    affinity: Vec<(String, HashSet<String>, bool)>,
    /// Domains in which the pod refuses to run.
    own_anti: HashSet<(String, String)>,
    /// Domains in which a running pod refuses this one.
    others_anti: HashSet<(String, String)>,
}

/// What the pod's terms, and the terms of the running pods, mean on this snapshot.
pub(crate) fn terms(pod: &Pod, snapshot: &Snapshot) -> Terms {
    let affinity = required(pod, false).into_iter().map(|term| {
        let domains = domains(pod, term, snapshot).map(|(_, value)| value).collect();
        (term.topology_key.clone(), domains, matches(pod, term, pod))
    });
    let affinity = affinity.collect();
    let own_anti = required(pod, true).into_iter().flat_map(|term| domains(pod, term, snapshot)).collect();
    let mut others_anti = HashSet::new();
    for node in &snapshot.nodes {
        for other in &node.pods {
            let refusing = required(other, true).into_iter().filter(|term| matches(other, term, pod));
            let keys = refusing
                .filter_map(|t| Some((t.topology_key.clone(), node.label(&t.topology_key)?.to_string())));
            others_anti.extend(keys);
        }
    }
    Terms { affinity, own_anti, others_anti }
}

fn required(pod: &Pod, anti: bool) -> Vec<&PodAffinityTerm> {
    let Some(affinity) = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()) else { return vec![] };
    let terms = match anti {
        true => affinity
            .pod_anti_affinity
            .as_ref()
            .map(|a| &a.required_during_scheduling_ignored_during_execution),
        false => {
            affinity.pod_affinity.as_ref().map(|a| &a.required_during_scheduling_ignored_during_execution)
        }
    };
    terms.into_iter().flatten().flatten().collect()
}

/// Whether `owner`'s term means `other`.
fn matches(owner: &Pod, term: &PodAffinityTerm, other: &Pod) -> bool {
    let named = term
        .namespaces
        .iter()
        .flatten()
        .any(|namespace| Some(namespace) == other.metadata.namespace.as_ref());
    let unnamed = term.namespaces.as_ref().is_none_or(Vec::is_empty);
    // An empty namespace selector means all namespaces; any other one is not evaluated and matches none.
    let all = term.namespace_selector.as_ref().is_some_and(|selector| *selector == Default::default());
    let own = unnamed && term.namespace_selector.is_none() && owner.namespace() == other.namespace();
    let selector = term.label_selector.clone().and_then(|labels| Selector::try_from(labels).ok());
    (named || all || own) && selector.is_some_and(|selector| selector.matches(other.labels()))
}

fn domains<'a>(
    pod: &'a Pod,
    term: &'a PodAffinityTerm,
    snapshot: &'a Snapshot,
) -> impl Iterator<Item = (String, String)> + 'a {
    let with_match =
        snapshot.nodes.iter().filter(|node| node.pods.iter().any(|other| matches(pod, term, other)));
    with_match
        .filter_map(|node| Some((term.topology_key.clone(), node.label(&term.topology_key)?.to_string())))
}

pub(super) fn filter(cycle: &Cycle<'_>, node: &NodeInfo) -> Vec<String> {
    let terms = &cycle.interpod;
    let here = |(key, value): &(String, String)| node.label(key) == Some(value);
    // The first pod of a group that wants to be together must be able to start it.
    let first = terms.affinity.iter().all(|(_, domains, itself)| domains.is_empty() && *itself);
    let together = terms
        .affinity
        .iter()
        .all(|(key, domains, _)| node.label(key).is_some_and(|value| first || domains.contains(value)));
    if !together {
        return vec!["node(s) didn't match pod affinity rules".into()];
    }
    if terms.own_anti.iter().any(here) {
        return vec!["node(s) didn't match pod anti-affinity rules".into()];
    }
    if terms.others_anti.iter().any(here) {
        return vec!["node(s) didn't satisfy existing pods anti-affinity rules".into()];
    }
    vec![]
}
