//! Pods: they begin Pending, have a quality of service, are bound once, and end with grace.

use jiff::Timestamp;
use kubelite_api::object;
use kubelite_api::quantity::Quantity;
use kubelite_api::status::ApiError;
use serde_json::{Value, json};

use super::{Allocator, Part, Strategy, keep_other_part};

/// The grace that a pod has if it names none.
const DEFAULT_GRACE: i64 = 30;

/// The strategy of pods.
pub struct Pod;

impl Strategy for Pod {
    fn prepare_create(&self, _: &Allocator, object: &mut Value) -> Result<(), ApiError> {
        object::set_generation(object, 1);
        object["status"] = json!({"phase": "Pending", "qosClass": quality_of_service(object)});
        Ok(())
    }

    fn prepare_update(
        &self,
        _: &Allocator,
        part: Part,
        object: &mut Value,
        old: &Value,
    ) -> Result<(), ApiError> {
        let quality = old.pointer("/status/qosClass").cloned();
        keep_other_part(part, object, old);
        if let (Part::Status, Some(quality)) = (part, quality) {
            object["status"]["qosClass"] = quality;
        }
        Ok(())
    }

    fn grace(&self, object: &Value, requested: Option<i64>) -> i64 {
        let bound = object.pointer("/spec/nodeName").and_then(Value::as_str).is_some_and(|n| !n.is_empty());
        let phase = object.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
        if !bound || matches!(phase, "Succeeded" | "Failed") {
            return 0;
        }
        let own = object.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
        requested.or(own).unwrap_or(DEFAULT_GRACE).max(0)
    }
}

/// Binds a pod to the node that a Binding names; 409 if it is bound already.
pub fn bind(pod: &mut Value, binding: &Value, now: Timestamp) -> Result<(), ApiError> {
    let name = object::name(pod).to_owned();
    let node = binding.pointer("/target/name").and_then(Value::as_str).unwrap_or_default();
    if node.is_empty() {
        return Err(ApiError::bad_request("the Binding names no node in target.name"));
    }
    if object::deletion_timestamp(pod).is_some() {
        let why = format!("pod {name} is being deleted, cannot be assigned to a host");
        return Err(ApiError::conflict("pods/binding", &name, &why));
    }
    if let Some(there) = pod.pointer("/spec/nodeName").and_then(Value::as_str).filter(|n| !n.is_empty()) {
        let why = format!("pod {name} is already assigned to node \"{there}\"");
        return Err(ApiError::conflict("pods/binding", &name, &why));
    }
    pod["spec"]["nodeName"] = json!(node);
    let scheduled = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null,
        "lastTransitionTime": kubelite_api::scalar::format_time(now),
    });
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let others = conditions.into_iter().filter(|c| c["type"] != "PodScheduled");
    pod["status"]["conditions"] = others.chain([scheduled]).collect();
    Ok(())
}

/// Guaranteed, Burstable or BestEffort, by the requests and limits of all containers (KEP-2837 is not looked at).
fn quality_of_service(pod: &Value) -> &'static str {
    let containers = ["containers", "initContainers"].into_iter();
    let containers: Vec<&Value> =
        containers.filter_map(|list| pod["spec"][list].as_array()).flatten().collect();
    let amount = |container: &Value, kind: &str, resource: &str| {
        let text = container["resources"][kind][resource].as_str().unwrap_or("0");
        text.parse::<Quantity>().ok().filter(|q| !q.is_zero())
    };
    let mut any = false;
    let mut guaranteed = !containers.is_empty();
    for container in containers {
        for resource in ["cpu", "memory"] {
            let (request, limit) =
                (amount(container, "requests", resource), amount(container, "limits", resource));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (_, true) => "Guaranteed",
        (true, false) => "Burstable",
        (false, false) => "BestEffort",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: &Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    #[test]
    fn quality_follows_requests_and_limits() {
        let full = json!({"cpu": "1", "memory": "1Gi"});
        for (resources, expected) in [
            (json!({}), "BestEffort"),
            (json!({"requests": {"cpu": "1"}}), "Burstable"),
            (json!({"limits": full}), "Guaranteed"),
            (json!({"limits": full, "requests": {"cpu": "1000m", "memory": "1Gi"}}), "Guaranteed"),
            (json!({"limits": full, "requests": {"cpu": "500m", "memory": "1Gi"}}), "Burstable"),
        ] {
            assert_eq!(quality_of_service(&pod(&resources)), expected, "{resources}");
        }
    }

    #[test]
    fn a_pod_is_bound_once() {
        let mut pod = pod(&json!({}));
        let binding = json!({"target": {"kind": "Node", "name": "node1"}});
        bind(&mut pod, &binding, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(pod["spec"]["nodeName"], "node1");
        assert_eq!(bind(&mut pod, &binding, Timestamp::UNIX_EPOCH).unwrap_err().code, 409);
    }
}
