//! How a pod is, as its status at the API says it. Pure.

use super::admit::Refusal;
use super::observed::{Observed, Seen};
use super::spec::{self, Kind, Restart};
use crate::images::Problem;
use crate::probes::Probed;
use crate::runtime::{ContainerState as Life, ContainerStatus as Raw};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// All that a status depends on, beside the pod.
pub(crate) struct Facts<'a> {
    /// What the runtime has of it.
    pub(crate) observed: &'a Observed,
    /// What the probes of a container, by its ID, said.
    pub(crate) probed: &'a dyn Fn(&str) -> Probed,
    /// Why containers, by name, don't run.
    pub(crate) problems: &'a BTreeMap<String, Problem>,
    /// Why this node doesn't run the pod.
    pub(crate) refusal: Option<&'a Refusal>,
    /// The runtime's name, the scheme of container IDs.
    pub(crate) runtime_name: &'a str,
    /// The node's address.
    pub(crate) host_ip: IpAddr,
    /// Now.
    pub(crate) now: Timestamp,
}

/// The pod's status. What others wrote into the status at the API stays.
pub(crate) fn status(pod: &Pod, facts: &Facts<'_>) -> PodStatus {
    let mut status = pod.status.clone().unwrap_or_default();
    let old = status.clone();
    let before = |list: &Option<Vec<ContainerStatus>>, name: &str| {
        list.iter().flatten().find(|c| c.name == name).cloned()
    };
    let init = spec::init_containers(pod)
        .map(|(kind, c)| container(pod, kind, c, facts, before(&old.init_container_statuses, &c.name)));
    let init: Vec<_> = init.collect();
    let main = spec::main_containers(pod)
        .map(|c| container(pod, Kind::Main, c, facts, before(&old.container_statuses, &c.name)));
    let main: Vec<_> = main.collect();
    let ephemeral: Vec<_> = spec::ephemeral_containers(pod)
        .map(|c| (spec::plain(c), before(&old.ephemeral_container_statuses, &c.name)))
        .map(|(c, old)| container(pod, Kind::Ephemeral, &c, facts, old))
        .collect();
    if !spec::terminal(pod) {
        status.phase = Some(phase(pod, facts, &init, &main).to_string());
        overdue(pod, facts, &mut status);
        refused(facts, &mut status);
    }
    addresses(pod, facts, &mut status);
    status.start_time.get_or_insert(seconds(facts.now));
    status.observed_generation = pod.metadata.generation.or(status.observed_generation);
    let filled = |list: Vec<ContainerStatus>| (!list.is_empty()).then_some(list);
    status.init_container_statuses = filled(init);
    status.container_statuses = filled(main);
    status.ephemeral_container_statuses = filled(ephemeral);
    super::conditions::update(pod, facts.observed, &mut status, facts.now);
    if facts.refusal.is_some() {
        // Its containers never will be; waiting ones would hide the reason.
        status.init_container_statuses = None;
        status.container_statuses = None;
        status.ephemeral_container_statuses = None;
    }
    status
}

/// A time without fractions, as the API keeps it.
pub(crate) fn seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

fn nanoseconds(at: i64) -> Option<Time> {
    (at > 0).then(|| Timestamp::from_nanosecond(i128::from(at)).ok().map(seconds)).flatten()
}

fn overdue(pod: &Pod, facts: &Facts<'_>, status: &mut PodStatus) {
    if spec::past_deadline(pod, facts.now) {
        status.phase = Some("Failed".into());
        status.reason = Some("DeadlineExceeded".into());
        status.message = Some("Pod was active on the node longer than the specified deadline".into());
    }
}

fn refused(facts: &Facts<'_>, status: &mut PodStatus) {
    if let Some(refusal) = facts.refusal {
        status.phase = Some("Failed".into());
        status.reason = Some(refusal.reason.into());
        status.message = Some(format!("Pod was rejected: {}", refusal.message));
    }
}

fn addresses(pod: &Pod, facts: &Facts<'_>, status: &mut PodStatus) {
    let host = facts.host_ip.to_string();
    status.host_ip = Some(host.clone());
    status.host_ips = Some(vec![HostIP { ip: host.clone() }]);
    let ips: Vec<String> = if spec::host_network(pod) && facts.observed.sandbox().is_some() {
        vec![host]
    } else {
        facts.observed.ips.iter().map(ToString::to_string).collect()
    };
    // A pod whose sandbox is gone keeps its last address, as upstream.
    if let Some(first) = ips.first() {
        status.pod_ip = Some(first.clone());
        status.pod_ips = Some(ips.into_iter().map(|ip| PodIP { ip }).collect());
    }
}

