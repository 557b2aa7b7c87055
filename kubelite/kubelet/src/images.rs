//! Images: pulled by policy, with back-off, and the words in which a user hears of it.

use crate::context::Context;
use crate::pod::backoff::Backoff;
use crate::runtime::{Image, RuntimeError, SandboxConfig};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use kubelite_informer::EventType::{Normal, Warning};
use std::collections::BTreeMap;

/// Why a container doesn't run, as its waiting state says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// CamelCase reason.
    pub(crate) reason: &'static str,
    /// Text for people.
    pub(crate) message: String,
}

impl Problem {
    /// A problem.
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Problem {
        Problem { reason, message: message.into() }
    }
}

/// What is remembered of the pulls of one pod.
#[derive(Default)]
pub(crate) struct Pulls {
    backoff: Backoff,
    failed: BTreeMap<String, (Timestamp, String)>,
}

impl Pulls {
    /// How long until the next pull of `image` may be tried.
    pub(crate) fn wait(&self, image: &str, now: Timestamp) -> Option<jiff::SignedDuration> {
        let (since, _) = self.failed.get(image)?;
        self.backoff.waiting(image, *since, now).map(|(left, _)| left)
    }
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Always,
    IfNotPresent,
    Never,
}

/// The container's policy; without one a moving tag is pulled always, as upstream defaults it.
fn policy(container: &Container) -> Policy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => Policy::Always,
        Some("Never") => Policy::Never,
        Some("IfNotPresent") => Policy::IfNotPresent,
        _ => {
            let image = container.image.as_deref().unwrap_or_default();
            let last = image.rsplit('/').next().unwrap_or_default();
            let moving = !image.contains('@') && last.split_once(':').is_none_or(|(_, tag)| tag == "latest");
            if moving { Policy::Always } else { Policy::IfNotPresent }
        }
    }
}

/// Makes the container's image be on the node.
pub(crate) async fn ensure(
    context: &Context,
    pod: &Pod,
    container: &Container,
    sandbox: &SandboxConfig,
    pulls: &mut Pulls,
) -> Result<Image, Problem> {
    let name = container.image.as_deref().unwrap_or_default();
    let policy = policy(container);
    let present = present(context, name).await?;
    if policy != Policy::Always
        && let Some(image) = present
    {
        let text = format!("Container image \"{name}\" already present on machine");
        context.recorder.record(pod, Normal, "Pulled", text);
        return Ok(image);
    }
    if policy == Policy::Never {
        let text = format!("Container image \"{name}\" is not present with pull policy of Never");
        context.recorder.record(pod, Warning, "ErrImageNeverPull", text.clone());
        return Err(Problem::new("ErrImageNeverPull", text));
    }
    if pulls.wait(name, Timestamp::now()).is_some() {
        return Err(backed_off(context, pod, name, pulls));
    }
    pull(context, pod, name, sandbox, pulls).await
}

async fn present(context: &Context, name: &str) -> Result<Option<Image>, Problem> {
    context.runtime.image_status(name).await.map_err(|error| {
        let text = format!("Failed to inspect image \"{name}\": {error}");
        Problem::new("ImageInspectError", text)
    })
}

fn backed_off(context: &Context, pod: &Pod, name: &str, pulls: &Pulls) -> Problem {
    let text = format!("Back-off pulling image \"{name}\"");
    context.recorder.record(pod, Normal, "BackOff", text.clone());
    let cause = pulls.failed.get(name).map(|(_, m)| m.as_str()).unwrap_or_default();
    Problem::new("ImagePullBackOff", format!("{text}: ErrImagePull: {cause}"))
}

async fn pull(
    context: &Context,
    pod: &Pod,
    name: &str,
    sandbox: &SandboxConfig,
    pulls: &mut Pulls,
) -> Result<Image, Problem> {
    context.recorder.record(pod, Normal, "Pulling", format!("Pulling image \"{name}\""));
    let began = std::time::Instant::now();
    match pull_with_any(context, pod, name, sandbox).await {
        Ok(reference) => {
            pulls.backoff.reset(name);
            pulls.failed.remove(name);
            let image =
                present(context, &reference).await?.unwrap_or(Image { id: reference, ..Image::default() });
            let took = crate::pod::status::go_duration(began.elapsed());
            let text = format!(
                "Successfully pulled image \"{name}\" in {took} ({took} including waiting). Image size: {} bytes.",
                image.size
            );
            context.recorder.record(pod, Normal, "Pulled", text);
            Ok(image)
        }
        Err(error) => {
            let now = Timestamp::now();
            pulls.backoff.next(name, now);
            pulls.failed.insert(name.to_string(), (now, error.to_string()));
            let text = format!("Failed to pull image \"{name}\": {error}");
            context.recorder.record(pod, Warning, "Failed", text);
            Err(Problem::new("ErrImagePull", error.to_string()))
        }
    }
}

/// Pulls with each of the pod's credentials that fit the registry, or with none if none fits.
async fn pull_with_any(
    context: &Context,
    pod: &Pod,
    name: &str,
    sandbox: &SandboxConfig,
) -> Result<String, RuntimeError> {
    let credentials = crate::credentials::for_image(&context.client, pod, name).await;
    let mut result = None;
    for auth in &credentials {
        match context.runtime.pull_image(name, Some(auth), sandbox).await {
            Ok(reference) => return Ok(reference),
            Err(error) => result = Some(Err(error)),
        }
    }
    match result {
        Some(failed) => failed,
        None => context.runtime.pull_image(name, None, sandbox).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moving_tags_are_pulled_always() {
        let container = |image: &str| Container { image: Some(image.into()), ..Container::default() };
        let cases = [
            ("busybox", Policy::Always),
            ("host:5000/busybox", Policy::Always),
            ("busybox:latest", Policy::Always),
            ("host:5000/busybox:1", Policy::IfNotPresent),
            ("busybox@sha256:00", Policy::IfNotPresent),
        ];
        for (image, expected) in cases {
            assert_eq!(policy(&container(image)), expected, "{image}");
        }
    }
}
