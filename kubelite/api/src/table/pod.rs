//! The row of a pod; its status is the most telling of all reasons that its containers give.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cells::{int, or_none, text};
use crate::{object, scalar};

/// All cells of a pod.
pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let list = |path| pod.pointer(path).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let sidecars = sidecars(pod);
    let running = list("/status/containerStatuses");
    let ready = running.iter().chain(init_statuses(pod).filter(|s| sidecars.contains(&text(s, "/name"))));
    let ready =
        ready.filter(|s| s.get("ready") == Some(&Value::Bool(true)) && s.pointer("/state/running").is_some());
    let total = list("/spec/containers").len() + sidecars.len();
    let gates = list("/spec/readinessGates");
    let passed = gates.iter().filter(|gate| condition(pod, text(gate, "/conditionType")) == "True").count();
    let gates = if gates.is_empty() { "<none>".to_owned() } else { format!("{passed}/{}", gates.len()) };
    vec![
        json!(object::name(pod)),
        json!(format!("{}/{total}", ready.count())),
        json!(status(pod)),
        json!(restarts(pod, now)),
        json!(super::age(pod, now)),
        json!(or_none(text(pod, "/status/podIP"))),
        json!(or_none(text(pod, "/spec/nodeName"))),
        json!(or_none(text(pod, "/status/nominatedNodeName"))),
        json!(gates),
    ]
}

/// The names of the init containers that keep running.
fn sidecars(pod: &Value) -> Vec<&str> {
    let init = pod.pointer("/spec/initContainers").and_then(Value::as_array);
    init.into_iter()
        .flatten()
        .filter(|c| text(c, "/restartPolicy") == "Always")
        .map(|c| text(c, "/name"))
        .collect()
}

fn init_statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    pod.pointer("/status/initContainerStatuses").and_then(Value::as_array).into_iter().flatten()
}

fn statuses(pod: &Value) -> &[Value] {
    pod.pointer("/status/containerStatuses").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn condition<'a>(pod: &'a Value, kind: &str) -> &'a str {
    let all = pod.pointer("/status/conditions").and_then(Value::as_array);
    all.into_iter().flatten().find(|c| text(c, "/type") == kind).map_or("", |c| text(c, "/status"))
}

/// `Running`, `CrashLoopBackOff`, `Init:1/3`, `Completed`, `Terminating`, …
fn status(pod: &Value) -> String {
    let reason = match init_reason(pod) {
        Some(reason) => reason,
        None => main_reason(pod),
    };
    if object::deletion_timestamp(pod).is_none() {
        return reason;
    }
    match text(pod, "/status/reason") {
        "NodeLost" => "Unknown".into(),
        _ if matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") => reason,
        _ => "Terminating".into(),
    }
}

/// What the first unfinished init container says; none if all are done.
fn init_reason(pod: &Value) -> Option<String> {
    let sidecars = sidecars(pod);
    let total = pod.pointer("/spec/initContainers").and_then(Value::as_array).map_or(0, Vec::len);
    for (i, status) in init_statuses(pod).enumerate() {
        let terminated = status.pointer("/state/terminated");
        if terminated.is_some_and(|t| int(t, "/exitCode") == 0) {
            continue;
        }
        let started = status.get("started") == Some(&Value::Bool(true));
        if started && sidecars.contains(&text(status, "/name")) {
            continue;
        }
        let waiting = text(status, "/state/waiting/reason");
        return Some(match terminated {
            Some(terminated) => format!("Init:{}", exit_reason(terminated)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
            None => format!("Init:{i}/{total}"),
        });
    }
    None
}

fn main_reason(pod: &Value) -> String {
    let mut reason = match text(pod, "/status/reason") {
        "" => text(pod, "/status/phase").to_owned(),
        reason => reason.to_owned(),
    };
    if reason == "Pending" && scheduling_gated(pod) {
        reason = "SchedulingGated".into();
    }
    let mut running = false;
    for status in statuses(pod).iter().rev() {
        let waiting = text(status, "/state/waiting/reason");
        if !waiting.is_empty() {
            reason = waiting.to_owned();
        } else if let Some(terminated) = status.pointer("/state/terminated") {
            reason = exit_reason(terminated);
        } else if status.get("ready") == Some(&Value::Bool(true))
            && status.pointer("/state/running").is_some()
        {
            running = true;
        }
    }
    // One container is done, others still run.
    if reason == "Completed" && running {
        reason = if condition(pod, "Ready") == "True" { "Running".into() } else { "NotReady".into() };
    }
    reason
}

fn scheduling_gated(pod: &Value) -> bool {
    let all = pod.pointer("/status/conditions").and_then(Value::as_array);
    all.into_iter()
        .flatten()
        .any(|c| text(c, "/type") == "PodScheduled" && text(c, "/reason") == "SchedulingGated")
}

fn exit_reason(terminated: &Value) -> String {
    match (text(terminated, "/reason"), int(terminated, "/signal")) {
        ("", 0) => format!("ExitCode:{}", int(terminated, "/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// `0`, or `3 (5m ago)`.
fn restarts(pod: &Value, now: Timestamp) -> String {
    let sidecars = sidecars(pod);
    let initialising = init_reason(pod).is_some();
    let init = init_statuses(pod).filter(|s| initialising || sidecars.contains(&text(s, "/name")));
    let main = statuses(pod).iter().filter(|_| !initialising);
    let (mut count, mut last) = (0, None);
    for status in init.chain(main) {
        count += int(status, "/restartCount");
        let finished = status.pointer("/lastState/terminated/finishedAt").and_then(scalar::time_of);
        last = last.max(finished);
    }
    match last {
        Some(last) if count > 0 => format!("{count} ({} ago)", super::since(Some(last), now)),
        _ => count.to_string(),
    }
}
