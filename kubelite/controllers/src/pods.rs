//! What a pod's state means to the controllers of pods, and how they make one from a template.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use std::cmp::Reverse;

/// A condition of the pod.
pub(crate) fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// The pod has ended, successfully or not, and will not run again.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// The pod counts as a replica.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// When a ready pod becomes available; none while it isn't ready.
pub(crate) fn available_at(pod: &Pod, min_ready_seconds: i32) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    if min_ready_seconds <= 0 {
        return Some(Timestamp::MIN);
    }
    let since = ready.last_transition_time.as_ref()?.0;
    since.checked_add(SignedDuration::from_secs(min_ready_seconds.into())).ok()
}

pub(crate) fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    available_at(pod, min_ready_seconds).is_some_and(|at| at <= now)
}

pub(crate) fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|container| container.restart_count).sum()
}

fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

fn deletion_cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    let cost = annotations.and_then(|a| a.get("controller.kubernetes.io/pod-deletion-cost"));
    cost.and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

/// Orders pods so that those that are missed least come first: not assigned, pending, unknown, not ready, low deletion
/// cost, many siblings on the node, ready for a short time, many restarts, young.
pub(crate) fn deletion_rank(pod: &Pod, siblings_on_node: usize) -> impl Ord + use<> {
    let phase = match phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let ready_since =
        condition(pod, "Ready").and_then(|ready| ready.last_transition_time.as_ref()).map(|time| time.0);
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let ready = is_ready(pod);
    (
        (node(pod).is_some(), phase, ready, deletion_cost(pod), Reverse(siblings_on_node)),
        (Reverse(if ready { ready_since } else { None }), Reverse(restarts(pod)), Reverse(created)),
    )
}

/// A pod made from a template, with a name that the API server completes.
pub(crate) fn from_template(template: &PodTemplateSpec, owner: OwnerReference, namespace: &str) -> Pod {
    let mut metadata = template.metadata.clone().unwrap_or_default();
    metadata.name = None;
    metadata.generate_name = Some(generate_name(&owner.name));
    metadata.namespace = Some(namespace.to_string());
    metadata.owner_references = Some(vec![owner]);
    Pod { metadata, spec: template.spec.clone(), status: None }
}

/// Names are cut so that the random suffix still fits into a DNS label.
fn generate_name(owner: &str) -> String {
    const LONGEST_PREFIX: usize = 57;
    let cut: String = owner.chars().take(LONGEST_PREFIX).collect();
    format!("{cut}-")
}
