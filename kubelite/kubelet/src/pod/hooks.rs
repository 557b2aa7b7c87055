//! Lifecycle hooks: postStart and preStop.

use crate::context::Context;
use crate::images::Problem;
use crate::probes::Get;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler, Pod};
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
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let output =
            context.runtime.exec_sync(id, &command, Duration::ZERO).await.map_err(|e| e.to_string())?;
        return match output.exit_code {
            0 => Ok(()),
            code => Err(format!("command '{}' exited with {code}", command.join(" "))),
        };
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    if let Some(get) = &hook.http_get {
        let request = http_get(context, pod, spec, get);
        return tokio::time::timeout(HTTP_LIMIT, request)
            .await
            .map_err(|_| "no answer in time".to_string())?;
    }
    Err("this kind of hook is not supported".into())
}

async fn http_get(context: &Context, pod: &Pod, spec: &Container, get: &HTTPGetAction) -> Result<(), String> {
    let ip = match super::spec::host_network(pod) {
        true => Some(context.config.node_ip),
        false => context.pod_ip(pod).await.and_then(|ip| ip.parse().ok()),
    };
    let request = Get::new(spec, get, ip.ok_or("the pod has no address")?)?;
    match request.send().await {
        Ok(200..=399) => Ok(()),
        Ok(code) => Err(format!("Get \"{request}\": HTTP status {code}")),
        Err(error) => Err(format!("Get \"{request}\": {error}")),
    }
}