fn container(
    pod: &Pod,
    kind: Kind,
    from: &Container,
    facts: &Facts<'_>,
    old: Option<ContainerStatus>,
) -> ContainerStatus {
    let mut seen = facts.observed.named(&from.name);
    let (latest, previous) = (seen.next(), seen.next());
    let Some(latest) = latest else { return unseen(pod, from, facts, old) };
    let mut status = ContainerStatus {
        name: from.name.clone(),
        image: if latest.status.image.is_empty() {
            from.image.clone().unwrap_or_default()
        } else {
            latest.status.image.clone()
        },
        image_id: latest.status.image_ref.clone(),
        container_id: Some(id(facts, &latest.status)),
        restart_count: i32::try_from(latest.status.attempt).unwrap_or(i32::MAX),
        state: Some(state(facts, latest)),
        last_state: previous.map(|p| state(facts, p)).filter(|s| s.terminated.is_some()),
        ..ContainerStatus::default()
    };
    if status.last_state.is_none() {
        // The runtime may have removed the instance before; what the API remembers of it still holds.
        let same = old.filter(|o| o.restart_count == status.restart_count);
        status.last_state = same.and_then(|o| o.last_state).filter(|s| s.terminated.is_some());
    }
    status.last_state.get_or_insert_default();
    waiting(&mut status, facts);
    readiness(&mut status, kind, from, facts, &latest.status);
    status
}

/// A container that failed to start, or waits for its restart, is waiting; how it ended before is its last state.
fn waiting(status: &mut ContainerStatus, facts: &Facts<'_>) {
    let running = status.state.as_ref().is_some_and(|s| s.running.is_some());
    let Some(problem) = facts.problems.get(&status.name).filter(|_| !running) else { return };
    if let Some(ended) = status.state.take().filter(|s| s.terminated.is_some()) {
        status.last_state = Some(ended);
    }
    status.state = Some(waits(problem.reason, Some(problem.message.clone())));
}

fn readiness(status: &mut ContainerStatus, kind: Kind, from: &Container, facts: &Facts<'_>, raw: &Raw) {
    let probed = (facts.probed)(&raw.id);
    let running = raw.state == Life::Running && status.state.as_ref().is_some_and(|s| s.running.is_some());
    let started = running && (from.startup_probe.is_none() || probed.started == Some(true));
    let probe_ok = from.readiness_probe.is_none() || probed.ready == Some(true);
    let done = raw.state == Life::Exited && raw.exit_code == 0;
    status.started = Some(started);
    status.ready = match kind {
        Kind::Init => done,
        Kind::Main | Kind::Sidecar => started && probe_ok,
        Kind::Ephemeral => false,
    };
}

/// A container of which the runtime knows nothing: not yet started, or gone.
fn unseen(pod: &Pod, from: &Container, facts: &Facts<'_>, old: Option<ContainerStatus>) -> ContainerStatus {
    let has_init = spec::init_containers(pod).next().is_some();
    let default = if has_init { "PodInitializing" } else { "ContainerCreating" };
    let mut status = old.unwrap_or_else(|| ContainerStatus {
        name: from.name.clone(),
        image: from.image.clone().unwrap_or_default(),
        started: Some(false),
        last_state: Some(ContainerState::default()),
        ..ContainerStatus::default()
    });
    let was = status.state.take().unwrap_or_default();
    status.ready &= was.terminated.is_some();
    status.started = Some(false);
    if was.terminated.is_some() {
        status.state = Some(was);
    } else if was.running.is_some() {
        let lost = lost(&status);
        if spec::deleted(pod) || spec::restart_policy(pod) == Restart::Never {
            status.state = Some(lost);
        } else {
            status.last_state = Some(lost);
            status.state = Some(waits(default, None));
        }
    } else {
        status.state = Some(waits(default, None));
    }
    waiting(&mut status, facts);
    status
}

fn lost(status: &ContainerStatus) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some("The container could not be located when the pod was terminated".into()),
            container_id: status.container_id.clone(),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}

