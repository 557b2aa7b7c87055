//! ReplicaSets and ReplicationControllers: as many pods as were asked for. One code for both kinds.

mod kinds;
mod plan;

use crate::claim::{claim_all, controller_of, controller_ref};
use crate::context::{Context, WORKERS, message};
use crate::pods;
use crate::slow_start::slow_start;
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
pub(crate) use kinds::ReplicaOwner;
use kube::api::PostParams;
use kube::{Resource, ResourceExt};
use kubelite_informer::{EventType, Informer, Key, Queue, Recorder};
use plan::{Failure, Scale};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// Pods that one reconcile creates or deletes at most.
const BURST: usize = 500;

struct Controller<K> {
    ctx: Context,
    owners: Informer<K>,
    recorder: Recorder,
}

/// Subscribes the controller of one kind, and runs it.
pub(crate) fn run<K: ReplicaOwner>(ctx: Context, owners: Informer<K>) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let (own, all, for_pods) = (queue.clone(), owners.clone(), queue.clone());
    owners.on_change(move |change| change.object().into_iter().for_each(|o| own.add(Key::of(o))));
    ctx.caches.pods.on_change(move |change| {
        // Both states: a pod that was released still changes its former owner's count.
        change
            .old
            .into_iter()
            .chain(change.new)
            .flat_map(|pod| owners_of(&all, pod))
            .for_each(|key| for_pods.add(key));
    });
    async move {
        ctx.caches.synced().await;
        let (recorder, shutdown) = (ctx.recorder(K::COMPONENT), ctx.shutdown.clone());
        let controller = Arc::new(Controller { ctx, owners, recorder });
        queue.run(WORKERS, shutdown, move |key| controller.clone().reconcile(key)).await;
    }
}

/// The controller of a pod; for an orphan, all that could adopt it.
fn owners_of<K: ReplicaOwner>(owners: &Informer<K>, pod: &Pod) -> Vec<Key> {
    let namespace = pod.namespace().unwrap_or_default();
    match controller_of(pod) {
        Some(owner) if owner.kind == K::kind(&()) => vec![Key::new(namespace, &owner.name)],
        Some(_) => vec![],
        None => {
            let candidates = owners.list(&namespace);
            let matching = candidates.iter().filter(|o| o.view().is_some_and(|v| v.selects(pod.labels())));
            matching.map(|o| Key::of(&**o)).collect()
        }
    }
}

impl<K: ReplicaOwner> Controller<K> {
    async fn reconcile(self: Arc<Self>, key: Key) -> kube::Result<Option<Duration>> {
        let Some(owner) = self.owners.get(&key) else { return Ok(None) };
        let Some(view) = owner.view() else { return Ok(None) };
        let claimed = claim_all(&self.ctx, &*owner, &view.selector, &self.ctx.caches.pods).await?;
        let scale = match owner.meta().deletion_timestamp {
            Some(_) => Scale::Keep,
            None => plan::scale(view.replicas, &claimed),
        };
        let failure = self.carry_out(&*owner, scale).await;
        // Once more from the cache, which has the own writes by now.
        let mine: Vec<_> =
            self.ctx.caches.pods.list(&key.namespace).into_iter().filter(|pod| owns(&*owner, pod)).collect();
        let now = Timestamp::now();
        let status =
            plan::status(&view, &owner.replica_status(), &mine, failure.as_ref().map(|(f, _)| f), now);
        if status != owner.replica_status() {
            let written = self.write_status(&owner, status).await?;
            self.owners.written(written);
        }
        match failure {
            Some((_, error)) => Err(error),
            None => Ok(plan::next_look(&mine, view.min_ready_seconds, now)),
        }
    }

    async fn write_status(&self, owner: &K, status: plan::Status) -> kube::Result<K> {
        let mut changed = owner.clone();
        changed.set_replica_status(status);
        let api = self.ctx.api::<K>(&owner.namespace().unwrap_or_default());
        api.replace_status(&owner.name_any(), &PostParams::default(), &changed).await
    }

    async fn carry_out(&self, owner: &K, scale: Scale) -> Option<(Failure, kube::Error)> {
        match scale {
            Scale::Keep => None,
            Scale::Create(count) => self.create(owner, count.min(BURST)).await,
            Scale::Delete(victims) => self.delete(owner, victims.into_iter().take(BURST).collect()).await,
        }
    }

    async fn create(&self, owner: &K, missing: usize) -> Option<(Failure, kube::Error)> {
        let namespace = owner.namespace().unwrap_or_default();
        let template = owner.template()?;
        let pod = pods::from_template(template, controller_ref(owner), &namespace);
        let (api, params) = (self.ctx.api::<Pod>(&namespace), PostParams::default());
        let outcome = slow_start(0..missing, |_| async {
            let created = api.create(&params, &pod).await?;
            let text = format!("Created pod: {}", created.name_any());
            self.recorder.record(owner, EventType::Normal, "SuccessfulCreate", text);
            self.ctx.caches.pods.written(created);
            Ok(())
        });
        let error = outcome.await.err()?;
        let text = format!("Error creating: {}", message(&error));
        self.recorder.record(owner, EventType::Warning, "FailedCreate", text);
        Some((Failure { reason: "FailedCreate", message: message(&error) }, error))
    }

    async fn delete(&self, owner: &K, victims: Vec<Arc<Pod>>) -> Option<(Failure, kube::Error)> {
        let outcomes =
            join_all(victims.iter().map(|pod| self.ctx.delete(&self.ctx.caches.pods, &**pod))).await;
        let mut failed = None;
        for (pod, outcome) in victims.iter().zip(outcomes) {
            match outcome {
                Ok(()) => {
                    let text = format!("Deleted pod: {}", pod.name_any());
                    self.recorder.record(owner, EventType::Normal, "SuccessfulDelete", text);
                }
                Err(error) => {
                    let text = format!("Error deleting: {}", message(&error));
                    self.recorder.record(owner, EventType::Warning, "FailedDelete", text);
                    failed = Some((Failure { reason: "FailedDelete", message: message(&error) }, error));
                }
            }
        }
        failed
    }
}

fn owns<K: Resource>(owner: &K, pod: &Pod) -> bool {
    controller_of(pod).is_some_and(|by| Some(&by.uid) == owner.meta().uid.as_ref())
}
