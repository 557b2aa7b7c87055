//! Reading a pod's spec: its containers in order, their kinds and policies.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};
use std::time::Duration;

/// What kind of container it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with restartPolicy Always: runs beside the others (KEP-753).
    Sidecar,
    /// A container of the pod's own.
    Main,
    /// Put into a running pod for debugging; never restarted.
    Ephemeral,
}

/// When a container is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    /// Whatever its exit code.
    Always,
    /// If it failed.
    OnFailure,
    /// Not.
    Never,
}

impl Restart {
    fn parse(text: Option<&str>) -> Restart {
        match text {
            Some("Never") => Restart::Never,
            Some("OnFailure") => Restart::OnFailure,
            _ => Restart::Always,
        }
    }

    /// Whether a container with this policy that ended with `exit_code` is started again.
    pub(crate) fn again(self, exit_code: i32) -> bool {
        match self {
            Restart::Always => true,
            Restart::OnFailure => exit_code != 0,
            Restart::Never => false,
        }
    }
}

/// The pod's restartPolicy.
pub(crate) fn restart_policy(pod: &Pod) -> Restart {
    Restart::parse(pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()))
}

/// When a container of this kind is started again.
pub(crate) fn restart_of(pod: &Pod, kind: Kind, container: &Container) -> Restart {
    let own = container.restart_policy.as_deref();
    match kind {
        Kind::Sidecar => Restart::Always,
        Kind::Ephemeral => Restart::Never,
        _ if own.is_some() => Restart::parse(own),
        Kind::Main => restart_policy(pod),
        // An init container that succeeded is done, also where the pod's containers run for ever.
        Kind::Init if restart_policy(pod) == Restart::Always => Restart::OnFailure,
        Kind::Init => restart_policy(pod),
    }
}

/// The init containers in order.
pub(crate) fn init_containers(pod: &Pod) -> impl Iterator<Item = (Kind, &Container)> {
    let kind = |c: &Container| match c.restart_policy.as_deref() {
        Some("Always") => Kind::Sidecar,
        _ => Kind::Init,
    };
    pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten()).map(move |c| (kind(c), c))
}

/// The pod's own containers in order.
pub(crate) fn main_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|s| &s.containers)
}

/// The ephemeral containers in order.
pub(crate) fn ephemeral_containers(pod: &Pod) -> impl Iterator<Item = &EphemeralContainer> {
    pod.spec.iter().flat_map(|s| s.ephemeral_containers.iter().flatten())
}

/// The container with this name, of whatever kind, as a plain container.
pub(crate) fn find(pod: &Pod, name: &str) -> Option<(Kind, Container)> {
    let main = main_containers(pod).map(|c| (Kind::Main, c));
    if let Some((kind, container)) = init_containers(pod).chain(main).find(|(_, c)| c.name == name) {
        return Some((kind, container.clone()));
    }
    let ephemeral = ephemeral_containers(pod).find(|c| c.name == name)?;
    Some((Kind::Ephemeral, plain(ephemeral)))
}

/// An ephemeral container has a container's fields without ports, probes, resources and lifecycle.
pub(crate) fn plain(from: &EphemeralContainer) -> Container {
    let from = from.clone();
    Container {
        name: from.name,
        image: from.image,
        image_pull_policy: from.image_pull_policy,
        command: from.command,
        args: from.args,
        env: from.env,
        env_from: from.env_from,
        working_dir: from.working_dir,
        volume_mounts: from.volume_mounts,
        volume_devices: from.volume_devices,
        security_context: from.security_context,
        stdin: from.stdin,
        stdin_once: from.stdin_once,
        tty: from.tty,
        termination_message_path: from.termination_message_path,
        termination_message_policy: from.termination_message_policy,
        ..Container::default()
    }
}

/// The name of the container into which an ephemeral container looks.
pub(crate) fn target_of<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    ephemeral_containers(pod).find(|c| c.name == name)?.target_container_name.as_deref()
}

/// Whether the pod lives in the host's network.
pub(crate) fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false)
}

/// Whether the pod is to be deleted.
pub(crate) fn deleted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// How long the pod's containers get to stop.
pub(crate) fn grace(pod: &Pod) -> Duration {
    let spec = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    let seconds = pod.metadata.deletion_grace_period_seconds.or(spec).unwrap_or(30);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// The phase at the API.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

/// Whether the pod ended for good.
pub(crate) fn terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether the pod has been active longer than activeDeadlineSeconds allows.
pub(crate) fn past_deadline(pod: &Pod, now: Timestamp) -> bool {
    deadline(pod).is_some_and(|at| now >= at)
}

/// When activeDeadlineSeconds ends.
pub(crate) fn deadline(pod: &Pod) -> Option<Timestamp> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    let start = pod.status.as_ref()?.start_time.as_ref()?.0;
    start.checked_add(jiff::SignedDuration::from_secs(seconds)).ok()
}

/// A hash of what can't change in a running container: its name and image, as only the image is mutable.
pub(crate) fn hash(container: &Container) -> String {
    let mut hash: u32 = 0x811c_9dc5;
    let image = container.image.as_deref().unwrap_or_default();
    for byte in container.name.bytes().chain([0]).chain(image.bytes()) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    format!("{hash:x}")
}

/// The pod's spec, or an empty one.
pub(crate) fn of(pod: &Pod) -> std::borrow::Cow<'_, PodSpec> {
    pod.spec.as_ref().map_or_else(Default::default, std::borrow::Cow::Borrowed)
}
