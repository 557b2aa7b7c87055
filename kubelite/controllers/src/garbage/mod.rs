//! The garbage collector: what depends on a deleted object goes with it, in the background, in the foreground (before
//! its owner), or is orphaned.
//!
//! It follows every kind that discovery shows by metadata alone; kinds that other controllers watch anyway come from
//! their caches. Whether an owner is really absent is asked of the API server before anything is deleted.

mod graph;

use crate::context::{Context, WORKERS, is_status};
use futures::StreamExt;
use graph::{FOREGROUND, Graph, ORPHAN, Object, Owner, Verdict, judge};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::PartialObjectMeta;
use kube::discovery::{ApiResource, Discovery, Scope, verbs};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use kubelite_informer::Queue;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// How long to wait after a change of the custom kinds, and after a failed discovery, before looking again.
const DISCOVERY_DELAY: Duration = Duration::from_secs(1);
/// Kinds that own nothing and are owned by nothing, in great numbers.
const IGNORED: [&str; 1] = ["events"];

type Kind = (String, String);

struct Collector {
    ctx: Context,
    graph: Mutex<Graph>,
    queue: Arc<Queue<String>>,
    /// Every known kind by apiVersion and kind.
    kinds: Mutex<HashMap<Kind, (Arc<ApiResource>, bool)>>,
    /// Kinds (group and plural) that are followed already.
    followed: Mutex<HashSet<Kind>>,
    kinds_changed: Notify,
}

/// Subscribes the collector, and runs it.
pub(crate) fn run(ctx: Context) -> impl Future<Output = ()> + Send {
    let collector = Arc::new(Collector {
        ctx: ctx.clone(),
        graph: Mutex::default(),
        queue: Queue::new(),
        kinds: Mutex::default(),
        followed: Mutex::default(),
        kinds_changed: Notify::new(),
    });
    let observer = collector.clone();
    let cached = ctx.caches.observe(move |resource, old, new| observer.observe(resource, old, new));
    collector
        .followed
        .lock()
        .extend(cached.iter().map(|resource| (resource.group.clone(), resource.plural.clone())));
    async move {
        let shutdown = ctx.shutdown.clone();
        tokio::spawn(shutdown.clone().run_until_cancelled_owned(collector.clone().follow_all()));
        ctx.caches.synced().await;
        collector.queue.clone().run(WORKERS, shutdown, move |uid| collector.clone().process(uid)).await;
    }
}

impl Collector {
    fn observe(&self, resource: &Arc<ApiResource>, old: Option<&ObjectMeta>, new: Option<&ObjectMeta>) {
        let affected = {
            let mut graph = self.graph.lock();
            let gone =
                old.filter(|old| new.is_none_or(|new| new.uid != old.uid)).and_then(|old| old.uid.as_ref());
            let mut affected = gone.map(|uid| graph.remove(uid)).unwrap_or_default();
            affected.extend(new.into_iter().flat_map(|new| graph.apply(resource, new)));
            affected
        };
        affected.into_iter().for_each(|uid| self.queue.add(uid));
        if resource.plural == "customresourcedefinitions" {
            self.kinds_changed.notify_one();
        }
    }

    /// Keeps a watch on every kind there is; new kinds come with new custom resource definitions.
    async fn follow_all(self: Arc<Self>) {
        loop {
            match Discovery::new(self.ctx.client.clone()).run().await {
                Ok(discovery) => self.follow_new(&discovery),
                Err(error) => {
                    tracing::debug!(%error, "discovery failed, will be tried again");
                    self.kinds_changed.notify_one();
                }
            }
            self.kinds_changed.notified().await;
            tokio::time::sleep(DISCOVERY_DELAY).await;
        }
    }

    fn follow_new(self: &Arc<Self>, discovery: &Discovery) {
        for (resource, capabilities) in discovery.groups().flat_map(|group| group.recommended_resources()) {
            let resource = Arc::new(resource);
            let namespaced = capabilities.scope == Scope::Namespaced;
            let name = (resource.api_version.clone(), resource.kind.clone());
            self.kinds.lock().insert(name, (resource.clone(), namespaced));
            let usable = [verbs::LIST, verbs::WATCH, verbs::DELETE]
                .iter()
                .all(|verb| capabilities.supports_operation(verb));
            let plural = (resource.group.clone(), resource.plural.clone());
            if usable && !IGNORED.contains(&resource.plural.as_str()) && self.followed.lock().insert(plural) {
                let following = self.clone().follow(resource);
                tokio::spawn(self.ctx.shutdown.clone().run_until_cancelled_owned(following));
            }
        }
    }

