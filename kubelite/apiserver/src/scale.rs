//! `autoscaling/v1 Scale`: how many replicas a workload has and should have, whatever its kind.

use kubelite_api::custom::ScalePaths;
use kubelite_api::labels::LabelSelector;
use kubelite_api::object;
use kubelite_api::status::{ApiError, FieldError};
use serde_json::{Value, json};

use crate::resources::Resource;

/// The Scale of a workload; a custom kind's definition says where it has its replicas.
pub fn of(resource: &Resource, workload: &Value) -> Value {
    let paths = paths(resource);
    let (spec, status) = match &paths {
        Some(paths) => (paths.wanted.find(workload), paths.actual.find(workload)),
        None => (workload.pointer("/spec/replicas"), workload.pointer("/status/replicas")),
    };
    let selector = match &paths {
        Some(paths) => {
            paths.selector.as_ref().and_then(|at| at.find(workload)?.as_str()).unwrap_or_default().to_owned()
        }
        None => selector(workload.pointer("/spec/selector").unwrap_or(&Value::Null)),
    };
    // A custom kind has no default.
    let usual = i64::from(paths.is_none());

    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": object::name(workload), "namespace": object::namespace(workload), "uid": object::uid(workload),
            "resourceVersion": object::resource_version(workload), "creationTimestamp": workload["metadata"]["creationTimestamp"],
        },
        "spec": {"replicas": spec.cloned().unwrap_or(json!(usual))},
        "status": {"replicas": status.cloned().unwrap_or(json!(0)), "selector": selector},
    })
}

fn paths(resource: &Resource) -> Option<ScalePaths> {
    resource.custom?.version().scale.clone()
}

/// The workload with the replicas that a Scale asks for; its resourceVersion, if it has one, is a condition.
pub fn apply(resource: &Resource, workload: &Value, scale: &Value) -> Result<Value, ApiError> {
    let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
    if replicas < 0 {
        let message = format!("Invalid value: {replicas}: must be greater than or equal to 0");
        let error = FieldError { reason: "FieldValueInvalid", field: "spec.replicas".to_owned(), message };
        return Err(ApiError::invalid("Scale.autoscaling", object::name(workload), &[error]));
    }
    let mut changed = workload.clone();
    match paths(resource) {
        Some(paths) => paths.wanted.put(&mut changed, json!(replicas)),
        None => changed["spec"]["replicas"] = json!(replicas),
    }
    object::set_resource_version(&mut changed, object::resource_version(scale));
    Ok(changed)
}

/// A label selector as text; replication controllers have a bare map.
fn selector(selector: &Value) -> String {
    let parsed = if selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some() {
        LabelSelector::from_value(selector).ok()
    } else {
        selector.as_object().map(|map| {
            LabelSelector::from_labels(map.iter().map(|(k, v)| (k.as_str(), v.as_str().unwrap_or_default())))
        })
    };
    parsed.map(|s| s.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_says_and_changes_replicas() {
        let deployment = json!({"metadata": {"name": "d", "resourceVersion": "7"}, "status": {"replicas": 2},
                                "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "d"}}}});
        let row = crate::resources::by_plural("deployments").unwrap();
        let mut scale = of(row, &deployment);
        assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(3), &json!("app=d")));
        scale["spec"]["replicas"] = json!(5);
        assert_eq!(apply(row, &deployment, &scale).unwrap()["spec"]["replicas"], 5);
        scale["spec"]["replicas"] = json!(-1);
        assert_eq!(apply(row, &deployment, &scale).unwrap_err().code, 422);
    }
}
