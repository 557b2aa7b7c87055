//! Tables: a pod in a runtime's state, what is done about it, and how it looks to a user.

use super::admit::Refusal;
use super::backoff::Backoff;
use super::observed::{Observed, Seen};
use super::status::{Facts, status};
use super::step::{Action, Input, Why, step};
use crate::images::Problem;
use crate::probes::Probed;
use crate::runtime::{ContainerState, ContainerStatus, Sandbox};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Seconds after the epoch that are now.
const NOW: i64 = 1_000_000;

fn pod(spec: impl Into<Value>) -> Pod {
    let mut value = json!({ "metadata": { "name": "p", "namespace": "ns", "uid": "u" }, "spec": spec.into(),
        "status": { "phase": "Pending" } });
    if value["spec"]["containers"].is_null() {
        value["spec"]["containers"] = json!([{ "name": "a", "image": "i" }]);
    }
    serde_json::from_value(value).unwrap()
}

fn deleted(mut pod: Pod) -> Pod {
    pod.metadata.deletion_timestamp = Some(super::status::seconds(now()));
    pod
}

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

/// Containers as `name:state[:exit code]`, the eldest first, all in the sandbox `s0`. `-` in front: the sandbox is dead.
fn observed(text: &str) -> Observed {
    let (ready, text) = match text.strip_prefix('-') {
        Some(rest) => (false, rest),
        None => (true, text),
    };
    let mut observed = Observed { ips: vec!["10.0.0.9".parse().unwrap()], ..Observed::default() };
    if text == "nothing" {
        return Observed::default();
    }
    observed.sandboxes.push(Sandbox {
        id: "s0".into(),
        name: "p".into(),
        namespace: "ns".into(),
        uid: "u".into(),
        attempt: 0,
        ready,
        created_at: 1,
    });
    let mut attempts: BTreeMap<&str, u32> = BTreeMap::new();
    for (at, item) in text.split_whitespace().enumerate() {
        let fields: Vec<&str> = item.split(':').collect();
        let attempt = attempts.entry(fields[0]).and_modify(|a| *a += 1).or_insert(0);
        observed.containers.insert(0, seen(at, fields[0], fields[1], fields.get(2).copied(), *attempt));
    }
    observed
}

fn seen(at: usize, name: &str, state: &str, code: Option<&str>, attempt: u32) -> Seen {
    let state = match state {
        "running" => ContainerState::Running,
        "exited" => ContainerState::Exited,
        _ => ContainerState::Created,
    };
    let started = state != ContainerState::Created;
    let status = ContainerStatus {
        id: format!("c{at}"),
        name: name.into(),
        attempt,
        state,
        created_at: at as i64 + 1,
        started_at: if started { 1_000_000_000 } else { 0 },
        finished_at: if state == ContainerState::Exited { NOW * 1_000_000_000 } else { 0 },
        exit_code: code.map_or(0, |c| c.parse().unwrap()),
        ..ContainerStatus::default()
    };
    Seen { sandbox_id: "s0".into(), status }
}

fn decide(pod: &Pod, observed: &Observed, probed: Probed, backoff: &Backoff) -> String {
    let input = Input {
        pod,
        observed,
        probed: &|_| probed,
        backoff,
        network_ready: true,
        terminal: false,
        now: now(),
    };
    step(&input).iter().map(short).collect::<Vec<_>>().join(", ")
}

fn short(action: &Action) -> String {
    match action {
        Action::RunSandbox { attempt } => format!("sandbox {attempt}"),
        Action::StopSandbox(id) => format!("stop-sandbox {id}"),
        Action::RemoveSandbox(id) => format!("remove-sandbox {id}"),
        Action::Start { name, attempt, .. } => format!("start {name} {attempt}"),
        Action::Stop { name, why: Why::PodEnds, .. } => format!("stop {name}"),
        Action::Stop { name, why, .. } => format!("stop {name} {why:?}"),
        Action::Remove(id) => format!("remove {id}"),
        Action::BackOff { name, delay, .. } => format!("back-off {name} {}s", delay.as_secs()),
        Action::AwaitNetwork => "await network".into(),
        Action::Again(delay) => format!("again {}s", delay.as_secs()),
        Action::Finish => "finish".into(),
    }
}

