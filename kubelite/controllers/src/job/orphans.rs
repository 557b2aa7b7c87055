//! Pods that no job counts any more: they lose the finalizer, or nobody could ever delete them.

use super::{pod::is_tracked, selects, spec};
use crate::claim::controller_of;
use crate::context::{Context, WORKERS, remove_finalizer};
use crate::pods;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kubelite_informer::{Informer, Key, Queue};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// Subscribes, and runs.
pub(super) fn run(ctx: Context) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let (own, from_jobs) = (queue.clone(), queue.clone());
    let jobs = ctx.caches.jobs.clone();
    ctx.caches.pods.on_change(move |change| {
        let lost = change.new.filter(|pod| is_lost(pod, &jobs));
        lost.into_iter().for_each(|pod| own.add(Key::of(pod)));
    });
    let all = ctx.caches.pods.clone();
    ctx.caches.jobs.on_change(move |change| {
        // Gone, or on its way: it adopts nothing any more.
        let leaving = |job: &&Job| job.metadata.deletion_timestamp.is_some();
        let Some(job) = change.new.filter(leaving).or(change.old.filter(|_| change.new.is_none())) else {
            return;
        };
        let tracked =
            all.list(&job.namespace().unwrap_or_default()).into_iter().filter(|pod| is_tracked(pod));
        tracked.for_each(|pod| from_jobs.add(Key::of(&*pod)));
    });
    async move {
        ctx.caches.synced().await;
        let shutdown = ctx.shutdown.clone();
        queue.run(WORKERS, shutdown, move |key| reconcile(ctx.clone(), key)).await;
    }
}

async fn reconcile(ctx: Context, key: Key) -> kube::Result<Option<Duration>> {
    if let Some(pod) = ctx.caches.pods.get(&key).filter(|pod| is_lost(pod, &ctx.caches.jobs)) {
        let api = ctx.api::<Pod>(&key.namespace);
        remove_finalizer(&api, &ctx.caches.pods, &*pod, spec::FINALIZER).await?;
    }
    Ok(None)
}

/// Whether the pod has the finalizer, and no job that would take it away: its own is gone, or it has none and no other
/// one is about to adopt it.
fn is_lost(pod: &Pod, jobs: &Informer<Job>) -> bool {
    let namespace = pod.namespace().unwrap_or_default();
    let adopts = |job: &Arc<Job>| job.metadata.deletion_timestamp.is_none() && selects(job, pod);
    is_tracked(pod)
        && match controller_of(pod) {
            Some(owner) if owner.kind != "Job" => false,
            Some(owner) => {
                let job = jobs.get(&Key::new(namespace, &owner.name));
                job.is_none_or(|job| job.metadata.uid.as_deref() != Some(&owner.uid))
            }
            // What terminates is not adopted.
            None => pods::is_terminating(pod) || !jobs.list(&namespace).iter().any(adopts),
        }
}
