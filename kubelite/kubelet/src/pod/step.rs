//! What to do next for one pod. Pure: what is there and the time go in, actions come out. The worker carries them out and
//! asks again with what is there then, until nothing is left to do.
//!
//! ```text
//!  ends? ──yes──► stop main containers ► stop sidecars ► stop sandbox ► finish (if deleted)
//!    │no
//!    ▼
//!  sandbox? ──no──► run one ──► init containers, one after the other ──► containers ► restarts, with back-off
//! ```

use super::backoff::Backoff;
use super::observed::{Observed, Seen};
use super::spec::{self, Kind, Restart};
use crate::probes::Probed;
use crate::runtime::{ContainerState, label};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};

/// Why a container is stopped. The text goes into the event Killing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The pod ends.
    PodEnds,
    /// A probe said so: `liveness` or `startup`.
    Probe(&'static str),
    /// Its image was changed.
    Changed,
    /// Its sandbox is gone.
    NoSandbox,
}

/// One thing to do. All actions of one step are independent of each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Create the sandbox.
    RunSandbox {
        /// How many there were before.
        attempt: u32,
    },
    /// Stop the sandbox and release its network.
    StopSandbox(String),
    /// Remove a sandbox that is stopped and empty.
    RemoveSandbox(String),
    /// Pull the image if needed, create the container and start it.
    Start {
        /// The sandbox it goes into.
        sandbox_id: String,
        /// Its name.
        name: String,
        /// Its kind.
        kind: Kind,
        /// How often it was restarted before.
        attempt: u32,
    },
    /// Stop a container.
    Stop {
        /// Its ID.
        id: String,
        /// Its name.
        name: String,
        /// Why.
        why: Why,
    },
    /// Remove a container that doesn't run and whose traces nobody needs.
    Remove(String),
    /// A container waits for its next start: CrashLoopBackOff.
    BackOff {
        /// Its name.
        name: String,
        /// Its whole delay.
        delay: SignedDuration,
        /// What is left of it.
        left: SignedDuration,
    },
    /// The pod can't start before the node's network works.
    AwaitNetwork,
    /// Look again after this time.
    Again(SignedDuration),
    /// Nothing of it runs any more and it is to be deleted: clean up and delete it at the API.
    Finish,
}

/// All that a decision depends on.
pub(crate) struct Input<'a> {
    /// The pod as the API has it.
    pub(crate) pod: &'a Pod,
    /// What the runtime has of it.
    pub(crate) observed: &'a Observed,
    /// What the probes of a container, by its ID, said.
    pub(crate) probed: &'a dyn Fn(&str) -> Probed,
    /// Delays of its containers' restarts, by name.
    pub(crate) backoff: &'a Backoff,
    /// Whether the node's network works.
    pub(crate) network_ready: bool,
    /// Whether the pod ended for good by its computed status, though the API may not know it yet.
    pub(crate) terminal: bool,
    /// Now.
    pub(crate) now: Timestamp,
}

/// What to do next for this pod.
pub(crate) fn step(input: &Input<'_>) -> Vec<Action> {
    let mut actions = prune(input);
    if ends(input) {
        actions.extend(end(input));
    } else if let Some(sandbox) = input.observed.sandbox() {
        let id = sandbox.id.clone();
        let stale = input.observed.sandboxes.iter().filter(|s| s.ready && s.id != id);
        actions.extend(stale.map(|s| Action::StopSandbox(s.id.clone())));
        actions.extend(run(input, &id));
        actions.extend(until_deadline(input));
    } else {
        actions.extend(without_sandbox(input));
    }
    actions
}

/// Whether the pod is to stop, for whatever reason.
fn ends(input: &Input<'_>) -> bool {
    spec::deleted(input.pod)
        || input.terminal
        || spec::terminal(input.pod)
        || spec::past_deadline(input.pod, input.now)
}

fn until_deadline(input: &Input<'_>) -> Option<Action> {
    spec::deadline(input.pod).map(|at| Action::Again(at.duration_since(input.now)))
}

