//! StatefulSets: pods with names, ordinals and claims of their own, made, updated and taken away in order.

mod identity;
mod plan;
mod status;

use crate::claim::{claim_all, controller_of, selector};
use crate::context::{Context, WORKERS, message};
use crate::history;
use identity::Revision;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::SelectorExt;
use kube::{Resource, ResourceExt};
use kubelite_informer::{EventType, Key, Queue, Recorder};
use plan::{Action, Observed};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// Reasons of events: when it went well, and when it didn't.
const CREATE: (&str, &str) = ("SuccessfulCreate", "FailedCreate");
const DELETE: (&str, &str) = ("SuccessfulDelete", "FailedDelete");

struct Controller {
    ctx: Context,
    recorder: Recorder,
}

/// Subscribes the stateful set controller, and runs it.
pub(crate) fn run(ctx: Context) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let (own, from_pods, from_claims, from_history) =
        (queue.clone(), queue.clone(), queue.clone(), queue.clone());
    ctx.caches
        .stateful_sets
        .on_change(move |change| change.new.into_iter().for_each(|set| own.add(Key::of(set))));
    let sets = ctx.caches.stateful_sets.clone();
    ctx.caches.pods.on_change(move |change| {
        for pod in change.old.into_iter().chain(change.new) {
            match owner_of(pod) {
                Some(key) => key.into_iter().for_each(|key| from_pods.add(key)),
                None => {
                    let candidates = sets.list(&pod.namespace().unwrap_or_default());
                    candidates.iter().filter(|s| selects(s, pod)).for_each(|s| from_pods.add(Key::of(&**s)));
                }
            }
        }
    });
    let sets = ctx.caches.stateful_sets.clone();
    ctx.caches.persistent_volume_claims.on_change(move |change| {
        let Some(claim) = change.object() else { return };
        let candidates = sets.list(&claim.namespace().unwrap_or_default());
        let named = |set: &StatefulSet| identity::is_claim(set, &claim.name_any());
        candidates.iter().filter(|set| named(set)).for_each(|set| from_claims.add(Key::of(&**set)));
    });
    ctx.caches.controller_revisions.on_change(move |change| {
        change.object().and_then(owner_of).flatten().into_iter().for_each(|key| from_history.add(key));
    });
    async move {
        ctx.caches.synced().await;
        let (recorder, shutdown) = (ctx.recorder("statefulset-controller"), ctx.shutdown.clone());
        let controller = Arc::new(Controller { ctx, recorder });
        queue.run(WORKERS, shutdown, move |key| controller.clone().reconcile(key)).await;
    }
}

/// Whether something controls the object, and the key of the stateful set if it is one.
fn owner_of<K: Resource>(object: &K) -> Option<Option<Key>> {
    let owner = controller_of(object)?;
    let namespace = object.namespace().unwrap_or_default();
    Some((owner.kind == "StatefulSet").then(|| Key::new(namespace, &owner.name)))
}

fn selects(set: &StatefulSet, pod: &Pod) -> bool {
    identity::ordinal(set, &pod.name_any()).is_some()
        && selector(&set.spec.selector).is_some_and(|selector| selector.matches(pod.labels()))
}

impl Controller {
    async fn reconcile(self: Arc<Self>, key: Key) -> kube::Result<Option<Duration>> {
        let caches = &self.ctx.caches;
        let Some(set) = caches.stateful_sets.get(&key) else { return Ok(None) };
        let Some(sel) = selector(&set.spec.selector) else { return Ok(None) };
        let revisions = claim_all(&self.ctx, &*set, &sel, &caches.controller_revisions).await?;
        let Some(update) = history::current(&self.ctx, &caches.stateful_sets, &*set, &revisions).await?
        else {
            return Ok(Some(Duration::ZERO));
        };
        let named = set.status.as_ref().and_then(|status| status.current_revision.as_ref());
        let current =
            revisions.iter().find(|revision| Some(&revision.name_any()) == named).unwrap_or(&update);
        let pods = claim_all(&self.ctx, &*set, &sel, &caches.pods).await?;
        let claims = caches.persistent_volume_claims.list(&key.namespace);
        let plan = plan::plan(&Observed {
            set: &set,
            pods: &pods,
            claims: &claims.into_iter().map(|claim| (claim.name_any(), claim)).collect(),
            current: &revision(current)?,
            update: &revision(&update)?,
            now: Timestamp::now(),
        });
        let outcome = self.carry_out(&set, plan.actions).await;
        if set.status.as_ref() != Some(&plan.status) {
            let changed = StatefulSet { status: Some(plan.status), ..(*set).clone() };
            let api = self.ctx.api::<StatefulSet>(&key.namespace);
            let written = api.replace_status(&key.name, &PostParams::default(), &changed).await?;
            caches.stateful_sets.written(written);
        }
        outcome?;
        let live = [current.name_any(), update.name_any()];
        let live = |revision: &ControllerRevision| {
            let name = revision.name_any();
            live.contains(&name) || pods.iter().any(|pod| identity::revision_of(pod) == name)
        };
        for expired in history::expired(&*set, &revisions, live) {
            self.ctx.delete(&caches.controller_revisions, &*expired).await?;
        }
        Ok(plan.look_again)
    }

