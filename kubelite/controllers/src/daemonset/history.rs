//! A daemon set's history: ControllerRevisions whose data is the patch that brings a template back, as
//! `kubectl rollout history` and `undo` expect it.

use crate::claim::controller_ref;
use crate::hash;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::ResourceExt;
use serde_json::Value;
use std::sync::Arc;

/// The label of pods and revisions that names the template.
pub(super) const HASH_LABEL: &str = "controller-revision-hash";

/// The patch that sets this template.
pub(super) fn data(set: &DaemonSet) -> Value {
    let mut template = serde_json::json!(set.spec.template);
    if let Some(template) = template.as_object_mut() {
        template.insert("$patch".into(), "replace".into());
    }
    serde_json::json!({ "spec": { "template": template } })
}

/// The revision of the daemon set's current template.
pub(super) fn revision(set: &DaemonSet, data: Value, number: i64) -> ControllerRevision {
    let collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let hash = hash::of(&set.spec.template, collisions);
    let mut revision =
        ControllerRevision { data: RawExtension(data), revision: Some(number), ..Default::default() };
    let template = set.spec.template.metadata.as_ref();
    let mut labels = template.and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    labels.insert(HASH_LABEL.into(), hash.clone());
    revision.metadata.labels = Some(labels);
    revision.metadata.annotations = set.metadata.annotations.clone();
    revision.metadata.name = Some(format!("{}-{hash}", set.name_any()));
    revision.metadata.namespace = set.namespace();
    revision.metadata.owner_references = Some(vec![controller_ref(set)]);
    revision
}

pub(super) fn hash_of(revision: &ControllerRevision) -> String {
    revision.labels().get(HASH_LABEL).cloned().unwrap_or_default()
}

/// The revisions beyond the history limit that no pod is of, oldest first.
pub(super) fn expired(
    set: &DaemonSet,
    revisions: &[Arc<ControllerRevision>],
    current: &ControllerRevision,
    pods: &[Arc<Pod>],
) -> Vec<Arc<ControllerRevision>> {
    let limit = usize::try_from(set.spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
    let live = |revision: &Arc<ControllerRevision>| {
        let hash = hash_of(revision);
        hash == hash_of(current) || pods.iter().any(|pod| pod.labels().get(HASH_LABEL) == Some(&hash))
    };
    let mut old: Vec<Arc<ControllerRevision>> =
        revisions.iter().filter(|revision| !live(revision)).cloned().collect();
    old.sort_by_key(|revision| revision.revision);
    old.truncate(old.len().saturating_sub(limit));
    old
}
