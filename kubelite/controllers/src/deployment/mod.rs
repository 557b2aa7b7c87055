//! Deployments: a template's history as replica sets, and the way from one to the next.
//!
//! - [`plan`]: what to do now, from the deployment, its replica sets and the time.
//! - [`rolling`]: the arithmetic of surge and unavailability; proportional scaling.
//! - [`status`]: counts and the conditions that `kubectl rollout status` reads.
//! - [`revision`]: the replica set of a template, revision numbers, history.

mod plan;
mod revision;
mod rolling;
mod status;

use crate::claim::{claim_all, controller_of, selector};
use crate::context::{Context, WORKERS, is_status, message};
use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::SelectorExt;
use kubelite_informer::{EventType, Key, Queue, Recorder};
use plan::{Action, Observed};
pub(crate) use rolling::scaled;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

struct Controller {
    ctx: Context,
    recorder: Recorder,
}

/// Subscribes the deployment controller, and runs it.
pub(crate) fn run(ctx: Context) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let (own, from_sets, from_pods) = (queue.clone(), queue.clone(), queue.clone());
    let (deployments, sets) = (ctx.caches.deployments.clone(), ctx.caches.replica_sets.clone());
    ctx.caches.deployments.on_change(move |change| {
        change.new.into_iter().for_each(|deployment| own.add(Key::of(deployment)));
    });
    ctx.caches.replica_sets.on_change(move |change| {
        for set in change.old.into_iter().chain(change.new) {
            let namespace = set.namespace().unwrap_or_default();
            match controller_of(set) {
                Some(owner) => from_sets.add(Key::new(namespace, &owner.name)),
                None => deployments
                    .list(&namespace)
                    .iter()
                    .filter(|d| selects(d, set))
                    .for_each(|d| from_sets.add(Key::of(&**d))),
            }
        }
    });
    ctx.caches.pods.on_change(move |change| {
        // Only the end of a pod says something that its replica set doesn't: Recreate waits for it.
        let Some(pod) = change.old.filter(|_| change.new.is_none_or(pods::is_finished)) else { return };
        let namespace = pod.namespace().unwrap_or_default();
        let set = controller_of(pod).and_then(|owner| sets.get(&Key::new(&namespace, &owner.name)));
        set.as_deref()
            .and_then(controller_of)
            .into_iter()
            .for_each(|d| from_pods.add(Key::new(&namespace, &d.name)));
    });
    async move {
        ctx.caches.synced().await;
        let (recorder, shutdown) = (ctx.recorder("deployment-controller"), ctx.shutdown.clone());
        let controller = Arc::new(Controller { ctx, recorder });
        queue.run(WORKERS, shutdown, move |key| controller.clone().reconcile(key)).await;
    }
}

fn selects(deployment: &Deployment, set: &ReplicaSet) -> bool {
    selector(&deployment.spec.selector).is_some_and(|sel| sel.matches(set.labels()))
}

impl Controller {
    async fn reconcile(self: Arc<Self>, key: Key) -> kube::Result<Option<Duration>> {
        let Some(deployment) = self.ctx.caches.deployments.get(&key) else { return Ok(None) };
        let Some(sel) = selector(&deployment.spec.selector) else { return Ok(None) };
        let mut sets = claim_all(&self.ctx, &*deployment, &sel, &self.ctx.caches.replica_sets).await?;
        sets.sort_by_key(|set| (set.creation_timestamp(), set.name_any()));
        let pods = self.pods_of(&key.namespace, &sets);
        let now = Timestamp::now();
        let planned = plan::plan(&Observed { deployment: &deployment, sets: &sets, pods: &pods, now });
        let mut failure = None;
        for action in planned.actions {
            if let Err(error) = self.carry_out(&deployment, action).await {
                failure = Some(error);
                break;
            }
        }
        let mut desired = planned.status;
        if let Some(error) = &failure {
            status::set_create_error(&mut desired, &message(error), now);
        }
        if deployment.status.as_ref() != Some(&desired) {
            // A patch without resourceVersion: the own annotation of the revision may just have changed it, and the
            // observed generation says which spec this status is about.
            let status = status::patch(deployment.status.as_ref(), &desired);
            let patch = serde_json::json!({ "metadata": { "uid": deployment.uid() }, "status": status });
            let api = self.ctx.api::<Deployment>(&key.namespace);
            let written = api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
            self.ctx.caches.deployments.written(written);
        }
        failure.map_or(Ok(planned.look_again), Err)
    }

