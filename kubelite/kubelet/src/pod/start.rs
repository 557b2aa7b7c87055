//! Starting: a sandbox; a container with its image, environment, volumes and files.

use super::admit;
use super::config;
use super::files;
use super::observed::Observed;
use super::spec::{self, Kind};
use super::worker::{Memory, Outcome, RETRY};
use super::{dns, hooks, kill};
use crate::context::Context;
use crate::images::{self, Problem};
use crate::runtime::{ContainerConfig, Image, SandboxConfig};
use crate::{env, volumes};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as Spec, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;
use kubelite_informer::EventType::{Normal, Warning};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Which container to start.
pub(super) struct Container {
    pub(super) sandbox_id: String,
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) attempt: u32,
}

/// Creates the pod's sandbox, once its volumes are there.
pub(super) async fn sandbox(context: &Arc<Context>, pod: &Arc<Pod>, attempt: u32) -> Outcome {
    if let Err(error) = volumes::mount(&context.client, &context.config, pod).await {
        context.recorder.record(&**pod, Warning, "FailedMount", error.to_string());
        return Outcome::later(RETRY);
    }
    if spec::of(pod).host_users == Some(false) {
        let text =
            "Failed to create pod sandbox: user namespaces (hostUsers: false) are not supported on this node";
        context.recorder.record(&**pod, Warning, "FailedCreatePodSandBox", text);
        return Outcome::later(RETRY * 6);
    }
    let mut config = sandbox_config(context, pod, attempt).await;
    match runtime_handler(context, pod).await {
        Ok(handler) => config.runtime_handler = handler,
        Err(error) => {
            let text = format!("Failed to create pod sandbox: {error}");
            context.recorder.record(&**pod, Warning, "FailedCreatePodSandBox", text);
            return Outcome::later(RETRY);
        }
    }
    if let Err(error) = tokio::fs::create_dir_all(&config.log_directory).await {
        let text = format!("Failed to create pod sandbox: creating {}: {error}", config.log_directory);
        context.recorder.record(&**pod, Warning, "FailedCreatePodSandBox", text);
        return Outcome::later(RETRY);
    }
    // Not given up when the pod is deleted meanwhile: half a sandbox would keep its network.
    match context.runtime.run_sandbox(&config).await {
        Ok(_) => Outcome::progress(),
        Err(error) => {
            let text = format!("Failed to create pod sandbox: {error}");
            context.recorder.record(&**pod, Warning, "FailedCreatePodSandBox", text);
            Outcome::later(RETRY)
        }
    }
}

/// The handler of the pod's RuntimeClass. A pod that asked for a sandboxed runtime never gets the default one instead.
async fn runtime_handler(context: &Context, pod: &Pod) -> Result<String, String> {
    let spec = spec::of(pod);
    let Some(name) = spec.runtime_class_name.as_deref().filter(|n| !n.is_empty()) else {
        return Ok(String::new());
    };
    let found = Api::<RuntimeClass>::all(context.client.clone()).get_opt(name).await;
    let found = found.map_err(|error| format!("reading RuntimeClass \"{name}\": {error}"))?;
    found.map(|class| class.handler).ok_or_else(|| format!("RuntimeClass \"{name}\" not found"))
}

async fn sandbox_config(context: &Context, pod: &Pod, attempt: u32) -> SandboxConfig {
    // Without a resolv.conf the node has no resolver, and neither have its pods.
    let text = tokio::fs::read_to_string("/etc/resolv.conf").await.unwrap_or_default();
    config::sandbox(&context.config, pod, attempt, &dns::parse_resolv_conf(&text))
}

/// Starts one container. A failure is kept as the container's problem and said as an event.
pub(super) async fn container(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    memory: &mut Memory,
    observed: &Observed,
    what: &Container,
) -> Outcome {
    let Some((_, spec)) = spec::find(pod, &what.name) else { return Outcome::default() };
    let work = attempt(context, pod, memory, observed, what, &spec);
    match kill::unless_deleted(context, pod, work).await {
        None => Outcome::progress(),
        Some(Ok(())) => {
            memory.problems.remove(&what.name);
            // The first start costs nothing; every further one doubles the delay of the next.
            if what.attempt > 0 {
                memory.backoff.next(&what.name, Timestamp::now());
            }
            Outcome::progress()
        }
        Some(Err(problem)) => {
            if memory.problems.get(&what.name) != Some(&problem) {
                tell(context, pod, &problem);
            }
            let wait = memory.pulls.wait(spec.image.as_deref().unwrap_or_default(), Timestamp::now());
            memory.problems.insert(what.name.clone(), problem);
            Outcome::later(wait.map_or(RETRY, |wait| wait.min(RETRY)))
        }
    }
}