    /// One after the other: a claim must be there before its pod, and what fails stops what follows.
    async fn carry_out(&self, set: &StatefulSet, actions: Vec<Action>) -> kube::Result<()> {
        let name = set.name_any();
        for action in actions {
            match action {
                Action::CreateClaim { pod, claim } => {
                    let what = format!("Claim {} Pod {pod} in StatefulSet {name}", claim.name_any());
                    let api = self.ctx.api::<PersistentVolumeClaim>(&set.namespace().unwrap_or_default());
                    let created = api.create(&PostParams::default(), &claim).await;
                    self.note(set, CREATE, &format!("create {what}"), "success", &created);
                    self.ctx.caches.persistent_volume_claims.written(created?);
                }
                Action::CreatePod(pod) => {
                    let what = format!("create Pod {} in StatefulSet {name}", pod.name_any());
                    let api = self.ctx.api::<Pod>(&set.namespace().unwrap_or_default());
                    let created = api.create(&PostParams::default(), &pod).await;
                    self.note(set, CREATE, &what, "successful", &created);
                    self.ctx.caches.pods.written(created?);
                }
                Action::DeletePod(pod) => {
                    let what = format!("delete Pod {} in StatefulSet {name}", pod.name_any());
                    let deleted = self.ctx.delete(&self.ctx.caches.pods, &*pod).await;
                    self.note(set, DELETE, &what, "successful", &deleted);
                    deleted?;
                }
                Action::OwnClaim { claim, owners } => self.own(&claim, owners).await?,
                Action::Label { pod, labels } => {
                    let patch = serde_json::json!({"metadata": {"uid": pod.uid(), "labels": labels}});
                    let api = self.ctx.api::<Pod>(&set.namespace().unwrap_or_default());
                    let patch = Patch::Merge(patch);
                    let written = api.patch(&pod.name_any(), &PatchParams::default(), &patch).await?;
                    self.ctx.caches.pods.written(written);
                }
            }
        }
        Ok(())
    }

    async fn own(
        &self,
        claim: &PersistentVolumeClaim,
        owners: Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference>,
    ) -> kube::Result<()> {
        let patch = serde_json::json!({"metadata": {
            "uid": claim.uid(), "resourceVersion": claim.resource_version(), "ownerReferences": owners }});
        let api = self.ctx.api::<PersistentVolumeClaim>(&claim.namespace().unwrap_or_default());
        let written = api.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
        self.ctx.caches.persistent_volume_claims.written(written);
        Ok(())
    }

    /// An event in upstream's words, which are not the same for pods and claims.
    fn note<T>(
        &self,
        set: &StatefulSet,
        (good, bad): (&'static str, &'static str),
        what: &str,
        done: &str,
        outcome: &kube::Result<T>,
    ) {
        match outcome {
            Ok(_) => self.recorder.record(set, EventType::Normal, good, format!("{what} {done}")),
            Err(error) => {
                let text = format!("{what} failed error: {}", message(error));
                self.recorder.record(set, EventType::Warning, bad, text);
            }
        }
    }
}

fn revision(revision: &ControllerRevision) -> kube::Result<Revision> {
    let template = history::template(revision).map_err(kube::Error::SerdeError)?;
    Ok(Revision { name: revision.name_any(), template })
}
