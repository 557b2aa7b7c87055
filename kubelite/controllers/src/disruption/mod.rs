//! PodDisruptionBudgets: their status says how many pods may be evicted now; the API server asks it at each eviction.

mod plan;

use crate::caches::Caches;
use crate::claim::{controller_of, selector_or_all};
use crate::context::{Context, WORKERS};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::api::PostParams;
use kube::core::SelectorExt;
use kubelite_informer::{Key, Queue};
use plan::Observed;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// Subscribes the disruption controller, and runs it.
pub(crate) fn run(ctx: Context) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let (own, from_pods) = (queue.clone(), queue.clone());
    ctx.caches.pod_disruption_budgets.on_change(move |change| {
        change.new.into_iter().for_each(|budget| own.add(Key::of(budget)));
    });
    let budgets = ctx.caches.pod_disruption_budgets.clone();
    ctx.caches.pods.on_change(move |change| {
        let Some(namespace) = change.object().and_then(ResourceExt::namespace) else { return };
        for budget in budgets.list(&namespace) {
            if change.old.into_iter().chain(change.new).any(|pod| selects(&budget, pod)) {
                from_pods.add(Key::of(&*budget));
            }
        }
    });
    scales(&ctx, &queue);
    async move {
        ctx.caches.synced().await;
        queue.run(WORKERS, ctx.shutdown.clone(), move |key| reconcile(ctx.clone(), key)).await;
    }
}

/// A controller that wants another number of pods changes what a share of them is.
fn scales(ctx: &Context, queue: &Arc<Queue<Key>>) {
    macro_rules! scaled {
        ($($field:ident: $replicas:expr;)*) => {$(
            let (again, budgets) = (Arc::clone(queue), ctx.caches.pod_disruption_budgets.clone());
            ctx.caches.$field.on_change(move |change| {
                if change.old.map($replicas) != change.new.map($replicas) {
                    let namespace = change.object().and_then(ResourceExt::namespace).unwrap_or_default();
                    budgets.list(&namespace).iter().for_each(|budget| again.add(Key::of(&**budget)));
                }
            });
        )*};
    }
    scaled! {
        deployments: |object| object.spec.replicas;
        replica_sets: |object| object.spec.replicas;
        stateful_sets: |object| object.spec.replicas;
        replication_controllers: |object| object.spec.as_ref().and_then(|spec| spec.replicas);
    }
}

/// An empty selector is of all pods, a missing one of none.
fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let labels = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    labels.and_then(selector_or_all).is_some_and(|selector| selector.matches(pod.labels()))
}

async fn reconcile(ctx: Context, key: Key) -> kube::Result<Option<Duration>> {
    let cache = &ctx.caches.pod_disruption_budgets;
    let Some(budget) = cache.get(&key) else { return Ok(None) };
    let pods: Vec<Arc<Pod>> =
        ctx.caches.pods.list(&key.namespace).into_iter().filter(|pod| selects(&budget, pod)).collect();
    let scale = |owner: &OwnerReference| scale(&ctx.caches, &key.namespace, owner);
    let now = Timestamp::now();
    let (status, again) = plan::plan(&Observed { budget: &budget, pods: &pods, scale: &scale, now });
    if budget.status.as_ref() != Some(&status) {
        let changed = PodDisruptionBudget { status: Some(status), ..(*budget).clone() };
        let api = ctx.api::<PodDisruptionBudget>(&key.namespace);
        // Its resourceVersion guards what the API server writes at an eviction.
        let written = api.replace_status(&key.name, &PostParams::default(), &changed).await?;
        cache.written(written);
    }
    Ok(again)
}

/// How many pods the controller of a pod wants; of a deployment's replica set, the deployment decides.
fn scale(caches: &Caches, namespace: &str, owner: &OwnerReference) -> Result<(String, i32), String> {
    let key = Key::new(namespace, &owner.name);
    let missing = || format!("{} \"{}\" not found", owner.kind, owner.name);
    match owner.kind.as_str() {
        "ReplicaSet" => {
            let set = caches.replica_sets.get(&key).ok_or_else(missing)?;
            if let Some(deployment) = controller_of(&*set).filter(|by| by.kind == "Deployment")
                && let Some(found) = caches.deployments.get(&Key::new(namespace, &deployment.name))
            {
                return Ok((found.uid().unwrap_or_default(), found.spec.replicas.unwrap_or(1)));
            }
            Ok((owner.uid.clone(), set.spec.replicas.unwrap_or(1)))
        }
        "ReplicationController" => {
            let found = caches.replication_controllers.get(&key).ok_or_else(missing)?;
            let replicas = found.spec.as_ref().and_then(|spec| spec.replicas);
            Ok((owner.uid.clone(), replicas.unwrap_or(1)))
        }
        "StatefulSet" => {
            let found = caches.stateful_sets.get(&key).ok_or_else(missing)?;
            Ok((owner.uid.clone(), found.spec.replicas.unwrap_or(1)))
        }
        kind => Err(format!("{kind} \"{}\" does not implement the scale subresource", owner.name)),
    }
}
