//! A deployment's history: which replica set has which template, under which revision number.

use crate::claim::controller_ref;
use crate::hash;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(super) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";
pub(super) const HASH_LABEL: &str = "pod-template-hash";
/// Annotations of the deployment that say nothing about a revision.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
];

/// Whether the replica set's template is the deployment's, but for the hash label.
pub(super) fn same_template(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let plain = |template: &PodTemplateSpec| {
        let mut template = template.clone();
        if let Some(labels) = template.metadata.as_mut().and_then(|metadata| metadata.labels.as_mut()) {
            labels.remove(HASH_LABEL);
        }
        template
    };
    let of_set = set.spec.template.as_ref().map(plain);
    of_set.is_some_and(|template| template == plain(&deployment.spec.template))
}

/// The replica set of the current template; the oldest, if there are several.
pub(super) fn find_new(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Option<Arc<ReplicaSet>> {
    sets.iter().find(|set| same_template(deployment, set)).cloned()
}

pub(super) fn number(annotations: &BTreeMap<String, String>, key: &str) -> Option<i64> {
    annotations.get(key).and_then(|text| text.parse().ok())
}

pub(super) fn revision_of(set: &ReplicaSet) -> i64 {
    number(set.annotations(), REVISION).unwrap_or(0)
}

/// The revision that the current template must have: above all others.
pub(super) fn next_revision(others: &[Arc<ReplicaSet>]) -> i64 {
    others.iter().map(|set| revision_of(set)).max().unwrap_or(0) + 1
}

/// The annotations of the replica set of the current template.
pub(super) fn annotations(
    deployment: &Deployment,
    set: Option<&ReplicaSet>,
    revision: i64,
    (desired, max): (i32, i32),
) -> BTreeMap<String, String> {
    let mut result = set.map(|set| set.annotations().clone()).unwrap_or_default();
    let copied = deployment.annotations().iter().filter(|(key, _)| !NOT_COPIED.contains(&key.as_str()));
    result.extend(copied.map(|(key, value)| (key.clone(), value.clone())));
    let before = set.map(revision_of).filter(|before| *before > 0);
    if let Some(before) = before.filter(|before| *before < revision) {
        let history = result.entry(REVISION_HISTORY.into()).or_default();
        *history = if history.is_empty() { before.to_string() } else { format!("{history},{before}") };
    }
    result.insert(REVISION.into(), revision.max(before.unwrap_or(0)).to_string());
    result.insert(DESIRED.into(), desired.to_string());
    result.insert(MAX.into(), max.to_string());
    result
}

/// The replica set that a deployment's template needs.
pub(super) fn new_set(deployment: &Deployment, revision: i64, size: i32, limits: (i32, i32)) -> ReplicaSet {
    let spec = &deployment.spec;
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let hash = hash::of(&spec.template, collisions);
    let label = |labels: &mut BTreeMap<String, String>| _ = labels.insert(HASH_LABEL.into(), hash.clone());
    let mut template = spec.template.clone();
    label(template.metadata.get_or_insert_default().labels.get_or_insert_default());
    let mut selector = spec.selector.clone();
    label(selector.match_labels.get_or_insert_default());
    let mut set = ReplicaSet::default();
    set.metadata.name = Some(format!("{}-{hash}", deployment.name_any()));
    set.metadata.namespace = deployment.namespace();
    set.metadata.labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.clone());
    set.metadata.annotations = Some(annotations(deployment, None, revision, limits));
    set.metadata.owner_references = Some(vec![controller_ref(deployment)]);
    set.spec = ReplicaSetSpec {
        replicas: Some(size),
        min_ready_seconds: spec.min_ready_seconds,
        selector,
        template: Some(template),
    };
    set
}

/// The empty old replica sets that are beyond the history limit, oldest revision first.
pub(super) fn expired(old: &[Arc<ReplicaSet>], limit: usize) -> Vec<Arc<ReplicaSet>> {
    let idle = |set: &&Arc<ReplicaSet>| {
        let observed = set.status.as_ref().and_then(|status| status.observed_generation);
        let replicas = set.status.as_ref().map_or(0, |status| status.replicas);
        let generation = set.metadata.generation;
        super::plan::replicas(set) == 0
            && replicas == 0
            && observed >= generation
            && set.metadata.deletion_timestamp.is_none()
    };
    let mut candidates: Vec<Arc<ReplicaSet>> = old.iter().filter(idle).cloned().collect();
    candidates.sort_by_key(|set| revision_of(set));
    let surplus = old.len().saturating_sub(limit);
    candidates.truncate(surplus);
    candidates
}
