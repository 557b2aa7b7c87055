//! Lifecycle hooks: postStart and preStop.

use crate::context::Context;
use crate::images::Problem;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kubelite_informer::EventType::Warning;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
    if get.scheme.as_deref() == Some("HTTPS") {
        return Err("a hook over HTTPS is not supported".into());
    }
    let own = super::spec::host_network(pod).then(|| context.config.node_ip.to_string());
    let ip = match own {
        Some(ip) => Some(ip),
        None => context.pod_ip(pod).await,
    };
    let host = get.host.clone().filter(|h| !h.is_empty()).or(ip).ok_or("the pod has no address")?;
    let port = port(spec, &get.port).ok_or_else(|| format!("there is no port {:?}", get.port))?;
    let path = get.path.as_deref().unwrap_or("/");
    let headers: String =
        get.http_headers.iter().flatten().map(|h| format!("{}: {}\r\n", h.name, h.value)).collect();
    let text = format!("GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\nConnection: close\r\n{headers}\r\n");
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect((host.as_str(), port)).await?;
        stream.write_all(text.as_bytes()).await?;
        let mut answer = vec![];
        stream.take(4096).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = exchange.await.map_err(|e| e.to_string())?;
    let status = String::from_utf8_lossy(&answer);
    match status.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok()) {
        Some(200..=399) => Ok(()),
        Some(code) => Err(format!("HTTP status {code}")),
        None => Err("the answer is no HTTP".into()),
    }
}

/// A port by number or by its name in the container.
fn port(spec: &Container, port: &IntOrString) -> Option<u16> {
    let named = |name: &str| {
        let ports = spec.ports.iter().flatten();
        ports.into_iter().find(|p| p.name.as_deref() == Some(name)).map(|p| p.container_port)
    };
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => name.parse().ok().or_else(|| named(name)),
    };
    number.and_then(|n| u16::try_from(n).ok())
}