#[test]
fn steps() {
    let two = json!([{ "name": "a", "image": "i" }, { "name": "b", "image": "i" }]);
    let init = json!([{ "name": "i1", "image": "i" }, { "name": "i2", "image": "i" }]);
    let sidecar =
        json!([{ "name": "i1", "image": "i" }, { "name": "s", "image": "i", "restartPolicy": "Always" }]);
    let plain = || pod(json!({}));
    let never = || pod(json!({ "restartPolicy": "Never" }));
    let on_failure = || pod(json!({ "restartPolicy": "OnFailure" }));
    let with_two = || pod(json!({ "containers": two }));
    let with_init = || pod(json!({ "initContainers": init }));
    let with_sidecar = || pod(json!({ "initContainers": sidecar }));
    let cases = [
        (plain(), "nothing", "sandbox 0"),
        (plain(), "", "start a 0"),
        (with_two(), "", "start a 0, start b 0"),
        (plain(), "a:running", ""),
        (plain(), "a:exited:1", "start a 1"),
        (plain(), "a:exited:0 a:exited:0", "remove c0, start a 2"),
        (plain(), "a:created", "start a 1"),
        (plain(), "-a:running", "stop a NoSandbox"),
        (plain(), "-a:exited:137", "sandbox 1"),
        (never(), "a:exited:1", ""),
        (never(), "-a:exited:1", ""),
        (on_failure(), "a:exited:0", ""),
        (on_failure(), "a:exited:1", "start a 1"),
        (on_failure(), "-a:exited:0", ""),
        (with_init(), "", "start i1 0"),
        (with_init(), "i1:running", ""),
        (with_init(), "i1:exited:0", "start i2 0"),
        (with_init(), "i1:exited:1", "start i1 1"),
        (with_init(), "i1:exited:0 i2:exited:0", "start a 0"),
        (with_init(), "a:running", ""),
        (pod(json!({ "initContainers": init, "restartPolicy": "Never" })), "i1:exited:1", ""),
        (with_sidecar(), "i1:exited:0", "start s 0"),
        (with_sidecar(), "i1:exited:0 s:running", "start a 0"),
        (with_sidecar(), "i1:exited:0 s:exited:0 a:running", "start s 1"),
        (deleted(plain()), "nothing", "finish"),
        (deleted(plain()), "a:running", "stop a"),
        (deleted(plain()), "a:exited:0", "stop-sandbox s0"),
        (deleted(plain()), "-a:exited:0", "finish"),
        (deleted(with_sidecar()), "s:running a:running", "stop a"),
        (deleted(with_sidecar()), "s:running a:exited:0", "stop s"),
    ];
    for (pod, state, expected) in cases {
        let actions = decide(&pod, &observed(state), Probed::default(), &Backoff::default());
        assert_eq!(actions, expected, "{state} {:?}", pod.spec);
    }
}

#[test]
fn restarts_wait_and_probes_stop() {
    let mut backoff = Backoff::default();
    backoff.next("a", now());
    let crashed = observed("a:exited:1");
    assert_eq!(decide(&pod(json!({})), &crashed, Probed::default(), &backoff), "back-off a 10s");
    let dead = Probed { started: Some(true), alive: Some(false), ..Probed::default() };
    let probe = json!([{ "name": "a", "image": "i", "livenessProbe": {}, "startupProbe": {} }]);
    let probed = pod(json!({ "containers": probe }));
    let none = Backoff::default();
    assert_eq!(decide(&probed, &observed("a:running"), dead, &none), "stop a Probe(\"liveness\")");
    let unstarted = Probed { started: None, ..dead };
    assert_eq!(decide(&probed, &observed("a:running"), unstarted, &none), "stop a Probe(\"startup\")");
}

#[test]
fn the_deadline_ends_a_pod() {
    let mut late = pod(json!({ "activeDeadlineSeconds": 10 }));
    let start = |ago: i64| PodStatus {
        start_time: Some(super::status::seconds(now() - SignedDuration::from_secs(ago))),
        ..PodStatus::default()
    };
    late.status = Some(start(4));
    let running = observed("a:running");
    assert_eq!(decide(&late, &running, Probed::default(), &Backoff::default()), "again 6s");
    late.status = Some(start(11));
    assert_eq!(decide(&late, &running, Probed::default(), &Backoff::default()), "stop a");
    let failed = look(&late, &running, &[], Probed::default());
    assert_eq!(
        (failed.phase.as_deref(), failed.reason.as_deref()),
        (Some("Failed"), Some("DeadlineExceeded"))
    );
}

