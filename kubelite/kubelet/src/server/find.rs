//! The pod and the container that a request means, as the runtime has them.

use crate::context::{Context, Entry};
use crate::pod::spec;
use crate::runtime::{Container, ContainerState, RuntimeError};
use http::StatusCode;
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use kube::ResourceExt;
use std::path::PathBuf;

type Refusal = (StatusCode, String);

/// The pod by its name.
pub(super) fn pod(context: &Context, namespace: &str, name: &str) -> Result<Entry, Refusal> {
    let missing = || (StatusCode::NOT_FOUND, format!("pod \"{namespace}/{name}\" not found"));
    context.pods.find(namespace, name).ok_or_else(missing)
}

/// The ID of a container that runs.
pub(super) async fn running(
    context: &Context,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Result<String, Refusal> {
    let entry = self::pod(context, namespace, pod)?;
    let instances = instances(context, &entry, container).await?;
    let runs = instances.into_iter().rev().find(|c| c.state == ContainerState::Running);
    runs.map(|c| c.id).ok_or_else(|| {
        let text =
            format!("container not found (\"{container}\"): it is not running in pod {namespace}/{pod}");
        (StatusCode::NOT_FOUND, text)
    })
}

/// The ID of the pod's sandbox.
pub(super) async fn sandbox(context: &Context, namespace: &str, pod: &str) -> Result<String, Refusal> {
    let entry = self::pod(context, namespace, pod)?;
    let uid = entry.pod.uid().unwrap_or_default();
    let sandboxes = context.runtime.list_sandboxes(Some(&uid)).await.map_err(|e| of_runtime(&e))?;
    let ready = sandboxes.into_iter().filter(|s| s.ready).max_by_key(|s| s.attempt);
    ready.map(|s| s.id).ok_or_else(|| {
        (
            StatusCode::NOT_FOUND,
            format!("pod {namespace}/{pod} is not running, so no port of it can be reached"),
        )
    })
}

/// The ID and the log file of a container's current or previous instance.
pub(super) async fn log(
    context: &Context,
    namespace: &str,
    pod: &str,
    container: &str,
    previous: bool,
) -> Result<(String, PathBuf), Refusal> {
    let entry = self::pod(context, namespace, pod)?;
    if spec::find(&entry.pod, container).is_none() {
        return Err((StatusCode::NOT_FOUND, format!("container \"{container}\" not found in pod \"{pod}\"")));
    }
    let instances = instances(context, &entry, container).await?;
    let mut created = instances.iter().rev();
    let instance = if previous { created.nth(1) } else { created.next() };
    let refused = || (StatusCode::BAD_REQUEST, why_no_log(&entry, container, previous));
    let status = context.runtime.container_status(&instance.ok_or_else(refused)?.id).await;
    let status = status.map_err(|e| of_runtime(&e))?;
    Ok((status.id, PathBuf::from(status.log_path)))
}

/// The container's instances, the eldest first.
async fn instances(context: &Context, entry: &Entry, container: &str) -> Result<Vec<Container>, Refusal> {
    let uid = entry.pod.uid().unwrap_or_default();
    let mut all = context.runtime.list_containers(Some(&uid)).await.map_err(|e| of_runtime(&e))?;
    all.retain(|c| c.name == container);
    all.sort_by_key(|c| c.attempt);
    Ok(all)
}

fn why_no_log(entry: &Entry, container: &str, previous: bool) -> String {
    let pod = entry.pod.name_any();
    if previous {
        return format!("previous terminated container \"{container}\" in pod \"{pod}\" not found");
    }
    let status = entry.status.as_deref().or(entry.pod.status.as_ref());
    let waiting =
        status.and_then(|s| find_status(s, container)).and_then(|s| s.state.clone()?.waiting?.reason);
    let reason = waiting.unwrap_or_else(|| "ContainerCreating".into());
    match reason.as_str() {
        "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" => format!(
            "container \"{container}\" in pod \"{pod}\" is waiting to start: trying and failing to pull image"
        ),
        _ => format!("container \"{container}\" in pod \"{pod}\" is waiting to start: {reason}"),
    }
}

fn find_status<'a>(status: &'a PodStatus, container: &str) -> Option<&'a ContainerStatus> {
    let lists =
        [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|s| s.name == container)
}

/// How a failure of the runtime is answered.
pub(super) fn of_runtime(error: &RuntimeError) -> Refusal {
    let code = match error {
        RuntimeError::NotFound(_) => StatusCode::NOT_FOUND,
        RuntimeError::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
        RuntimeError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        RuntimeError::Failed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (code, error.to_string())
}
