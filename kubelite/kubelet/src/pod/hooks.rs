//! Lifecycle hooks: postStart and preStop.

use crate::context::Context;
use crate::images::Problem;
use crate::probes::check::Subject;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use kubelite_informer::EventType::Warning;
use std::sync::Arc;
use std::time::Duration;

/// An HTTP hook gets this long.
const HTTP_LIMIT: Duration = Duration::from_secs(30);

/// Runs the container's postStart hook; if it fails the container is stopped and counts as not started.
pub(super) async fn after_start(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    spec: &Container,
    id: &str,
) -> Result<(), Problem> {
    let Some(hook) = spec.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return Ok(()) };
    let Err(error) = run(context, pod, spec, id, hook).await else { return Ok(()) };
    context.recorder.record(&**pod, Warning, "FailedPostStartHook", format!("PostStartHook failed: {error}"));
    if let Err(error) = context.runtime.stop_container(id, super::spec::grace(pod)).await {
        tracing::warn!(%error, container = %spec.name, "a container whose postStart hook failed can't be stopped");
    }
    Err(Problem::new("PostStartHookError", error))
}

/// Runs the container's preStop hook, no longer than `limit`. Its failure is said but stops nothing.
pub(super) async fn before_stop(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    name: &str,
    id: &str,
    limit: Duration,
) {
    let Some((_, spec)) = super::spec::find(pod, name) else { return };
    let Some(hook) = spec.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) else { return };
    let result = tokio::time::timeout(limit, run(context, pod, &spec, id, hook)).await;
    if let Ok(Err(error)) = result {
        context.recorder.record(&**pod, Warning, "FailedPreStopHook", format!("PreStopHook failed: {error}"));
    }
}

async fn run(
    context: &Arc<Context>,
    pod: &Pod,
    spec: &Container,
    id: &str,
    hook: &LifecycleHandler,
) -> Result<(), String> {
    let pod_ip = context.pod_ip(pod).await.and_then(|ip| ip.parse().ok());
    let subject = Subject { context, pod, container: spec, id, pod_ip };
    if let Some(exec) = &hook.exec {
        return subject.exec(exec, Duration::ZERO).await;
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    if let Some(get) = &hook.http_get {
        let answer = tokio::time::timeout(HTTP_LIMIT, subject.http_get(get)).await;
        return answer.unwrap_or_else(|_| Err("no answer in time".to_owned()));
    }
    Err("this kind of hook is not supported".into())
}
