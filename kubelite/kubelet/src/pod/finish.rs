//! The end of a pod: its volumes, files and cgroup go, then it goes from the API, then its sandboxes go.

use super::spec;
use super::worker::{Memory, Outcome, RETRY};
use crate::context::Context;
use crate::runtime::{ContainerState, RuntimeError};
use crate::volumes;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use std::sync::Arc;
use std::time::Duration;

/// How long containers of a pod that nobody knows get to stop, if they don't say so themselves.
const ORPHAN_GRACE: Duration = Duration::from_secs(30);

/// Cleans up after a pod whose containers are gone, and asks the writer to delete it.
pub(super) async fn pod(context: &Arc<Context>, pod: &Arc<Pod>) -> Outcome {
    let uid = pod.uid().unwrap_or_default();
    if let Err(error) = volumes::unmount(&context.config, &uid).await {
        tracing::warn!(%error, pod = %pod.name_any(), "volumes can't be removed, will be tried again");
        return Outcome::later(RETRY);
    }
    super::cgroups::remove(&super::config::cgroup_parent(&context.config, pod)).await;
    context.pods.set_finished(&uid);
    context.writes.add(uid);
    Outcome::default()
}

/// Removes what the runtime and the disk have of a pod that the API does not know (any more).
pub(super) async fn orphan(
    context: &Arc<Context>,
    uid: &str,
    memory: &mut Memory,
) -> Result<Option<Duration>, RuntimeError> {
    if !context.pods.synced() {
        return Ok(None);
    }
    let runtime = context.runtime.as_ref();
    let observed = super::observed::observe(runtime, uid, &mut memory.cache).await?;
    let grace = |seen: &super::observed::Seen| {
        let own = seen.status.annotations.get(crate::runtime::label::GRACE).and_then(|g| g.parse().ok());
        own.map_or(ORPHAN_GRACE, Duration::from_secs)
    };
    let alive = observed.containers.iter().filter(|c| c.status.state != ContainerState::Exited);
    try_join_all(alive.map(|c| runtime.stop_container(&c.status.id, grace(c)))).await?;
    for sandbox in &observed.sandboxes {
        runtime.stop_sandbox(&sandbox.id).await?;
        runtime.remove_sandbox(&sandbox.id).await?;
    }
    // A pod of this UID that came meanwhile finds its files gone otherwise.
    if context.pods.get(uid).is_some() {
        return Ok(Some(Duration::ZERO));
    }
    if let Err(error) = volumes::unmount(&context.config, uid).await {
        tracing::warn!(%error, uid, "volumes of a pod that is gone can't be removed, will be tried again");
        return Ok(Some(Duration::from_secs(30)));
    }
    let mut directories = vec![context.config.pod_dir(uid)];
    directories.extend(
        observed
            .sandboxes
            .first()
            .map(|s| context.config.log_dir.join(format!("{}_{}_{uid}", s.namespace, s.name))),
    );
    for directory in directories {
        match tokio::fs::remove_dir_all(&directory).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, directory = %directory.display(), "a pod's files can't be removed");
            }
            _ => {}
        }
    }
    Ok(None)
}

/// Whether the pod is done for this kubelet, so that nothing of it needs watching.
pub(crate) fn settled(pod: &Pod) -> bool {
    !spec::deleted(pod) && (spec::terminal(pod) || spec::restart_policy(pod) == spec::Restart::Always)
}
