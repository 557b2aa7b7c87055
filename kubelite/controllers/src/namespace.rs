//! Namespaces that are being deleted: their contents go first, of every kind that discovery shows, then the finalizer.

use crate::context::{Context, WORKERS, is_status};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::PartialObjectMeta;
use kube::discovery::{ApiResource, Discovery, Scope, verbs};
use kube::{Api, ResourceExt};
use kubelite_informer::{Key, Queue};
use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

/// The finalizer in `spec.finalizers` that this controller removes.
const FINALIZER: &str = "kubernetes";
/// How soon to look again while contents remain; nothing tells when an arbitrary kind's last object is gone.
const RECHECK: Duration = Duration::from_millis(500);

/// Subscribes the namespace controller, and runs it.
pub(crate) fn run(ctx: Context) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let changed = queue.clone();
    ctx.caches.namespaces.on_change(move |change| {
        let deleting = change.new.filter(|namespace| namespace.metadata.deletion_timestamp.is_some());
        deleting.into_iter().for_each(|namespace| changed.add(Key::of(namespace).name));
    });
    async move {
        ctx.caches.synced().await;
        queue.run(WORKERS, ctx.shutdown.clone(), move |name| reconcile(ctx.clone(), name)).await;
    }
}

/// What is left in a namespace, and what went wrong while emptying it.
#[derive(Debug, Default, PartialEq)]
struct Remains {
    discovery_error: Option<String>,
    deletion_errors: Vec<String>,
    /// Objects that are still there, by `resource.group`.
    objects: BTreeMap<String, usize>,
    /// Objects that wait for a finalizer, by its name.
    finalizers: BTreeMap<String, usize>,
}

impl Remains {
    fn is_empty(&self) -> bool {
        *self == Remains::default()
    }
}

async fn reconcile(ctx: Context, name: String) -> kube::Result<Option<Duration>> {
    let api: Api<Namespace> = Api::all(ctx.client.clone());
    let Some(namespace) = api.get_opt(&name).await? else { return Ok(None) };
    let holds = |namespace: &Namespace| finalizers(namespace).any(|finalizer| finalizer == FINALIZER);
    if namespace.metadata.deletion_timestamp.is_none() || !holds(&namespace) {
        return Ok(None);
    }
    let remains = empty(&ctx, &name).await;
    let mut reported = namespace.clone();
    let status = reported.status.get_or_insert_default();
    status.phase = Some("Terminating".into());
    status.conditions =
        Some(conditions(&remains, status.conditions.as_deref().unwrap_or_default(), Timestamp::now()));
    let current = match reported.status == namespace.status {
        true => namespace,
        false => api.replace_status(&name, &PostParams::default(), &reported).await?,
    };
    if !remains.is_empty() {
        return Ok(Some(RECHECK));
    }
    finalize(&ctx, current).await?;
    Ok(None)
}

fn finalizers(namespace: &Namespace) -> impl Iterator<Item = &String> {
    namespace.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten())
}

async fn finalize(ctx: &Context, mut namespace: Namespace) -> kube::Result<()> {
    let left: Vec<String> =
        finalizers(&namespace).filter(|finalizer| *finalizer != FINALIZER).cloned().collect();
    namespace.spec.get_or_insert_default().finalizers = Some(left);
    let api: Api<Namespace> = Api::all(ctx.client.clone());
    match api.replace_subresource("finalize", &namespace.name_any(), &PostParams::default(), &namespace).await
    {
        Err(error) if is_status(&error, 404) => Ok(()),
        outcome => outcome.map(|_| ()),
    }
}

/// Asks for the deletion of everything in the namespace, kind by kind, and reports what is still there.
async fn empty(ctx: &Context, namespace: &str) -> Remains {
    let mut remains = Remains::default();
    let discovery = match Discovery::new(ctx.client.clone()).run().await {
        Ok(discovery) => discovery,
        Err(error) => return Remains { discovery_error: Some(error.to_string()), ..remains },
    };
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            let deletable = capabilities.supports_operation(verbs::DELETE)
                && capabilities.supports_operation(verbs::LIST);
            if capabilities.scope == Scope::Namespaced && deletable {
                empty_kind(ctx, namespace, &resource, &mut remains).await;
            }
        }
    }
    remains
}

