//! The history of daemon sets and stateful sets: ControllerRevisions whose data is the patch that brings a template back,
//! as `kubectl rollout history` and `undo` expect it.

use crate::claim::controller_ref;
use crate::context::{Context, is_status};
use crate::hash;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, StatefulSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use kubelite_informer::Informer;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Debug;
use std::sync::Arc;

/// Revisions that are kept if the owner doesn't say how many.
const DEFAULT_LIMIT: i32 = 10;

/// A kind that keeps its former templates.
pub(crate) trait Revised:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// The label of a revision that holds its hash.
    const HASH_LABEL: &'static str;
    fn template(&self) -> &PodTemplateSpec;
    /// How often a hash turned out to be taken by another template.
    fn collisions(&self) -> i32;
    fn limit(&self) -> Option<i32>;
}

impl Revised for DaemonSet {
    const HASH_LABEL: &'static str = "controller-revision-hash";

    fn template(&self) -> &PodTemplateSpec {
        &self.spec.template
    }

    fn collisions(&self) -> i32 {
        self.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0)
    }

    fn limit(&self) -> Option<i32> {
        self.spec.revision_history_limit
    }
}

impl Revised for StatefulSet {
    const HASH_LABEL: &'static str = "controller.kubernetes.io/hash";

    fn template(&self) -> &PodTemplateSpec {
        &self.spec.template
    }

    fn collisions(&self) -> i32 {
        self.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0)
    }

    fn limit(&self) -> Option<i32> {
        self.spec.revision_history_limit
    }
}

/// The patch that sets this template.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::json!(template);
    if let Some(template) = template.as_object_mut() {
        template.insert("$patch".into(), "replace".into());
    }
    serde_json::json!({ "spec": { "template": template } })
}

/// The template that a revision brings back.
pub(crate) fn template(revision: &ControllerRevision) -> serde_json::Result<PodTemplateSpec> {
    let mut template = revision.data.0.pointer("/spec/template").cloned().unwrap_or_default();
    template.as_object_mut().map(|fields| fields.remove("$patch"));
    serde_json::from_value(template)
}

/// The revision of the owner's current template.
fn revision<K: Revised>(owner: &K, data: Value, number: i64) -> ControllerRevision {
    let hash = hash::of(owner.template(), owner.collisions());
    let mut revision =
        ControllerRevision { data: RawExtension(data), revision: Some(number), ..Default::default() };
    let template = owner.template().metadata.as_ref();
    let mut labels = template.and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    labels.insert(K::HASH_LABEL.into(), hash.clone());
    revision.metadata.labels = Some(labels);
    revision.metadata.annotations = owner.meta().annotations.clone();
    revision.metadata.name = Some(format!("{}-{hash}", owner.name_any()));
    revision.metadata.namespace = owner.namespace();
    revision.metadata.owner_references = Some(vec![controller_ref(owner)]);
    revision
}

pub(crate) fn hash_of<K: Revised>(revision: &ControllerRevision) -> String {
    revision.labels().get(K::HASH_LABEL).cloned().unwrap_or_default()
}

/// The revision of the current template, made or renumbered if necessary; none if its name is taken and the hash has to
/// be another one, which has been noted in the owner's status.
pub(crate) async fn current<K: Revised>(
    ctx: &Context,
    owners: &Informer<K>,
    owner: &K,
    revisions: &[Arc<ControllerRevision>],
) -> kube::Result<Option<Arc<ControllerRevision>>> {
    let (cache, api) = (&ctx.caches.controller_revisions, ctx.api(&owner.namespace().unwrap_or_default()));
    let last = revisions.iter().filter_map(|revision| revision.revision).max().unwrap_or(0);
    let data = data(owner.template());
    let written: ControllerRevision = match revisions.iter().find(|revision| revision.data.0 == data) {
        Some(found) if found.revision == Some(last) => return Ok(Some(found.clone())),
        Some(found) => {
            let patch = serde_json::json!({ "revision": last + 1 });
            api.patch(&found.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?
        }
        None => match api.create(&PostParams::default(), &revision(owner, data, last + 1)).await {
            Err(error) if is_status(&error, 409) => {
                count_collision(ctx, owners, owner).await?;
                return Ok(None);
            }
            created => created?,
        },
    };
    cache.written(written.clone());
    Ok(Some(Arc::new(written)))
}

async fn count_collision<K: Revised>(ctx: &Context, owners: &Informer<K>, owner: &K) -> kube::Result<()> {
    let patch = serde_json::json!({ "status": { "collisionCount": owner.collisions() + 1 } });
    let api = ctx.api::<K>(&owner.namespace().unwrap_or_default());
    let written = api.patch_status(&owner.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
    owners.written(written);
    Ok(())
}

/// The revisions beyond the history limit that are not live, oldest first.
pub(crate) fn expired<K: Revised>(
    owner: &K,
    revisions: &[Arc<ControllerRevision>],
    live: impl Fn(&ControllerRevision) -> bool,
) -> Vec<Arc<ControllerRevision>> {
    let limit = usize::try_from(owner.limit().unwrap_or(DEFAULT_LIMIT)).unwrap_or(0);
    let mut old: Vec<Arc<ControllerRevision>> =
        revisions.iter().filter(|revision| !live(revision)).cloned().collect();
    old.sort_by_key(|revision| revision.revision);
    old.truncate(old.len().saturating_sub(limit));
    old
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_revision_brings_its_template_back_and_old_ones_expire() {
        let set: StatefulSet = serde_json::from_value(json!({ "metadata": {"name": "s", "uid": "u"},
            "spec": {"revisionHistoryLimit": 1, "serviceName": "x", "selector": {},
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}]}}} }))
        .unwrap();
        let of = |number| Arc::new(revision(&set, data(set.template()), number));
        assert_eq!(template(&of(1)).unwrap(), set.spec.template);
        assert_eq!(of(1).name_any(), format!("s-{}", hash_of::<StatefulSet>(&of(1))));
        let all = [of(3), of(1), of(2), of(4)];
        let expired = expired(&set, &all, |revision| revision.revision == Some(1));
        let numbers: Vec<_> = expired.iter().map(|revision| revision.revision.unwrap()).collect();
        assert_eq!(numbers, [2, 3]);
    }
}