/// Main containers first, then sidecars from last to first, then the sandbox.
fn end(input: &Input<'_>) -> Vec<Action> {
    let observed = input.observed;
    let stop = |seen: &Seen| stop(seen, Why::PodEnds);
    let sidecars: Vec<&str> = spec::init_containers(input.pod)
        .filter(|(k, _)| *k == Kind::Sidecar)
        .map(|(_, c)| c.name.as_str())
        .collect();
    let is_sidecar = |seen: &&Seen| sidecars.contains(&seen.status.name.as_str());
    let others: Vec<Action> = observed.running().filter(|s| !is_sidecar(s)).map(stop).collect();
    if !others.is_empty() {
        return others;
    }
    for name in sidecars.iter().rev() {
        let running: Vec<Action> = observed.running().filter(|s| s.status.name == *name).map(stop).collect();
        if !running.is_empty() {
            return running;
        }
    }
    let ready: Vec<Action> =
        observed.sandboxes.iter().filter(|s| s.ready).map(|s| Action::StopSandbox(s.id.clone())).collect();
    if ready.is_empty() && spec::deleted(input.pod) { vec![Action::Finish] } else { ready }
}

fn without_sandbox(input: &Input<'_>) -> Vec<Action> {
    let observed = input.observed;
    let lost: Vec<Action> = observed.running().map(|s| stop(s, Why::NoSandbox)).collect();
    if !lost.is_empty() {
        return lost;
    }
    let wanted = |c: &Container| wants_start(input, Kind::Main, c, observed.latest(&c.name));
    let never = spec::restart_policy(input.pod) == Restart::Never;
    let ran = spec::main_containers(input.pod).any(|c| observed.latest(&c.name).is_some());
    if (never && ran) || !spec::main_containers(input.pod).any(wanted) {
        return vec![];
    }
    if !input.network_ready && !spec::host_network(input.pod) {
        return vec![Action::AwaitNetwork];
    }
    let attempt = observed.sandboxes.iter().map(|s| s.attempt + 1).max().unwrap_or(0);
    vec![Action::RunSandbox { attempt }]
}

/// Whether a container is to be started if it doesn't run, leaving back-off aside.
fn wants_start(input: &Input<'_>, kind: Kind, container: &Container, last: Option<&Seen>) -> bool {
    match last.map(|seen| (seen.status.state, seen.status.exit_code)) {
        None => true,
        Some((ContainerState::Running | ContainerState::Unknown, _)) => false,
        // Created and never started: the kubelet ended in between.
        Some((ContainerState::Created, _)) => true,
        Some((ContainerState::Exited, code)) => spec::restart_of(input.pod, kind, container).again(code),
    }
}

fn run(input: &Input<'_>, sandbox_id: &str) -> Vec<Action> {
    let mut actions = vec![];
    let latest = |name: &str| input.observed.latest_in(sandbox_id, name);
    // Once a container of the pod's own was started, the init containers are done, also if they were removed since.
    let initialized = spec::main_containers(input.pod).any(|c| latest(&c.name).is_some());
    for (kind, container) in spec::init_containers(input.pod) {
        if kind == Kind::Init && initialized {
            continue;
        }
        let last = latest(&container.name);
        actions.extend(keep(input, sandbox_id, kind, container, last));
        if !initialized && !passed(input, kind, last) {
            return actions;
        }
    }
    for container in spec::main_containers(input.pod) {
        let last = latest(&container.name);
        let never_here = last.is_none() && input.observed.latest(&container.name).is_some();
        let history = if never_here { input.observed.latest(&container.name) } else { last };
        if never_here && !wants_start(input, Kind::Main, container, history) {
            continue;
        }
        actions.extend(keep(input, sandbox_id, Kind::Main, container, last));
    }
    for container in spec::ephemeral_containers(input.pod) {
        if latest(&container.name).is_none() {
            actions.extend(keep(input, sandbox_id, Kind::Ephemeral, &spec::plain(container), None));
        }
    }
    actions
}

