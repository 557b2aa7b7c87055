//! The rows of the kinds that have a pod template.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age;
use super::cells::{int, join, pairs, text};
use crate::labels::LabelSelector;
use crate::object;

/// Containers, images and selector, which all of them show with `-o wide`.
pub(super) fn wide(object: &Value) -> [Value; 3] {
    let containers = object.pointer("/spec/template/spec/containers").and_then(Value::as_array);
    let each = |field| join(containers.into_iter().flatten().map(|c| text(c, field)));
    [json!(each("/name")), json!(each("/image")), json!(selector(object))]
}

/// A label selector, or the plain map of a ReplicationController.
fn selector(object: &Value) -> String {
    let Some(selector) = object.pointer("/spec/selector") else { return "<none>".into() };
    if selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some() {
        return match LabelSelector::from_value(selector) {
            Ok(selector) => selector.to_string(),
            Err(_) => "<error>".into(),
        };
    }
    pairs(Some(selector))
}

/// ReplicaSet and ReplicationController.
pub(super) fn replica_set(o: &Value, now: Timestamp) -> Vec<Value> {
    let mut row = vec![
        json!(object::name(o)),
        json!(int(o, "/spec/replicas")),
        json!(int(o, "/status/replicas")),
        json!(int(o, "/status/readyReplicas")),
        json!(age(o, now)),
    ];
    row.extend(wide(o));
    row
}

/// Deployment.
pub(super) fn deployment(o: &Value, now: Timestamp) -> Vec<Value> {
    let mut row = vec![
        json!(object::name(o)),
        json!(format!("{}/{}", int(o, "/status/readyReplicas"), int(o, "/spec/replicas"))),
        json!(int(o, "/status/updatedReplicas")),
        json!(int(o, "/status/availableReplicas")),
        json!(age(o, now)),
    ];
    row.extend(wide(o));
    row
}

/// DaemonSet.
pub(super) fn daemon_set(o: &Value, now: Timestamp) -> Vec<Value> {
    let counts = [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    ];
    let mut row = vec![json!(object::name(o))];
    row.extend(counts.map(|count| json!(int(o, &format!("/status/{count}")))));
    row.push(json!(pairs(o.pointer("/spec/template/spec/nodeSelector"))));
    row.push(json!(age(o, now)));
    row.extend(wide(o));
    row
}

/// StatefulSet.
pub(super) fn stateful_set(o: &Value, now: Timestamp) -> Vec<Value> {
    let ready = format!("{}/{}", int(o, "/status/readyReplicas"), int(o, "/spec/replicas"));
    let [containers, images, _] = wide(o);
    vec![json!(object::name(o)), json!(ready), json!(age(o, now)), containers, images]
}

/// ControllerRevision.
pub(super) fn revision(o: &Value, now: Timestamp) -> Vec<Value> {
    let owner = object::controller(o).map_or_else(
        || "<none>".to_owned(),
        |owner| {
            let group = text(owner, "/apiVersion").split_once('/').map_or("", |(group, _)| group);
            let kind = text(owner, "/kind").to_lowercase();
            let dot = if group.is_empty() { "" } else { "." };
            format!("{kind}{dot}{group}/{}", text(owner, "/name"))
        },
    );
    vec![json!(object::name(o)), json!(owner), json!(int(o, "/revision")), json!(age(o, now))]
}