fn look(pod: &Pod, observed: &Observed, problems: &[(&str, &'static str)], probed: Probed) -> PodStatus {
    look_at(pod, observed, problems, probed, None)
}

fn look_at(
    pod: &Pod,
    observed: &Observed,
    problems: &[(&str, &'static str)],
    probed: Probed,
    refusal: Option<&Refusal>,
) -> PodStatus {
    let problems =
        problems.iter().map(|(name, reason)| (name.to_string(), Problem::new(reason, "text"))).collect();
    let facts = Facts {
        observed,
        probed: &|_| probed,
        problems: &problems,
        refusal,
        runtime_name: "containerd",
        host_ip: "192.0.2.1".parse().unwrap(),
        now: now(),
    };
    status(pod, &facts)
}

#[test]
fn a_refused_pod_fails_with_its_reason_alone() {
    let init = json!([{ "name": "i1", "image": "i" }]);
    let refusal = Refusal { reason: "SysctlForbidden", message: "forbidden sysctl".into() };
    let mut pod = pod(json!({ "initContainers": init }));
    let nothing = observed("nothing");
    for _ in 0..2 {
        let refused = look_at(&pod, &nothing, &[], Probed::default(), Some(&refusal));
        let lacking = "!PodReadyToStartContainers !Initialized !Ready !ContainersReady";
        assert_eq!(line(&refused), format!("Failed {lacking}"));
        assert_eq!(refused.reason.as_deref(), Some("SysctlForbidden"));
        assert_eq!(refused.message.as_deref(), Some("Pod was rejected: forbidden sysctl"));
        // The next look begins with what the last one said, and says the same.
        pod.status = Some(refused);
    }
}

/// A status in one line: phase, each container's state, the conditions that are not True.
fn line(status: &PodStatus) -> String {
    let state = |s: &k8s_openapi::api::core::v1::ContainerStatus| {
        let state = s.state.clone().unwrap_or_default();
        let word = match (state.running, state.waiting, state.terminated) {
            (Some(_), ..) => "running".to_string(),
            (_, Some(w), _) => w.reason.unwrap_or_default(),
            (.., Some(t)) => format!("{}({})", t.reason.unwrap_or_default(), t.exit_code),
            _ => "?".into(),
        };
        let restarts = if s.restart_count > 0 { format!(" x{}", s.restart_count) } else { String::new() };
        format!("{}={word}{restarts}", s.name)
    };
    let init = status.init_container_statuses.iter().flatten().map(state);
    let main = status.container_statuses.iter().flatten().map(state);
    let lacking =
        status.conditions.iter().flatten().filter(|c| c.status != "True").map(|c| format!("!{}", c.type_));
    let words: Vec<String> = std::iter::once(status.phase.clone().unwrap_or_default())
        .chain(init)
        .chain(main)
        .chain(lacking)
        .collect();
    words.join(" ")
}

#[test]
fn statuses() {
    let init = json!([{ "name": "i1", "image": "i" }]);
    let two = json!([{ "name": "a", "image": "i" }, { "name": "b", "image": "i" }]);
    let plain = || pod(json!({}));
    let never = || pod(json!({ "restartPolicy": "Never" }));
    let with_init = || pod(json!({ "initContainers": init }));
    let unready = "!Ready !ContainersReady";
    type Problems = &'static [(&'static str, &'static str)];
    let cases: [(Pod, &str, Problems, String); 15] = [
        (
            plain(),
            "nothing",
            &[],
            format!("Pending a=ContainerCreating !PodReadyToStartContainers {unready}"),
        ),
        (plain(), "", &[("a", "ErrImagePull")], format!("Pending a=ErrImagePull {unready}")),
        (plain(), "a:running", &[], "Running a=running".into()),
        (plain(), "a:exited:1", &[], format!("Running a=Error(1) {unready}")),
        (
            plain(),
            "a:exited:1 a:exited:1",
            &[("a", "CrashLoopBackOff")],
            format!("Running a=CrashLoopBackOff x1 {unready}"),
        ),
        (never(), "a:exited:0", &[], format!("Succeeded a=Completed(0) {unready}")),
        (never(), "a:exited:3", &[], format!("Failed a=Error(3) {unready}")),
        (
            pod(json!({ "restartPolicy": "OnFailure" })),
            "a:exited:3",
            &[],
            format!("Running a=Error(3) {unready}"),
        ),
        (
            with_init(),
            "i1:running",
            &[],
            format!("Pending i1=running a=PodInitializing !Initialized {unready}"),
        ),
        (with_init(), "i1:exited:0", &[], format!("Pending i1=Completed(0) a=PodInitializing {unready}")),
        (with_init(), "i1:exited:0 a:running", &[], "Running i1=Completed(0) a=running".into()),
        (
            pod(json!({ "initContainers": init, "restartPolicy": "Never" })),
            "i1:exited:2",
            &[],
            format!("Failed i1=Error(2) a=PodInitializing !Initialized {unready}"),
        ),
        (
            pod(json!({ "containers": two })),
            "a:running",
            &[],
            format!("Pending a=running b=ContainerCreating {unready}"),
        ),
        (
            pod(json!({ "containers": two, "restartPolicy": "Never" })),
            "a:exited:0 b:running",
            &[],
            format!("Running a=Completed(0) b=running {unready}"),
        ),
        (
            deleted(plain()),
            "-a:exited:143",
            &[],
            format!("Failed a=Error(143) !PodReadyToStartContainers {unready}"),
        ),
    ];
    for (pod, state, problems, expected) in cases {
        let status = look(&pod, &observed(state), problems, Probed::default());
        assert_eq!(line(&status), expected, "{state}");
    }
}

#[test]
fn details_of_a_status() {
    let crashed = look(
        &pod(json!({})),
        &observed("a:exited:1 a:exited:2"),
        &[("a", "CrashLoopBackOff")],
        Probed::default(),
    );
    let container = &crashed.container_statuses.as_ref().unwrap()[0];
    let last = container.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((last.exit_code, container.restart_count), (2, 1));
    assert_eq!(container.container_id.as_deref(), Some("containerd://c1"));
    assert_eq!(crashed.pod_ip.as_deref(), Some("10.0.0.9"));
    assert_eq!(crashed.host_ip.as_deref(), Some("192.0.2.1"));

    let probe = json!([{ "name": "a", "image": "i", "readinessProbe": {}, "startupProbe": {} }]);
    let probed = pod(json!({ "containers": probe }));
    for (started, ready, expected) in
        [(None, None, false), (Some(true), None, false), (Some(true), Some(true), true)]
    {
        let status = look(&probed, &observed("a:running"), &[], Probed { started, ready, alive: None });
        assert_eq!(status.container_statuses.unwrap()[0].ready, expected, "{started:?} {ready:?}");
    }
}

#[test]
fn transition_times_stay_and_foreign_conditions_too() {
    let mut pod = pod(json!({ "readinessGates": [{ "conditionType": "example.com/gate" }] }));
    let running = observed("a:running");
    let first = look(&pod, &running, &[], Probed::default());
    assert_eq!(line(&first), "Running a=running !Ready");
    let mut later = first.clone();
    for condition in later.conditions.iter_mut().flatten() {
        condition.last_transition_time = Some(super::status::seconds(Timestamp::UNIX_EPOCH));
    }
    let gate = json!({ "type": "example.com/gate", "status": "True" });
    later.conditions.as_mut().unwrap().push(serde_json::from_value(gate).unwrap());
    pod.status = Some(later);
    let second = look(&pod, &running, &[], Probed::default());
    let conditions = second.conditions.unwrap();
    let of = |type_: &str| conditions.iter().find(|c| c.type_ == type_).unwrap();
    assert_eq!(of("ContainersReady").last_transition_time.as_ref().unwrap().0, Timestamp::UNIX_EPOCH);
    assert_eq!(
        (of("Ready").status.as_str(), of("Ready").last_transition_time.as_ref().unwrap().0),
        ("True", now())
    );
    assert_eq!(of("example.com/gate").status, "True");
}
