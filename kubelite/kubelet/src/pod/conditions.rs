//! The conditions of a pod's status. Pure.

use super::observed::Observed;
use super::spec::{self, Kind};
use super::status::{init_done, seconds};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};

/// One condition before it is compared with the one that was there.
struct Verdict {
    type_: &'static str,
    /// None means True; otherwise reason and message of False.
    failed: Option<(&'static str, Option<String>)>,
    /// A reason that a True condition carries.
    reason: Option<&'static str>,
}

impl Verdict {
    fn new(type_: &'static str, failed: Option<(&'static str, Option<String>)>) -> Verdict {
        Verdict { type_, failed, reason: None }
    }
}

/// Brings the kubelet's own conditions up to date and leaves those of others alone.
pub(super) fn update(pod: &Pod, observed: &Observed, status: &mut PodStatus, now: Timestamp) {
    let containers = containers_ready(pod, status);
    let ready = containers.clone().or_else(|| gates(pod, status));
    let network = spec::host_network(pod) || !observed.ips.is_empty();
    let sandbox = observed.sandbox().is_some() && network;
    let verdicts = [
        Verdict::new("PodReadyToStartContainers", (!sandbox).then_some(("", None))),
        initialized(pod, status),
        Verdict::new("Ready", ready),
        Verdict::new("ContainersReady", containers),
        Verdict::new("PodScheduled", None),
    ];
    let generation = pod.metadata.generation;
    let conditions = status.conditions.get_or_insert_default();
    for verdict in &verdicts {
        put(conditions, verdict, generation, now);
    }
}

fn put(conditions: &mut Vec<PodCondition>, verdict: &Verdict, generation: Option<i64>, now: Timestamp) {
    let at = conditions.iter().position(|c| c.type_ == verdict.type_);
    let old = at.map(|at| conditions[at].clone());
    let (reason, message) = verdict.failed.clone().unwrap_or_default();
    let reason = Some(verdict.reason.unwrap_or(reason)).filter(|r| !r.is_empty());
    let state = if verdict.failed.is_none() { "True" } else { "False" };
    let since = old.as_ref().filter(|c| c.status == state).and_then(|c| c.last_transition_time.clone());
    let new = PodCondition {
        type_: verdict.type_.into(),
        status: state.into(),
        reason: reason.map(str::to_string),
        message,
        last_transition_time: Some(since.unwrap_or_else(|| seconds(now))),
        observed_generation: generation,
        ..old.unwrap_or_default()
    };
    match at {
        Some(at) => conditions[at] = new,
        None => conditions.push(new),
    }
}

fn list(names: &[&str]) -> String {
    names.join(" ")
}

fn initialized(pod: &Pod, status: &PodStatus) -> Verdict {
    if status.phase.as_deref() == Some("Succeeded") {
        return Verdict { type_: "Initialized", failed: None, reason: Some("PodCompleted") };
    }
    let main = status.container_statuses.iter().flatten();
    let started = main.into_iter().any(|c| c.container_id.is_some());
    let init = status.init_container_statuses.iter().flatten();
    let waiting: Vec<&str> = spec::init_containers(pod)
        .zip(init)
        .filter(|((kind, _), s)| !init_done(*kind, s))
        .map(|((_, c), _)| c.name.as_str())
        .collect();
    // Once a container of the pod's own was started, the pod stays initialized, whatever becomes of its sidecars.
    let failed = (!waiting.is_empty() && !started).then(|| {
        let text = format!("containers with incomplete status: [{}]", list(&waiting));
        ("ContainersNotInitialized", Some(text))
    });
    Verdict::new("Initialized", failed)
}

fn containers_ready(pod: &Pod, status: &PodStatus) -> Option<(&'static str, Option<String>)> {
    match status.phase.as_deref() {
        Some("Succeeded") => return Some(("PodCompleted", None)),
        Some("Failed") => return Some(("PodFailed", None)),
        _ => {}
    }
    let unready = |s: &&ContainerStatus| !s.ready;
    let init = spec::init_containers(pod).zip(status.init_container_statuses.iter().flatten());
    let sidecars = init.filter(|((kind, _), _)| *kind == Kind::Sidecar).map(|(_, s)| s);
    let main = status.container_statuses.iter().flatten();
    let names: Vec<&str> = sidecars.chain(main).filter(unready).map(|s| s.name.as_str()).collect();
    (!names.is_empty()).then(|| {
        let text = format!("containers with unready status: [{}]", list(&names));
        ("ContainersNotReady", Some(text))
    })
}

/// Readiness gates: conditions that others set.
fn gates(pod: &Pod, status: &PodStatus) -> Option<(&'static str, Option<String>)> {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let missing: Vec<String> = spec::of(pod)
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let name = &gate.condition_type;
            match conditions.iter().find(|c| c.type_ == *name) {
                None => {
                    Some(format!("corresponding condition of pod readiness gate \"{name}\" does not exist."))
                }
                Some(c) if c.status != "True" => Some(format!(
                    "the status of pod readiness gate \"{name}\" is not \"True\", but {}",
                    c.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    (!missing.is_empty()).then(|| ("ReadinessGatesNotReady", Some(missing.join(", "))))
}
