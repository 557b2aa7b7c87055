//! CronJobs: a Job each time that the schedule says so.

mod plan;

use crate::claim::controller_of;
use crate::context::{Context, WORKERS, is_status, message};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use kube::ResourceExt;
use kube::api::PostParams;
use kubelite_informer::{EventType, Key, Queue, Recorder};
use plan::{Observed, Start};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

struct Controller {
    ctx: Context,
    recorder: Recorder,
}

/// Subscribes the cron job controller, and runs it.
pub(crate) fn run(ctx: Context) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let (own, from_jobs) = (queue.clone(), queue.clone());
    ctx.caches.cron_jobs.on_change(move |change| change.new.into_iter().for_each(|c| own.add(Key::of(c))));
    ctx.caches.jobs.on_change(move |change| {
        for job in change.old.into_iter().chain(change.new) {
            let owner = controller_of(job).filter(|owner| owner.kind == "CronJob");
            let key = owner.map(|owner| Key::new(job.namespace().unwrap_or_default(), &owner.name));
            key.into_iter().for_each(|key| from_jobs.add(key));
        }
    });
    async move {
        ctx.caches.synced().await;
        let (recorder, shutdown) = (ctx.recorder("cronjob-controller"), ctx.shutdown.clone());
        let controller = Arc::new(Controller { ctx, recorder });
        queue.run(WORKERS, shutdown, move |key| controller.clone().reconcile(key)).await;
    }
}

fn owns(cron: &CronJob, job: &Job) -> bool {
    controller_of(job).is_some_and(|by| Some(&by.uid) == cron.metadata.uid.as_ref())
}

impl Controller {
    async fn reconcile(self: Arc<Self>, key: Key) -> kube::Result<Option<Duration>> {
        let caches = &self.ctx.caches;
        let Some(cron) = caches.cron_jobs.get(&key) else { return Ok(None) };
        let jobs: Vec<Arc<Job>> =
            caches.jobs.list(&key.namespace).into_iter().filter(|job| owns(&cron, job)).collect();
        let plan = plan::plan(&Observed { cron: &cron, jobs: &jobs, now: Timestamp::now() });
        for note in plan.notes {
            let type_ = if note.warning { EventType::Warning } else { EventType::Normal };
            self.recorder.record(&*cron, type_, note.reason, note.message);
        }
        for job in plan.delete {
            self.ctx.delete(&caches.jobs, &*job).await?;
            let text = format!("Deleted job {}", job.name_any());
            self.recorder.record(&*cron, EventType::Normal, "SuccessfulDelete", text);
        }
        let status = match plan.start {
            None => plan.status,
            Some(start) => match self.start(&cron, &start).await? {
                Some(job) => plan::started(plan.status, &job, start.at),
                None => plan.status,
            },
        };
        self.write(&cron, status).await?;
        Ok(plan.look_again)
    }

    /// The job of a start: made now, or by a round before this one that could not write the status any more. None if the
    /// namespace takes nothing new.
    async fn start(&self, cron: &CronJob, start: &Start) -> kube::Result<Option<Job>> {
        let api = self.ctx.api::<Job>(&cron.namespace().unwrap_or_default());
        match api.create(&PostParams::default(), &start.job).await {
            Ok(job) => {
                let text = format!("Created job {}", job.name_any());
                self.recorder.record(cron, EventType::Normal, "SuccessfulCreate", text);
                self.ctx.caches.jobs.written(job.clone());
                Ok(Some(job))
            }
            Err(error) if is_status(&error, 409) => {
                let there = api.get(&start.job.name_any()).await?;
                if owns(cron, &there) { Ok(Some(there)) } else { Err(self.failed(cron, error)) }
            }
            // A namespace that is being deleted: the cron job goes with it.
            Err(error) if is_status(&error, 403) && message(&error).contains("being terminated") => Ok(None),
            Err(error) => Err(self.failed(cron, error)),
        }
    }

    fn failed(&self, cron: &CronJob, error: kube::Error) -> kube::Error {
        let text = format!("Error creating job: {}", message(&error));
        self.recorder.record(cron, EventType::Warning, "FailedCreate", text);
        error
    }

    async fn write(&self, cron: &CronJob, status: CronJobStatus) -> kube::Result<()> {
        if cron.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let changed = CronJob { status: Some(status), ..cron.clone() };
        let api = self.ctx.api::<CronJob>(&cron.namespace().unwrap_or_default());
        let written = api.replace_status(&cron.name_any(), &PostParams::default(), &changed).await?;
        self.ctx.caches.cron_jobs.written(written);
        Ok(())
    }
}