fn waits(reason: &str, message: Option<String>) -> ContainerState {
    let waiting = ContainerStateWaiting { reason: Some(reason.to_string()), message };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn id(facts: &Facts<'_>, raw: &Raw) -> String {
    format!("{}://{}", facts.runtime_name, raw.id)
}

fn state(facts: &Facts<'_>, seen: &Seen) -> ContainerState {
    let raw = &seen.status;
    match raw.state {
        Life::Running => ContainerState {
            running: Some(ContainerStateRunning { started_at: nanoseconds(raw.started_at) }),
            ..ContainerState::default()
        },
        Life::Exited => ContainerState {
            terminated: Some(ContainerStateTerminated {
                container_id: Some(id(facts, raw)),
                exit_code: raw.exit_code,
                finished_at: nanoseconds(raw.finished_at),
                started_at: nanoseconds(raw.started_at),
                reason: Some(end_reason(raw)),
                message: Some(raw.message.clone()).filter(|m| !m.is_empty()),
                signal: None,
            }),
            ..ContainerState::default()
        },
        Life::Created | Life::Unknown => waits("ContainerCreating", None),
    }
}

fn end_reason(raw: &Raw) -> String {
    match (raw.reason.as_str(), raw.exit_code) {
        ("", 0) => "Completed".into(),
        ("", _) => "Error".into(),
        (reason, _) => reason.to_string(),
    }
}

/// The phase, by upstream's rules.
fn phase(pod: &Pod, facts: &Facts<'_>, init: &[ContainerStatus], main: &[ContainerStatus]) -> &'static str {
    let policy = spec::restart_policy(pod);
    let none_runs = facts.observed.running().next().is_none();
    let over = spec::deleted(pod) && none_runs;
    let started = main.iter().any(|s| state_of(s).terminated.is_some() || state_of(s).running.is_some());
    if !started {
        let pending = spec::init_containers(pod).zip(init).find(|((kind, _), s)| !init_done(*kind, s));
        if let Some(((kind, container), status)) = pending {
            let ended = state_of(status).terminated.as_ref().is_some_and(|t| t.exit_code != 0);
            let final_ = kind == Kind::Init && spec::restart_of(pod, kind, container) == Restart::Never;
            return if (ended && final_) || over { "Failed" } else { "Pending" };
        }
    }
    let count = |test: &dyn Fn(&ContainerStatus) -> bool| main.iter().filter(|s| test(s)).count();
    let ended_before = |s: &ContainerStatus| s.last_state.as_ref().is_some_and(|l| l.terminated.is_some());
    let running = count(&|s| state_of(s).running.is_some());
    let waiting = count(&|s| state_of(s).waiting.is_some() && !ended_before(s));
    let succeeded = count(&|s| state_of(s).terminated.as_ref().is_some_and(|t| t.exit_code == 0));
    let stopped = main.len() - running - waiting;
    if over {
        return if succeeded == main.len() { "Succeeded" } else { "Failed" };
    }
    let restarted = main_restarts(pod, main);
    match (waiting, running, stopped) {
        (1.., _, _) => "Pending",
        (_, 1.., _) => "Running",
        (_, _, 1..) if policy == Restart::Always || restarted => "Running",
        (_, _, 1..) if stopped == succeeded => "Succeeded",
        (_, _, 1..) => "Failed",
        _ => "Pending",
    }
}

/// Whether any of the stopped containers is started again.
fn main_restarts(pod: &Pod, main: &[ContainerStatus]) -> bool {
    spec::main_containers(pod).zip(main).any(|(container, status)| {
        let policy = spec::restart_of(pod, Kind::Main, container);
        match &state_of(status).terminated {
            Some(ended) => policy.again(ended.exit_code),
            None => policy != Restart::Never,
        }
    })
}

/// The state, which [`container`] always fills in.
pub(super) fn state_of(status: &ContainerStatus) -> &ContainerState {
    static NONE: ContainerState = ContainerState { running: None, terminated: None, waiting: None };
    status.state.as_ref().unwrap_or(&NONE)
}

/// Whether the init container lets the next one start.
pub(super) fn init_done(kind: Kind, status: &ContainerStatus) -> bool {
    match kind {
        Kind::Sidecar => status.started == Some(true),
        _ => state_of(status).terminated.as_ref().is_some_and(|t| t.exit_code == 0),
    }
}

/// A duration as Go prints it: `850ms`, `1.5s`, `1m20s`.
pub(crate) fn go_duration(duration: Duration) -> String {
    let (total, millis) = (duration.as_secs(), duration.subsec_millis());
    let (hours, minutes, secs) = (total / 3600, total % 3600 / 60, total % 60);
    let fraction = format!("{millis:03}");
    let fraction = fraction.trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    match (hours, minutes, secs) {
        (0, 0, 0) => format!("{millis}ms"),
        (0, 0, s) => format!("{s}{dot}{fraction}s"),
        (0, m, s) => format!("{m}m{s}{dot}{fraction}s"),
        (h, m, s) => format!("{h}h{m}m{s}{dot}{fraction}s"),
    }
}

/// The state of a container that waits for its restart after a crash.
pub(crate) fn crash_loop(
    pod_name: &str,
    namespace: &str,
    uid: &str,
    container: &str,
    delay: SignedDuration,
) -> Problem {
    let delay = go_duration(Duration::try_from(delay).unwrap_or_default());
    let text =
        format!("back-off {delay} restarting failed container={container} pod={pod_name}_{namespace}({uid})");
    Problem::new("CrashLoopBackOff", text)
}
