//! Jobs: pods that run to their end, as many as are needed, each counted once.

mod backoff;
mod conditions;
mod orphans;
mod plan;
mod pod;
mod policy;
mod spec;
mod tally;
mod verdict;
mod workers;

use crate::claim::{claim_all_with, controller_of, selector};
use crate::context::{Context, WORKERS, is_status, message, remove_finalizer};
use crate::slow_start::slow_start;
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::core::SelectorExt;
use kubelite_informer::{EventType, Key, Queue, Recorder};
use plan::{Observed, Plan};
pub(crate) use spec::{finished, succeeded};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// Requests about pods of one job at the same time.
const REQUESTS: usize = 16;

struct Controller {
    ctx: Context,
    recorder: Recorder,
}

/// Subscribes the job controller, and runs it.
pub(crate) fn run(ctx: Context) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let (own, from_pods) = (queue.clone(), queue.clone());
    ctx.caches.jobs.on_change(move |change| change.new.into_iter().for_each(|job| own.add(Key::of(job))));
    let jobs = ctx.caches.jobs.clone();
    ctx.caches.pods.on_change(move |change| {
        for pod in change.old.into_iter().chain(change.new) {
            let namespace = pod.namespace().unwrap_or_default();
            match controller_of(pod) {
                Some(owner) if owner.kind == "Job" => from_pods.add(Key::new(namespace, &owner.name)),
                Some(_) => {}
                None => {
                    let candidates = jobs.list(&namespace);
                    let matching = candidates.iter().filter(|job| selects(job, pod));
                    matching.for_each(|job| from_pods.add(Key::of(&**job)));
                }
            }
        }
    });
    let orphans = orphans::run(ctx.clone());
    async move {
        ctx.caches.synced().await;
        let (recorder, shutdown) = (ctx.recorder("job-controller"), ctx.shutdown.clone());
        let controller = Arc::new(Controller { ctx, recorder });
        let jobs = queue.run(WORKERS, shutdown, move |key| controller.clone().reconcile(key));
        tokio::join!(jobs, orphans);
    }
}

fn selects(job: &Job, pod: &Pod) -> bool {
    let selector = spec::of(job).selector.as_ref().and_then(selector);
    selector.is_some_and(|selector| selector.matches(pod.labels()))
}

impl Controller {
    async fn reconcile(self: Arc<Self>, key: Key) -> kube::Result<Option<Duration>> {
        let caches = &self.ctx.caches;
        let Some(job) = caches.jobs.get(&key).filter(|job| !spec::is_foreign(job)) else { return Ok(None) };
        let Some(sel) = spec::of(&job).selector.as_ref().and_then(selector) else { return Ok(None) };
        let pods = claim_all_with(&self.ctx, &*job, &sel, &caches.pods, Some(spec::FINALIZER)).await?;
        let now = Timestamp::now();
        let plan = plan::plan(&Observed { job: &job, pods: &pods, now });
        if plan.expired {
            self.expire(&job).await?;
            return Ok(None);
        }
        // First the status: a pod may only lose its finalizer when it is in there.
        if job.status.as_ref() != Some(&plan.status) {
            let changed = Job { status: Some(plan.status.clone()), ..(*job).clone() };
            let api = self.ctx.api::<Job>(&key.namespace);
            let written = api.replace_status(&key.name, &PostParams::default(), &changed).await?;
            caches.jobs.written(written);
        }
        if let Some(note) = &plan.note {
            let type_ = if note.warning { EventType::Warning } else { EventType::Normal };
            self.recorder.record(&*job, type_, note.reason, note.message.clone());
        }
        self.carry_out(&job, &plan).await?;
        Ok(plan.look_again(now))
    }

    async fn carry_out(&self, job: &Job, plan: &Plan) -> kube::Result<()> {
        let api = self.ctx.api::<Pod>(&job.namespace().unwrap_or_default());
        let cache = &self.ctx.caches.pods;
        let release = |pod: Arc<Pod>| {
            let api = &api;
            async move { remove_finalizer(api, cache, &*pod, spec::FINALIZER).await }
        };
        each(&plan.release, release).await?;
        each(&plan.delete, |pod| self.delete(job, pod)).await?;
        each(&plan.discard, release).await?;
        each(&plan.discard, |pod| self.delete(job, pod)).await?;
        slow_start(plan.create.iter().copied(), |(index, attempts)| {
            let (api, pod) = (&api, pod::pod(job, index, attempts));
            async move { self.created(job, api.create(&PostParams::default(), &pod).await) }
        })
        .await
    }

    fn created(&self, job: &Job, created: kube::Result<Pod>) -> kube::Result<()> {
        match created {
            Ok(pod) => {
                let text = format!("Created pod: {}", pod.name_any());
                self.recorder.record(job, EventType::Normal, "SuccessfulCreate", text);
                self.ctx.caches.pods.written(pod);
                Ok(())
            }
            Err(error) => {
                let text = format!("Error creating: {}", message(&error));
                self.recorder.record(job, EventType::Warning, "FailedCreate", text);
                Err(error)
            }
        }
    }

    async fn delete(&self, job: &Job, pod: Arc<Pod>) -> kube::Result<()> {
        self.ctx.delete(&self.ctx.caches.pods, &*pod).await?;
        let text = format!("Deleted pod: {}", pod.name_any());
        self.recorder.record(job, EventType::Normal, "SuccessfulDelete", text);
        Ok(())
    }

    /// Its pods go before it.
    async fn expire(&self, job: &Job) -> kube::Result<()> {
        let uid = Preconditions { uid: job.uid(), resource_version: job.resource_version() };
        let params = DeleteParams { preconditions: Some(uid), ..DeleteParams::foreground() };
        let api = self.ctx.api::<Job>(&job.namespace().unwrap_or_default());
        match api.delete(&job.name_any(), &params).await {
            Err(error) if !is_status(&error, 404) => Err(error),
            _ => Ok(()),
        }
    }
}

/// Acts on each pod, some at a time; the first error is the outcome, after all of its batch were tried.
async fn each<F, Fut>(pods: &[Arc<Pod>], act: F) -> kube::Result<()>
where
    F: Fn(Arc<Pod>) -> Fut,
    Fut: Future<Output = kube::Result<()>>,
{
    for batch in pods.chunks(REQUESTS) {
        join_all(batch.iter().cloned().map(&act)).await.into_iter().collect::<kube::Result<()>>()?;
    }
    Ok(())
}
