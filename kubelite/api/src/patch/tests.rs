use serde_json::json;

use super::*;
use crate::schema;

#[allow(clippy::needless_pass_by_value)] // Callers write literals.
fn pod(target: Value, patch: Value) -> Value {
    strategic(schema::for_kind("", "v1", "Pod").unwrap(), &target, &patch).unwrap()
}

#[test]
fn json_patches() {
    let target = json!({"a": [1, 2], "b": "x"});
    let patched = json(
        &target,
        &json!([{"op": "replace", "path": "/b", "value": 1}, {"op": "add", "path": "/a/-", "value": 3}]),
    );
    assert_eq!(patched.unwrap(), json!({"a": [1, 2, 3], "b": 1}));
    assert_eq!(json(&target, &json!([{"op": "test", "path": "/b", "value": "y"}])).unwrap_err().code, 422);
    assert_eq!(json(&target, &json!([{"op": "remove", "path": "/zz"}])).unwrap_err().code, 422);
    assert_eq!(json(&target, &json!({"op": "test"})).unwrap_err().code, 400);
    let bomb: Vec<Value> =
        (0..60).map(|i| json!({"op": "copy", "from": "", "path": format!("/c{i}")})).collect();
    assert_eq!(json(&target, &Value::Array(bomb)).unwrap_err().code, 422);
    let many = Value::Array(vec![json!({}); MAX_OPERATIONS + 1]);
    assert_eq!(json(&target, &many).unwrap_err().code, 413);
}

#[test]
fn merge_patches() {
    let target = json!({"a": {"b": 1, "c": 2}, "l": [1]});
    assert_eq!(
        merge(&target, &json!({"a": {"b": null, "d": 3}, "l": [2]})).unwrap(),
        json!({"a": {"c": 2, "d": 3}, "l": [2]})
    );
    assert!(merge(&target, &json!(1)).is_err());
}

#[test]
fn lists_merge_by_key() {
    let target = json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}], "tolerations": [{"key": "x"}]}});
    let patch = json!({"spec": {"containers": [{"name": "b", "image": "2"}, {"name": "c"}], "tolerations": [{"key": "y"}]}});
    assert_eq!(
        pod(target.clone(), patch),
        json!({"spec": {
        "containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c"}], "tolerations": [{"key": "y"}]}})
    );
    let deleted = pod(target.clone(), json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}));
    assert_eq!(deleted["spec"]["containers"], json!([{"name": "b", "image": "1"}]));
    let replaced =
        pod(target.clone(), json!({"spec": {"containers": [{"name": "z"}, {"$patch": "replace"}]}}));
    assert_eq!(replaced["spec"]["containers"], json!([{"name": "z"}]));
    let keyless = json!({"spec": {"containers": [{"image": "x"}]}});
    let error = strategic(schema::for_kind("", "v1", "Pod").unwrap(), &target, &keyless).unwrap_err();
    assert!(error.message.contains("does not contain declared merge key: name"));
}

#[test]
fn order_is_the_clients() {
    let target = json!({"spec": {"containers": [{"name": "a"}, {"name": "s"}, {"name": "b"}]}});
    let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "n"}, {"name": "a"}], "containers": [{"name": "n"}]}});
    let names: Vec<Value> = pod(target, patch)["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].clone())
        .collect();
    assert_eq!(names, ["s", "b", "n", "a"]);
}

#[test]
fn primitives_and_retained_keys() {
    let target =
        json!({"metadata": {"finalizers": ["a", "b"]}, "spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
    let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["b", "c"]},
        "spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}});
    assert_eq!(
        pod(target, patch),
        json!({"metadata": {"finalizers": ["b", "c"]},
        "spec": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}})
    );
    let replaced = pod(
        json!({"metadata": {"labels": {"a": "b"}}}),
        json!({"metadata": {"labels": {"$patch": "replace", "c": "d"}}}),
    );
    assert_eq!(replaced["metadata"]["labels"], json!({"c": "d"}));
    let nulled = pod(
        json!({"metadata": {"labels": {"a": "b", "c": "d"}}}),
        json!({"metadata": {"labels": {"a": null}}}),
    );
    assert_eq!(nulled["metadata"]["labels"], json!({"c": "d"}));
}
