//! Who owns what: controller references, adoption of orphans, release of what no longer matches.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::api::{Patch, PatchParams};
use kube::core::{Selector, SelectorExt};
use kube::{Resource, ResourceExt};
use kubelite_informer::Informer;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;

use crate::context::{Context, is_status};

/// The reference to the controller of an object, if it has one.
pub(crate) fn controller_of<K: Resource>(object: &K) -> Option<&OwnerReference> {
    object.owner_references().iter().find(|owner| owner.controller == Some(true))
}

/// The reference by which `owner` controls an object.
pub(crate) fn controller_ref<O: Resource<DynamicType = ()>>(owner: &O) -> OwnerReference {
    OwnerReference {
        api_version: O::api_version(&()).into_owned(),
        kind: O::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A selector that may be invalid (then it selects nothing, as does an empty one for a workload).
pub(crate) fn selector(labels: &LabelSelector) -> Option<Selector> {
    Selector::try_from(labels.clone()).ok().filter(|selector| !selector.selects_all())
}

/// A selector that may be invalid, and means all objects if it is empty.
pub(crate) fn selector_or_all(labels: &LabelSelector) -> Option<Selector> {
    Selector::try_from(labels.clone()).ok()
}

/// What to do with one object that an owner might control.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    Mine,
    Adopt,
    Release,
    NotMine,
}

/// Decides about one object. A terminating owner adopts nothing, and a terminating object isn't adopted.
pub(crate) fn claim<O: Resource, K: Resource>(owner: &O, selector: &Selector, object: &K) -> Claim {
    let matches = selector.matches(object.labels());
    let deleting = owner.meta().deletion_timestamp.is_some();
    match controller_of(object) {
        Some(by) if Some(&by.uid) != owner.meta().uid.as_ref() => Claim::NotMine,
        Some(_) if matches => Claim::Mine,
        Some(_) if deleting => Claim::NotMine,
        Some(_) => Claim::Release,
        None if matches && !deleting && object.meta().deletion_timestamp.is_none() => Claim::Adopt,
        None => Claim::NotMine,
    }
}

/// The objects of the owner's namespace that it controls, after adopting and releasing what needs it.
pub(crate) async fn claim_all<O, K>(
    ctx: &Context,
    owner: &O,
    sel: &Selector,
    cache: &Informer<K>,
) -> kube::Result<Vec<Arc<K>>>
where
    O: Resource<DynamicType = ()>,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    K: Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    claim_all_with(ctx, owner, sel, cache, None).await
}

/// The same; what is adopted gets this finalizer, and what is released loses it.
pub(crate) async fn claim_all_with<O, K>(
    ctx: &Context,
    owner: &O,
    sel: &Selector,
    cache: &Informer<K>,
    finalizer: Option<&str>,
) -> kube::Result<Vec<Arc<K>>>
where
    O: Resource<DynamicType = ()>,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    K: Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let namespace = owner.namespace().unwrap_or_default();
    let mut mine = Vec::new();
    for object in cache.list(&namespace) {
        let (owners, adopted) = match claim(owner, sel, &*object) {
            Claim::NotMine => continue,
            Claim::Mine => {
                mine.push(object);
                continue;
            }
            Claim::Adopt => (with_owner(&*object, controller_ref(owner)), true),
            Claim::Release => (without_owner(&*object, &owner.uid().unwrap_or_default()), false),
        };
        // The UID makes the patch fail on a successor, the resourceVersion on an object that someone else changed.
        let mut patch = serde_json::json!({ "metadata": {
            "uid": object.uid(), "resourceVersion": object.resource_version(), "ownerReferences": owners } });
        if let Some(finalizer) = finalizer {
            let others = object.finalizers().iter().map(String::as_str).filter(|other| *other != finalizer);
            let finalizers: Vec<&str> = others.chain(Some(finalizer).filter(|_| adopted)).collect();
            patch["metadata"]["finalizers"] = serde_json::json!(finalizers);
        }
        let api = ctx.api::<K>(&namespace);
        match api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(written) => {
                cache.written(written.clone());
                if controller_of(&written).is_some_and(|by| Some(&by.uid) == owner.uid().as_ref()) {
                    mine.push(Arc::new(written));
                }
            }
            Err(error) if is_status(&error, 404) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(mine)
}

fn with_owner<K: Resource>(object: &K, owner: OwnerReference) -> Vec<OwnerReference> {
    object.owner_references().iter().cloned().chain([owner]).collect()
}

fn without_owner<K: Resource>(object: &K, uid: &str) -> Vec<OwnerReference> {
    object.owner_references().iter().filter(|owner| owner.uid != uid).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use k8s_openapi::api::core::v1::Pod;

    #[test]
    fn table() {
        let mut owner = ReplicaSet::default();
        owner.metadata.uid = Some("me".into());
        owner.metadata.name = Some("rs".into());
        let sel = Selector::from_iter([("app", "a")]);
        let pod = |label: &str, uid: Option<&str>| {
            let mut pod = Pod::default();
            pod.metadata.labels = Some([("app".to_string(), label.to_string())].into());
            pod.metadata.owner_references = uid.map(|uid| {
                vec![OwnerReference { uid: uid.into(), controller: Some(true), ..Default::default() }]
            });
            pod
        };
        assert_eq!(claim(&owner, &sel, &pod("a", Some("me"))), Claim::Mine);
        assert_eq!(claim(&owner, &sel, &pod("b", Some("me"))), Claim::Release);
        assert_eq!(claim(&owner, &sel, &pod("a", None)), Claim::Adopt);
        assert_eq!(claim(&owner, &sel, &pod("b", None)), Claim::NotMine);
        assert_eq!(claim(&owner, &sel, &pod("a", Some("other"))), Claim::NotMine);
    }
}
