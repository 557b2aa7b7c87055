//! One look at one pod: observe, decide, tell the API, act; again until nothing is left to do.
//!
//! The queue runs a pod's looks one after the other and different pods' side by side. Telling the API means putting the
//! status into the table; the writer sends it, so that an API server that is slow or away stops no pod.

use super::admit::{self, Refusal};
use super::backoff::Backoff;
use super::observed::{self, Cache, Observed};
use super::step::{Action, Input, step};
use super::{finish, kill, spec, start, status};
use crate::context::{Context, Entry};
use crate::images::{Problem, Pulls};
use crate::probes::Target;
use crate::runtime::{ContainerState, RuntimeError};
use crate::volumes;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::ResourceExt;
use kubelite_informer::EventType::Warning;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Looks in one run; a pod that needs more gets them in the next run.
const MAX_LOOKS: usize = 64;
/// How soon something that failed is tried again.
pub(super) const RETRY: SignedDuration = SignedDuration::from_secs(5);
/// How often a running pod's volumes are brought up to date.
const VOLUMES: Duration = Duration::from_secs(50);

/// What is remembered of a pod between looks, none of which is needed to adopt it after a restart.
#[derive(Default)]
pub(crate) struct Memory {
    pub(super) cache: Cache,
    pub(super) backoff: Backoff,
    pub(super) pulls: Pulls,
    pub(super) problems: BTreeMap<String, Problem>,
    /// The pod ended for good by its computed status.
    terminal: bool,
    /// When its volumes were brought up to date.
    volumes_at: Option<Instant>,
}

/// What came of acting.
#[derive(Clone, Copy, Default)]
pub(super) struct Outcome {
    /// Something changed, so look again at once.
    pub(super) progress: bool,
    /// Look again after this time.
    pub(super) again: Option<SignedDuration>,
}

impl Outcome {
    /// Something changed.
    pub(super) fn progress() -> Outcome {
        Outcome { progress: true, again: None }
    }

    /// Nothing changed; look again after this time.
    pub(super) fn later(delay: SignedDuration) -> Outcome {
        Outcome { progress: false, again: Some(delay) }
    }

