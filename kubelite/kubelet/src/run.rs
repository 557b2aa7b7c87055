//! The kubelet's composition: who runs, and who wakes whom.

use crate::context::{Context, PodTable};
use crate::pod::worker::{self, Memory};
use crate::probes::Probes;
use crate::runtime::cri::Cri;
use crate::runtime::{Runtime, RuntimeError};
use crate::{Config, node, relist, rotate, server, writer};
use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use kubelite_informer::{Informer, Queue, Recorder};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Pods that are worked on at once. A worker mostly waits for the runtime, so this may be many.
const WORKERS: usize = 128;
/// How long the runtime may take to answer at the start, with a try every second.
const RUNTIME_TRIES: u32 = 120;
/// Running pods are looked at this often without any cause, so that their volumes follow their sources.
const RESYNC: Duration = Duration::from_secs(60);

/// Runs the kubelet until `shutdown`. Pods go on running after it.
///
/// # Errors
/// If the runtime doesn't answer, or the kubelet's own address can't be served.
pub async fn run(client: kube::Client, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let runtime: Arc<dyn Runtime> = Arc::new(Cri::new(&config.runtime_endpoint));
    run_with(client, config, runtime, shutdown).await
}

/// Runs the kubelet over any runtime until `shutdown`.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    client: kube::Client,
    config: Config,
    runtime: Arc<dyn Runtime>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let stop = shutdown.clone();
    let Some(context) = stop.run_until_cancelled(prepare(client, config, runtime, &shutdown)).await else {
        return Ok(());
    };
    let context = context?;
    let server = server::start(context.clone(), shutdown.clone()).await?;
    let pods = Informer::<Pod>::default();
    feed(&context, &pods);
    let selector = watcher::Config::default().fields(&format!("spec.nodeName={}", context.config.node_name));
    let watch = pods.clone().run(Api::all(context.client.clone()), selector, shutdown.clone());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(server);
    tasks.spawn(watch);
    tasks.spawn(work(context.clone(), shutdown.clone()));
    tasks.spawn(write(context.clone(), pods.clone(), shutdown.clone()));
    tasks.spawn(shutdown.clone().run_until_cancelled_owned(rotate::run(context.clone())).map_drop());
    tasks.spawn(shutdown.clone().run_until_cancelled_owned(node::run(context.clone())).map_drop());
    tasks.spawn(
        shutdown.clone().run_until_cancelled_owned(relist_after_sync(context.clone(), pods)).map_drop(),
    );
    // No task ends before the shutdown, unless it panicked.
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            shutdown.cancel();
            anyhow::bail!("a part of the kubelet failed, pods go on running, start it again: {error}");
        }
    }
    Ok(())
}

/// A future whose output doesn't matter.
trait MapDrop: Future + Sized {
    fn map_drop(self) -> impl Future<Output = ()> + Send
    where
        Self: Send,
    {
        async move { drop(self.await) }
    }
}

impl<F: Future> MapDrop for F {}

async fn prepare(
    client: kube::Client,
    config: Config,
    runtime: Arc<dyn Runtime>,
    shutdown: &CancellationToken,
) -> anyhow::Result<Arc<Context>> {
    tokio::fs::create_dir_all(config.data_dir.join("pods"))
        .await
        .with_context(|| format!("creating {}", config.data_dir.display()))?;
    let version = version(runtime.as_ref())
        .await
        .with_context(|| format!("asking the container runtime at {}", config.runtime_endpoint.display()))?;
    Ok(Arc::new(Context {
        recorder: Recorder::start(client.clone(), "kubelet", shutdown.clone()),
        config,
        client,
        runtime,
        runtime_name: version.name,
        pods: PodTable::default(),
        queue: Queue::new(),
        writes: Queue::new(),
        probes: Probes::default(),
        node_memory: node::machine::memory(),
        network: RwLock::default(),
    }))
}

async fn version(runtime: &dyn Runtime) -> Result<crate::runtime::Version, RuntimeError> {
    for _ in 1..RUNTIME_TRIES {
        match runtime.version().await {
            Err(RuntimeError::Unavailable(_) | RuntimeError::Timeout(_)) => {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            other => return other,
        }
    }
    runtime.version().await
}

/// What the watch brings goes into the table and wakes the pod's worker.
fn feed(context: &Arc<Context>, pods: &Informer<Pod>) {
    let context = context.clone();
    pods.on_change(move |change| {
        let old = change.old.and_then(|p| p.uid());
        let new = change.new.and_then(|p| p.uid());
        if let Some(pod) = change.new {
            context.pods.put(Arc::new(pod.clone()));
        }
        if let Some(gone) = old.filter(|uid| new.as_ref() != Some(uid)) {
            context.pods.remove(&gone);
            context.queue.add(gone);
        }
        if let Some(uid) = new {
            context.queue.add(uid.clone());
            context.writes.add(uid);
        }
    });
}

async fn work(context: Arc<Context>, shutdown: CancellationToken) {
    let memories: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Memory>>>> = Mutex::default();
    let queue = context.queue.clone();
    let look = |uid: String| {
        let memory = memories.lock().entry(uid.clone()).or_default().clone();
        let (context, memories) = (context.clone(), &memories);
        async move {
            let mut memory = memory.lock().await;
            let result = worker::run(&context, &uid, &mut memory).await;
            let known = context.pods.get(&uid).is_some();
            if !known && matches!(result, Ok(None)) {
                memories.lock().remove(&uid);
            }
            result.map(|again| again.or(known.then_some(RESYNC)))
        }
    };
    queue.run(WORKERS, shutdown, look).await;
}

async fn write(context: Arc<Context>, pods: Informer<Pod>, shutdown: CancellationToken) {
    let queue = context.writes.clone();
    queue.run(writer::WRITERS, shutdown, |uid| writer::write(context.clone(), pods.clone(), uid)).await;
}

/// Before the first list of pods every pod of the runtime looks like an orphan, so relisting begins after it.
async fn relist_after_sync(context: Arc<Context>, pods: Informer<Pod>) {
    pods.synced().await;
    context.pods.set_synced();
    for uid in pods_on_disk(&context.config).await {
        context.queue.add(uid);
    }
    relist::run(context).await;
}

/// UIDs of the pods whose files are on this node, left by a kubelet before.
async fn pods_on_disk(config: &Config) -> Vec<String> {
    let mut uids = vec![];
    if let Ok(mut entries) = tokio::fs::read_dir(config.data_dir.join("pods")).await {
        while let Ok(Some(entry)) = entries.next_entry().await {
            uids.extend(entry.file_name().into_string().ok());
        }
    }
    uids
}