fn tell(context: &Context, pod: &Pod, problem: &Problem) {
    let text = match problem.reason {
        "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" => format!("Error: {}", problem.reason),
        _ => format!("Error: {}", problem.message),
    };
    context.recorder.record(pod, Warning, "Failed", text);
}

async fn attempt(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    memory: &mut Memory,
    observed: &Observed,
    what: &Container,
    spec: &Spec,
) -> Result<(), Problem> {
    let attempt = observed.sandbox().map_or(0, |s| s.attempt);
    let sandbox = sandbox_config(context, pod, attempt).await;
    let image = images::ensure(context, pod, spec, &sandbox, &mut memory.pulls).await?;
    check_user(pod, spec, &image)?;
    if let Some(text) = admit::unsupported_mount(spec) {
        return Err(Problem::new("CreateContainerConfigError", text));
    }
    let config = assemble(context, pod, observed, what, spec, image).await?;
    run(context, pod, what, spec, &config, &sandbox).await
}

async fn run(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    what: &Container,
    spec: &Spec,
    config: &ContainerConfig,
    sandbox: &SandboxConfig,
) -> Result<(), Problem> {
    let runtime = context.runtime.as_ref();
    let created = runtime.create_container(&what.sandbox_id, config, sandbox).await;
    let id = created.map_err(|e| Problem::new("CreateContainerError", e.to_string()))?;
    context.recorder.record(&**pod, Normal, "Created", format!("Created container: {}", what.name));
    runtime.start_container(&id).await.map_err(|e| Problem::new("RunContainerError", e.to_string()))?;
    context.recorder.record(&**pod, Normal, "Started", format!("Started container {}", what.name));
    if what.kind == Kind::Main || what.kind == Kind::Sidecar {
        hooks::after_start(context, pod, spec, &id).await?;
    }
    Ok(())
}

/// runAsNonRoot is checked here, as only the image knows its user.
fn check_user(pod: &Pod, spec: &Spec, image: &Image) -> Result<(), Problem> {
    let of_pod = spec::of(pod).security_context.clone().unwrap_or_default();
    let own = spec.security_context.clone().unwrap_or_default();
    if own.run_as_non_root.or(of_pod.run_as_non_root) != Some(true) {
        return Ok(());
    }
    let text = match (own.run_as_user.or(of_pod.run_as_user), image.uid) {
        (Some(0), _) => "container's runAsUser breaks non-root policy".to_string(),
        (Some(_), _) => return Ok(()),
        (None, Some(0)) => "container has runAsNonRoot and image will run as root".to_string(),
        (None, Some(_)) => return Ok(()),
        (None, None) if !image.username.is_empty() => format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root",
            image.username
        ),
        (None, None) => "container has runAsNonRoot and image will run as root".to_string(),
    };
    Err(Problem::new("CreateContainerConfigError", text))
}

async fn assemble(
    context: &Context,
    pod: &Pod,
    observed: &Observed,
    what: &Container,
    spec: &Spec,
    image: Image,
) -> Result<ContainerConfig, Problem> {
    let wrong = |text: String| Problem::new("CreateContainerConfigError", text);
    let host_ip = context.config.node_ip;
    let pod_ips: Vec<IpAddr> = if spec::host_network(pod) { vec![host_ip] } else { observed.ips.clone() };
    let env = env::environment(&context.client, pod, spec, &pod_ips, host_ip);
    let env = env.await.map_err(|e| wrong(e.to_string()))?;
    let values: BTreeMap<String, String> = env.iter().cloned().collect();
    let pod_volumes = volumes::mount(&context.client, &context.config, pod).await;
    let pod_volumes = pod_volumes.map_err(|e| wrong(e.to_string()))?;
    let mut mounts = pod_volumes.mounts(spec, &values).map_err(|e| wrong(e.to_string()))?;
    let own = files::own_mounts(&context.config, pod, spec, what.attempt, &pod_ips, &mounts).await;
    mounts.extend(own.map_err(|e| wrong(e.to_string()))?);
    let target = spec::target_of(pod, &what.name).and_then(|name| observed.latest(name));
    let start = config::Start {
        attempt: what.attempt,
        image,
        env,
        mounts,
        pid_target: target.map(|s| s.status.id.clone()),
        node_memory: context.node_memory,
    };
    Ok(config::container(&context.config, pod, spec, start))
}
