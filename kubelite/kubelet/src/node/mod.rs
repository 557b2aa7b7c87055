//! This machine as a Node object, and its lease. The API server may be away as long as it likes: only the Node grows old.

mod lease;
pub(crate) mod machine;
mod object;

use crate::context::Context;
use crate::runtime::{Readiness, RuntimeError, RuntimeStatus, Version};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use kube::api::{Api, Patch, PatchParams, PostParams};
use machine::Identity;
pub(crate) use object::MEMORY_RESERVE;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the machine and the runtime are looked at.
const LOOK: Duration = Duration::from_secs(10);
/// The same while the node is not ready.
const LOOK_UNREADY: Duration = Duration::from_secs(1);
/// How often the status is written though nothing changed.
const HEARTBEAT: Duration = Duration::from_secs(300);
/// A write that takes longer is tried again at the next look.
const LIMIT: Duration = Duration::from_secs(10);

/// Keeps the Node and its lease up to date, for ever.
pub(crate) async fn run(context: Arc<Context>) {
    tokio::join!(keep_status(&context), lease::keep(&context));
}

/// What was written last, and when.
#[derive(Default)]
struct Written {
    essence: Option<NodeStatus>,
    at: Option<Instant>,
}

async fn keep_status(context: &Arc<Context>) {
    let identity = machine::identity();
    let mut written = Written::default();
    loop {
        let runtime = context.runtime.status().await;
        let ready = note_network(context, &runtime);
        match tokio::time::timeout(LIMIT, write(context, &identity, &runtime, &mut written)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "the node's status can't be written, will be tried again");
            }
            Err(_) => tracing::warn!("the API server does not take the node's status within {LIMIT:?}"),
        }
        let unwritten = written.at.is_none();
        tokio::time::sleep(if ready && !unwritten { LOOK } else { LOOK_UNREADY }).await;
    }
}

/// Keeps whether the network works where the pods' workers see it; wakes them when it begins to.
fn note_network(context: &Context, runtime: &Result<RuntimeStatus, RuntimeError>) -> bool {
    let unready = object::unready(runtime);
    let ready = unready.is_none();
    let now = Readiness { ready, message: unready.unwrap_or_default(), ..Readiness::default() };
    let before = std::mem::replace(&mut *context.network.write(), now);
    if ready && !before.ready {
        for entry in context.pods.all() {
            context.queue.add(entry.pod.metadata.uid.clone().unwrap_or_default());
        }
    }
    ready
}

async fn write(
    context: &Context,
    identity: &Identity,
    runtime: &Result<RuntimeStatus, RuntimeError>,
    written: &mut Written,
) -> Result<(), kube::Error> {
    // A runtime that is away is said in the condition; its version and images are then left as they were.
    let version = context
        .runtime
        .version()
        .await
        .unwrap_or_else(|_| Version { name: context.runtime_name.clone(), version: String::new() });
    let images = context.runtime.list_images().await.unwrap_or_default();
    let data = context.config.data_dir.clone();
    let load = tokio::task::spawn_blocking(move || machine::load(&data)).await.unwrap_or_default();
    let facts = object::Facts {
        config: &context.config,
        identity,
        load,
        version: &version,
        runtime,
        images: &images,
        now: Timestamp::now(),
    };
    let due = written.at.is_none_or(|at| at.elapsed() >= HEARTBEAT);
    let essence = object::essence(&object::status(&facts, &[]));
    if due || written.essence.as_ref() != Some(&essence) {
        let first = written.at.is_none();
        put(context, &facts, first).await?;
        *written = Written { essence: Some(essence), at: Some(Instant::now()) };
    }
    Ok(())
}

/// Writes the status, registering the node if it isn't there. A patch leaves alone what others wrote: further conditions,
/// labels, taints and extended resources.
async fn put(context: &Context, facts: &object::Facts<'_>, first: bool) -> Result<(), kube::Error> {
    let api: Api<Node> = Api::all(context.client.clone());
    let name = &context.config.node_name;
    let Some(node) = api.get_opt(name).await? else {
        tracing::info!(node = %name, "registering the node");
        return api.create(&PostParams::default(), &object::new(facts)).await.map(drop);
    };
    if first {
        let labels = json!({ "metadata": { "labels": object::labels(facts.config, facts.identity) } });
        api.patch(name, &PatchParams::default(), &Patch::Strategic(labels)).await?;
    }
    let old = node.status.and_then(|s| s.conditions).unwrap_or_default();
    let status = json!({ "status": object::status(facts, &old) });
    api.patch_status(name, &PatchParams::default(), &Patch::Strategic(status)).await.map(drop)
}