    fn add(&mut self, other: Outcome) {
        self.progress |= other.progress;
        self.again = match (self.again, other.again) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}

/// Looks at the pod with this UID until nothing is left to do; returns when to look again.
pub(crate) async fn run(
    context: &Arc<Context>,
    uid: &str,
    memory: &mut Memory,
) -> Result<Option<Duration>, RuntimeError> {
    for _ in 0..MAX_LOOKS {
        let Some(entry) = context.pods.get(uid) else {
            return finish::orphan(context, uid, memory).await;
        };
        let outcome = look(context, uid, &entry, memory).await?;
        if !outcome.progress {
            return Ok(outcome.again.map(|d| Duration::try_from(d).unwrap_or_default()));
        }
    }
    Ok(Some(Duration::ZERO))
}

async fn look(
    context: &Arc<Context>,
    uid: &str,
    entry: &Entry,
    memory: &mut Memory,
) -> Result<Outcome, RuntimeError> {
    let observed = observed::observe(context.runtime.as_ref(), uid, &mut memory.cache).await?;
    let pod = &entry.pod;
    context.probes.sync(context, pod, pod_ip(context, entry, &observed), &targets(pod, &observed));
    let probed = |id: &str| context.probes.of(id);
    let refusal = refusal(context, uid, entry, memory, &observed);
    let actions = step(&Input {
        pod,
        observed: &observed,
        probed: &probed,
        backoff: &memory.backoff,
        network_ready: context.network().ready,
        terminal: memory.terminal || refusal.is_some(),
        now: Timestamp::now(),
    });
    note(context, entry, memory, &observed, &actions);
    report(context, uid, entry, memory, &observed, refusal.as_ref());
    let problems = memory.problems.clone();
    let outcome = act(context, entry, memory, &observed, actions).await?;
    if memory.problems != problems {
        report(context, uid, entry, memory, &observed, refusal.as_ref());
    }
    if !outcome.progress {
        refresh_volumes(context, entry, memory, &observed).await;
    }
    Ok(outcome)
}

/// A running pod's volumes follow their sources.
async fn refresh_volumes(context: &Context, entry: &Entry, memory: &mut Memory, observed: &Observed) {
    let due = memory.volumes_at.is_none_or(|at| at.elapsed() >= VOLUMES);
    let runs = observed.running().next().is_some() && !spec::deleted(&entry.pod);
    if !(due && runs) {
        return;
    }
    memory.volumes_at = Some(Instant::now());
    if let Err(error) = volumes::mount(&context.client, &context.config, &entry.pod).await {
        context.recorder.record(&*entry.pod, Warning, "FailedMount", error.to_string());
    }
}

fn pod_ip(context: &Context, entry: &Entry, observed: &Observed) -> Option<std::net::IpAddr> {
    match spec::host_network(&entry.pod) {
        true => Some(context.config.node_ip),
        false => observed.ips.first().copied(),
    }
}

fn targets(pod: &Pod, observed: &Observed) -> Vec<Target> {
    if spec::deleted(pod) {
        return vec![];
    }
    let running = observed.containers.iter().filter(|c| c.status.state == ContainerState::Running);
    let target = |c: &observed::Seen| Target {
        container: c.status.name.clone(),
        id: c.status.id.clone(),
        started_at: c.status.started_at,
    };
    running.map(target).collect()
}

/// Keeps in mind what the step found out about waiting containers; says it once.
fn note(context: &Context, entry: &Entry, memory: &mut Memory, observed: &Observed, actions: &[Action]) {
    let pod = &entry.pod;
    let running =
        |name: &str| observed.latest(name).is_some_and(|s| s.status.state == ContainerState::Running);
    memory.problems.retain(|name, _| !running(name));
    for action in actions {
        let Action::BackOff { name, delay, .. } = action else { continue };
        let (pod_name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
        let uid = pod.uid().unwrap_or_default();
        let problem = status::crash_loop(&pod_name, &namespace, &uid, name, *delay);
        if memory.problems.get(name) != Some(&problem) {
            let text =
                format!("Back-off restarting failed container {name} in pod {pod_name}_{namespace}({uid})");
            context.recorder.record(&**pod, Warning, "BackOff", text);
            memory.problems.insert(name.clone(), problem);
        }
    }
}

/// Why the node doesn't run the pod, said once. What runs, or ended by itself, is not refused any more.
fn refusal(
    context: &Context,
    uid: &str,
    entry: &Entry,
    memory: &Memory,
    observed: &Observed,
) -> Option<Refusal> {
    let refusal = admit::refusal(&entry.pod, crate::node::machine::apparmor())?;
    let there = !observed.sandboxes.is_empty() || !observed.containers.is_empty();
    let known = basis(&entry.pod, context.pods.get(uid).and_then(|e| e.status).as_deref());
    let reason = known.status.as_ref().and_then(|s| s.reason.as_deref());
    if there || (spec::terminal(&known) && reason != Some(refusal.reason)) {
        return None;
    }
    if !memory.terminal && !spec::terminal(&known) {
        context.recorder.record(&*entry.pod, Warning, refusal.reason, refusal.message.clone());
    }
    Some(refusal)
}

fn report(
    context: &Context,
    uid: &str,
    entry: &Entry,
    memory: &mut Memory,
    observed: &Observed,
    refusal: Option<&Refusal>,
) {
    let last = context.pods.get(uid).and_then(|e| e.status);
    let status = status::status(
        &basis(&entry.pod, last.as_deref()),
        &status::Facts {
            observed,
            probed: &|id| context.probes.of(id),
            problems: &memory.problems,
            refusal,
            runtime_name: &context.runtime_name,
            host_ip: context.config.node_ip,
            now: Timestamp::now(),
        },
    );
    memory.terminal |= matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if last.as_deref() != Some(&status) || entry.pod.status.as_ref() != Some(&status) {
        context.pods.set_status(uid, Arc::new(status));
        context.writes.add(uid.to_string());
    }
}

/// The pod with the status that was computed last, which the API may not have yet, so that times in it don't move. What
/// others write comes from the API: their conditions, and a phase that ends the pod.
fn basis(pod: &Pod, last: Option<&PodStatus>) -> Pod {
    let mut pod = pod.clone();
    if spec::terminal(&pod) {
        return pod;
    }
    if let Some(last) = last {
        let at_api = pod.status.take().unwrap_or_default();
        let mut status = last.clone();
        status.conditions = crate::writer::with_foreign(status.conditions, at_api.conditions);
        status.qos_class = at_api.qos_class;
        pod.status = Some(status);
    }
    pod
}

async fn act(
    context: &Arc<Context>,
    entry: &Entry,
    memory: &mut Memory,
    observed: &Observed,
    actions: Vec<Action>,
) -> Result<Outcome, RuntimeError> {
    let mut outcome = Outcome::default();
    let (stops, others): (Vec<_>, Vec<_>) =
        actions.into_iter().partition(|a| matches!(a, Action::Stop { .. }));
    if !stops.is_empty() {
        outcome.add(kill::all(context, &entry.pod, &stops).await);
    }
    for action in others {
        outcome.add(act_once(context, entry, memory, observed, action).await?);
    }
    Ok(outcome)
}

async fn act_once(
    context: &Arc<Context>,
    entry: &Entry,
    memory: &mut Memory,
    observed: &Observed,
    action: Action,
) -> Result<Outcome, RuntimeError> {
    let runtime = context.runtime.as_ref();
    match action {
        Action::RunSandbox { attempt } => return Ok(start::sandbox(context, &entry.pod, attempt).await),
        Action::Start { sandbox_id, name, kind, attempt } => {
            let what = start::Container { sandbox_id, name, kind, attempt };
            return Ok(start::container(context, &entry.pod, memory, observed, &what).await);
        }
        Action::StopSandbox(id) => runtime.stop_sandbox(&id).await?,
        Action::RemoveSandbox(id) => {
            // One that died by itself still has its network.
            runtime.stop_sandbox(&id).await?;
            runtime.remove_sandbox(&id).await?;
        }
        Action::Remove(id) => runtime.remove_container(&id).await?,
        Action::BackOff { left, .. } => return Ok(Outcome::later(left)),
        Action::Again(delay) => return Ok(Outcome::later(delay)),
        Action::AwaitNetwork => {
            let network = context.network();
            let text = format!("network is not ready: {}", network.message);
            context.recorder.record(&*entry.pod, Warning, "NetworkNotReady", text);
            return Ok(Outcome::later(RETRY));
        }
        Action::Finish => return Ok(finish::pod(context, &entry.pod).await),
        // Carried out by act, together.
        Action::Stop { .. } => {}
    }
    Ok(Outcome::progress())
}