    /// Follows one kind. Only UIDs are kept between lists, to find what is gone.
    async fn follow(self: Arc<Self>, resource: Arc<ApiResource>) {
        let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(self.ctx.client.clone(), &*resource);
        let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
        let (mut known, mut listed) = (HashSet::<String>::new(), HashSet::<String>::new());
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(object)) => {
                    listed.extend(object.uid());
                    self.observe(&resource, None, Some(&object.metadata));
                }
                Ok(watcher::Event::InitDone) => {
                    for uid in known.difference(&listed) {
                        let gone = ObjectMeta { uid: Some(uid.clone()), ..ObjectMeta::default() };
                        self.observe(&resource, Some(&gone), None);
                    }
                    known = std::mem::take(&mut listed);
                }
                Ok(watcher::Event::Apply(object)) => {
                    known.extend(object.uid());
                    self.observe(&resource, None, Some(&object.metadata));
                }
                Ok(watcher::Event::Delete(object)) => {
                    known.remove(&object.uid().unwrap_or_default());
                    self.observe(&resource, Some(&object.metadata), None);
                }
                Err(error) => tracing::debug!(%error, kind = resource.kind, "watch was interrupted"),
            }
        }
    }

    async fn process(self: Arc<Self>, uid: String) -> kube::Result<Option<Duration>> {
        let Some(object) = self.graph.lock().get(&uid).cloned() else { return Ok(None) };
        if object.deleting && object.orphan {
            self.orphan_dependents(&uid, &object).await?;
        } else if object.deleting && object.foreground {
            self.wait_for_dependents(&uid, &object).await?;
        } else if !object.deleting && !object.owners.is_empty() {
            self.judge(&uid, &object).await?;
        }
        Ok(None)
    }

    async fn orphan_dependents(&self, uid: &str, object: &Object) -> kube::Result<()> {
        let dependents = self.graph.lock().dependents(uid);
        for (dependent, found, _) in dependents {
            self.release(&dependent, &found, &[uid.to_string()]).await?;
        }
        self.remove_finalizer(uid, object, ORPHAN).await
    }

    async fn wait_for_dependents(&self, uid: &str, object: &Object) -> kube::Result<()> {
        let dependents = self.graph.lock().dependents(uid);
        if !dependents.iter().any(|(_, _, blocks)| *blocks) {
            return self.remove_finalizer(uid, object, FOREGROUND).await;
        }
        let alive = dependents.into_iter().filter(|(_, dependent, _)| !dependent.deleting);
        alive.for_each(|(dependent, _, _)| self.queue.add(dependent));
        Ok(())
    }

    async fn judge(&self, uid: &str, object: &Object) -> kube::Result<()> {
        let mut owners = Vec::with_capacity(object.owners.len());
        for owner in &object.owners {
            owners.push((owner.uid.clone(), self.state_of(owner, object).await?));
        }
        let dependents = self.graph.lock().dependents(uid);
        match judge(&owners, !dependents.is_empty()) {
            Verdict::Keep => Ok(()),
            Verdict::Release(lost) => self.release(uid, object, &lost).await,
            Verdict::Delete { foreground } => {
                // In a circle, one that is deleted already and waits for this one would wait forever.
                let circle =
                    dependents.iter().any(|(_, dependent, _)| dependent.deleting && dependent.foreground);
                let policy = match (object.orphan, foreground || object.foreground) {
                    (true, _) => PropagationPolicy::Orphan,
                    (false, true) if !circle => PropagationPolicy::Foreground,
                    (false, _) => PropagationPolicy::Background,
                };
                let preconditions =
                    Some(Preconditions { uid: Some(uid.to_string()), resource_version: None });
                let params = DeleteParams {
                    propagation_policy: Some(policy),
                    preconditions,
                    ..DeleteParams::default()
                };
                settled(self.api(object).delete(&object.key.name, &params).await.map(|_| ()))
            }
        }
    }

    async fn state_of(&self, owner: &OwnerReference, dependent: &Object) -> kube::Result<Owner> {
        if let Some(found) = self.graph.lock().get(&owner.uid) {
            let waiting = found.deleting && found.foreground;
            return Ok(if waiting { Owner::Waiting } else { Owner::Solid });
        }
        let kind = (owner.api_version.clone(), owner.kind.clone());
        let known = self.kinds.lock().get(&kind).cloned();
        let Some((resource, namespaced)) = known else {
            // Not a kind (any more, or not yet): nothing can be said about the owner, so nothing is deleted.
            tracing::debug!(?kind, "owner of an unknown kind");
            return Ok(Owner::Solid);
        };
        let client = self.ctx.client.clone();
        let api: Api<DynamicObject> = match namespaced {
            true if dependent.key.namespace.is_empty() => return Ok(Owner::Solid),
            true => Api::namespaced_with(client, &dependent.key.namespace, &*resource),
            false => Api::all_with(client, &*resource),
        };
        let found = api
            .get_metadata_opt(&owner.name)
            .await?
            .filter(|found| found.metadata.uid.as_ref() == Some(&owner.uid));
        Ok(if found.is_some() { Owner::Solid } else { Owner::Absent })
    }

    /// Removes the references to `owners` from an object, as it is now.
    async fn release(&self, uid: &str, object: &Object, owners: &[String]) -> kube::Result<()> {
        let api = self.api(object);
        let Some(live) = api.get_metadata_opt(&object.key.name).await? else { return Ok(()) };
        let rest: Vec<_> =
            live.owner_references().iter().filter(|owner| !owners.contains(&owner.uid)).collect();
        let patch = serde_json::json!({ "metadata": { "uid": uid, "resourceVersion": live.resource_version(), "ownerReferences": rest } });
        settled(api.patch(&object.key.name, &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| ()))
    }

    async fn remove_finalizer(&self, uid: &str, object: &Object, finalizer: &str) -> kube::Result<()> {
        let api = self.api(object);
        let Some(live) = api.get_metadata_opt(&object.key.name).await? else { return Ok(()) };
        let rest: Vec<_> = live.finalizers().iter().filter(|name| *name != finalizer).collect();
        let patch = serde_json::json!({ "metadata": { "uid": uid, "resourceVersion": live.resource_version(), "finalizers": rest } });
        settled(api.patch(&object.key.name, &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| ()))
    }

    fn api(&self, object: &Object) -> Api<DynamicObject> {
        match object.key.namespace.as_str() {
            "" => Api::all_with(self.ctx.client.clone(), &*object.resource),
            namespace => Api::namespaced_with(self.ctx.client.clone(), namespace, &*object.resource),
        }
    }
}

/// Gone is done. A conflict stays an error: the object has changed, so it is judged again.
fn settled(outcome: kube::Result<()>) -> kube::Result<()> {
    match outcome {
        Err(error) if is_status(&error, 404) => Ok(()),
        outcome => outcome,
    }
}