    fn pods_of(&self, namespace: &str, sets: &[Arc<ReplicaSet>]) -> Vec<Arc<Pod>> {
        let mine = |pod: &Arc<Pod>| {
            controller_of(&**pod)
                .is_some_and(|by| sets.iter().any(|set| set.metadata.uid.as_ref() == Some(&by.uid)))
        };
        self.ctx.caches.pods.list(namespace).into_iter().filter(mine).collect()
    }

    async fn carry_out(&self, deployment: &Deployment, action: Action) -> kube::Result<()> {
        let namespace = deployment.namespace().unwrap_or_default();
        let sets = self.ctx.api::<ReplicaSet>(&namespace);
        let cache = &self.ctx.caches.replica_sets;
        match action {
            Action::Create(set) => match sets.create(&PostParams::default(), &set).await {
                Ok(created) => {
                    self.say(deployment, &created.name_any(), 0, plan::replicas(&created));
                    cache.written(created);
                }
                Err(error) if is_status(&error, 409) => self.taken(deployment, &set).await?,
                Err(error) => {
                    let text =
                        format!("Failed to create new replica set {:?}: {}", set.name_any(), message(&error));
                    self.recorder.record(deployment, EventType::Warning, "ReplicaSetCreateError", text);
                    return Err(error);
                }
            },
            Action::Update(old, new) => {
                let written = sets.replace(&new.name_any(), &PostParams::default(), &new).await?;
                self.say(deployment, &written.name_any(), plan::replicas(&old), plan::replicas(&written));
                cache.written(written);
            }
            Action::Delete(set) => self.ctx.delete(cache, &*set).await?,
            Action::Annotate(annotations) => {
                let patch = serde_json::json!({ "metadata": { "annotations": annotations } });
                let api = self.ctx.api::<Deployment>(&namespace);
                let name = deployment.name_any();
                let written = api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
                self.ctx.caches.deployments.written(written);
            }
        }
        Ok(())
    }

    /// The name of a new replica set is taken: by our own earlier write, or by another template with this hash.
    async fn taken(&self, deployment: &Deployment, set: &ReplicaSet) -> kube::Result<()> {
        let namespace = deployment.namespace().unwrap_or_default();
        let existing = self.ctx.api::<ReplicaSet>(&namespace).get(&set.name_any()).await?;
        let own =
            controller_of(&existing).is_some_and(|by| Some(&by.uid) == deployment.metadata.uid.as_ref());
        if own && revision::same_template(deployment, &existing) {
            self.ctx.caches.replica_sets.written(existing);
            return Ok(());
        }
        let status = deployment.status.as_ref();
        let collisions = status.and_then(|status| status.collision_count).unwrap_or(0) + 1;
        let patch = serde_json::json!({ "status": { "collisionCount": collisions } });
        let api = self.ctx.api::<Deployment>(&namespace);
        let written =
            api.patch_status(&deployment.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
        self.ctx.caches.deployments.written(written);
        Ok(())
    }

    fn say(&self, deployment: &Deployment, set: &str, from: i32, to: i32) {
        let direction = match to.cmp(&from) {
            std::cmp::Ordering::Greater => "up",
            std::cmp::Ordering::Less => "down",
            std::cmp::Ordering::Equal => return,
        };
        let text = format!("Scaled {direction} replica set {set} from {from} to {to}");
        self.recorder.record(deployment, EventType::Normal, "ScalingReplicaSet", text);
    }
}