/// Whether the next init container may start after this one.
fn passed(input: &Input<'_>, kind: Kind, last: Option<&Seen>) -> bool {
    let Some(seen) = last else { return false };
    match (kind, seen.status.state) {
        (Kind::Sidecar, ContainerState::Running) => has_started(input, seen),
        (Kind::Init, ContainerState::Exited) => seen.status.exit_code == 0,
        _ => false,
    }
}

fn has_started(input: &Input<'_>, seen: &Seen) -> bool {
    let has_probe = spec::find(input.pod, &seen.status.name).is_some_and(|(_, c)| c.startup_probe.is_some());
    !has_probe || (input.probed)(&seen.status.id).started == Some(true)
}

/// Keeps one container as it should be: starts it, stops it, waits, or leaves it alone.
fn keep(
    input: &Input<'_>,
    sandbox_id: &str,
    kind: Kind,
    container: &Container,
    last: Option<&Seen>,
) -> Option<Action> {
    if let Some(seen) = last.filter(|s| s.status.state == ContainerState::Running) {
        return stop_reason(input, container, seen).map(|why| stop(seen, why));
    }
    if !wants_start(input, kind, container, last) {
        return None;
    }
    let finished =
        last.filter(|s| s.status.state == ContainerState::Exited).map(|s| finished_at(s, input.now));
    if let Some((left, delay)) =
        finished.and_then(|since| input.backoff.waiting(&container.name, since, input.now))
    {
        return Some(Action::BackOff { name: container.name.clone(), delay, left });
    }
    let attempt = input.observed.named(&container.name).map(|s| s.status.attempt + 1).max().unwrap_or(0);
    let (sandbox_id, name) = (sandbox_id.to_string(), container.name.clone());
    Some(Action::Start { sandbox_id, name, kind, attempt })
}

fn finished_at(seen: &Seen, now: Timestamp) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(seen.status.finished_at)).unwrap_or(now)
}

fn stop_reason(input: &Input<'_>, container: &Container, seen: &Seen) -> Option<Why> {
    let hash = seen.status.annotations.get(label::CONTAINER_HASH);
    if hash.is_some_and(|h| *h != spec::hash(container)) {
        return Some(Why::Changed);
    }
    let probed = (input.probed)(&seen.status.id);
    match (probed.alive, probed.started) {
        (Some(false), Some(true)) => Some(Why::Probe("liveness")),
        (Some(false), _) if container.startup_probe.is_some() => Some(Why::Probe("startup")),
        (Some(false), _) => Some(Why::Probe("liveness")),
        _ => None,
    }
}

fn stop(seen: &Seen, why: Why) -> Action {
    Action::Stop { id: seen.status.id.clone(), name: seen.status.name.clone(), why }
}

/// Of each container's dead instances the newest one stays, for its log and its lastState; of the dead sandboxes those
/// that still have a container. A pod that ends keeps all until it is deleted.
fn prune(input: &Input<'_>) -> Vec<Action> {
    if spec::deleted(input.pod) {
        return vec![];
    }
    let observed = input.observed;
    let dead = |s: &&Seen| s.status.state == ContainerState::Exited;
    let mut actions = vec![];
    for (at, seen) in observed.containers.iter().enumerate() {
        let unstarted = seen.status.state == ContainerState::Created;
        let newer_dead =
            observed.containers[..at].iter().filter(dead).any(|s| s.status.name == seen.status.name);
        let newer = observed.containers[..at].iter().any(|s| s.status.name == seen.status.name);
        if (dead(&seen) && newer_dead) || (unstarted && newer) {
            actions.push(Action::Remove(seen.status.id.clone()));
        }
    }
    let empty = |id: &str| observed.containers.iter().all(|c| c.sandbox_id != id);
    let newest = observed.sandboxes.first().map(|s| s.id.clone());
    let old =
        observed.sandboxes.iter().filter(|s| !s.ready && empty(&s.id) && Some(&s.id) != newest.as_ref());
    actions.extend(old.map(|s| Action::RemoveSandbox(s.id.clone())));
    actions
}