async fn empty_kind(ctx: &Context, namespace: &str, resource: &ApiResource, remains: &mut Remains) {
    let api: Api<DynamicObject> = Api::namespaced_with(ctx.client.clone(), namespace, resource);
    let objects = match api.list_metadata(&ListParams::default()).await {
        Ok(list) => list.items,
        // A kind that can't be listed by collection holds nothing that could be left behind.
        Err(error) if is_status(&error, 404) || is_status(&error, 405) => return,
        Err(error) => return remains.deletion_errors.push(format!("{}: {error}", resource.plural)),
    };
    for object in objects.iter().filter(|object| object.metadata.deletion_timestamp.is_none()) {
        match api.delete(&object.name_any(), &DeleteParams::background()).await {
            Ok(_) => {}
            Err(error) if is_status(&error, 404) || is_status(&error, 409) => {}
            Err(error) => remains.deletion_errors.push(format!("{}: {error}", resource.plural)),
        }
    }
    count(remains, resource, &objects);
}

fn count(remains: &mut Remains, resource: &ApiResource, objects: &[PartialObjectMeta<DynamicObject>]) {
    if objects.is_empty() {
        return;
    }
    *remains.objects.entry(format!("{}.{}", resource.plural, resource.group)).or_default() += objects.len();
    for finalizer in objects.iter().flat_map(|object| object.finalizers()) {
        *remains.finalizers.entry(finalizer.clone()).or_default() += 1;
    }
}

/// The five conditions of a namespace's deletion (their reasons and texts are those that users know).
fn conditions(remains: &Remains, old: &[NamespaceCondition], now: Timestamp) -> Vec<NamespaceCondition> {
    let listed = |counts: &BTreeMap<String, usize>, what: &str| {
        let parts: Vec<String> =
            counts.iter().map(|(name, n)| format!("{name} {what} {n} resource instances")).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    };
    let deletion = (!remains.deletion_errors.is_empty()).then(|| remains.deletion_errors.join(", "));
    let content = listed(&remains.objects, "has").map(|l| format!("Some resources are remaining: {l}"));
    let finalizing = listed(&remains.finalizers, "in");
    let finalizing =
        finalizing.map(|l| format!("Some content in the namespace has finalizers remaining: {l}"));
    let ok = "All resources successfully discovered";
    [
        (
            "NamespaceDeletionDiscoveryFailure",
            remains.discovery_error.clone(),
            "DiscoveryFailed",
            "ResourcesDiscovered",
            ok,
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            "GroupVersionParsingFailed",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            deletion,
            "ContentDeletionFailed",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            content,
            "SomeResourcesRemain",
            "ContentRemoved",
            "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            finalizing,
            "SomeFinalizersRemain",
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        ),
    ]
    .into_iter()
    .map(|(type_, problem, bad, good, message)| {
        let status = if problem.is_some() { "True" } else { "False" };
        let same = old.iter().find(|condition| condition.type_ == type_ && condition.status == status);
        NamespaceCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(if problem.is_some() { bad } else { good }.into()),
            message: Some(problem.unwrap_or_else(|| message.into())),
            last_transition_time: same.and_then(|c| c.last_transition_time.clone()).or(Some(Time(now))),
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remaining_objects_show_in_the_conditions_and_keep_their_time() {
        let mut remains = Remains::default();
        remains.objects.insert("pods.".into(), 2);
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = conditions(&remains, &[], at(1));
        let content = first.iter().find(|c| c.type_ == "NamespaceContentRemaining").unwrap();
        assert_eq!(
            (content.status.as_str(), content.reason.as_deref()),
            ("True", Some("SomeResourcesRemain"))
        );
        assert_eq!(conditions(&remains, &first, at(9)), first);
        assert!(conditions(&Remains::default(), &first, at(9)).iter().all(|c| c.status == "False"));
    }
}
