use serde_json::{Value, json};

use super::*;
use crate::schema;

const NOW: &str = "2026-01-02T03:04:05Z";

fn by(name: &str) -> Manager<'_> {
    Manager { name, api_version: "apps/v1", subresource: "", now: NOW }
}

fn kind() -> &'static Schema {
    schema::for_kind("apps", "v1", "Deployment").unwrap()
}

#[allow(clippy::needless_pass_by_value)] // Callers write literals.
fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})
}

fn applied(live: &Value, by_whom: &str, spec: Value) -> Value {
    apply(kind(), live, &deployment(spec), &by(by_whom), false).unwrap()
}

/// What a manager owns, as `FieldsV1`; null if it has no entry.
fn owned(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries.iter().find(|e| e["manager"] == manager).map_or(Value::Null, |e| e["fieldsV1"].clone())
}

fn updated(old: &Value, by_whom: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut new = old.clone();
    change(&mut new);
    update(kind(), old, &mut new, &by(by_whom), true);
    new
}

fn container(name: &str, image: &str) -> Value {
    json!({"name": name, "image": image})
}

#[test]
fn who_applies_owns_what_he_says() {
    let spec = json!({"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container("a", "x:1")]}}});
    let object = applied(&Value::Null, "me", spec.clone());
    assert_eq!(object["spec"], spec);
    let entry = &object["metadata"]["managedFields"][0];
    assert_eq!(
        (&entry["operation"], &entry["apiVersion"], &entry["time"], &entry["fieldsType"]),
        (&json!("Apply"), &json!("apps/v1"), &json!(NOW), &json!("FieldsV1"))
    );
    let template = json!({"f:metadata": {"f:labels": {"f:app": {}}},
        "f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}, "f:name": {}}}}});
    assert_eq!(
        entry["fieldsV1"],
        json!({"f:spec": {"f:replicas": {}, "f:selector": {}, "f:template": template}})
    );
}

#[test]
fn who_updates_owns_what_he_changed() {
    let spec = json!({"replicas": 1, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
        "template": {"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP"}], "resources": {}}]}}});
    let made = updated(&Value::Null, "creator", |new| *new = deployment(spec));
    let port = json!({"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}}, ".": {}});
    let containers =
        json!({"k:{\"name\":\"a\"}": {".": {}, "f:name": {}, "f:ports": port, "f:resources": {}}});
    assert_eq!(
        owned(&made, "creator"),
        json!({"f:spec": {"f:replicas": {}, "f:strategy": {"f:type": {}, "f:rollingUpdate": {".": {}, "f:maxSurge": {}}},
            "f:template": {"f:spec": {"f:containers": containers}}}})
    );
    let scaled = updated(&made, "scaler", |new| new["spec"]["replicas"] = json!(3));
    assert_eq!(owned(&scaled, "scaler"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(owned(&scaled, "creator")["f:spec"]["f:replicas"], Value::Null);
    let same = updated(&scaled, "nobody", |_| {});
    assert_eq!(same, scaled, "no change, no owner, no new time");
    let without =
        updated(&scaled, "scaler", |new| drop(new["spec"].as_object_mut().unwrap().remove("strategy")));
    assert_eq!(owned(&without, "creator")["f:spec"]["f:strategy"], Value::Null);
}

#[test]
fn what_others_own_is_a_conflict_unless_forced() {
    let object = applied(&Value::Null, "one", json!({"replicas": 1, "minReadySeconds": 5}));
    let object = updated(&object, "scaler", |new| new["spec"]["replicas"] = json!(3));
    let wanted = deployment(json!({"replicas": 1, "minReadySeconds": 5}));
    let error = apply(kind(), &object, &wanted, &by("one"), false).unwrap_err();
    let said = r#"conflict with "scaler" using apps/v1"#;
    assert_eq!((error.code, error.reason), (409, "Conflict"));
    assert_eq!(error.message, format!("Apply failed with 1 conflict: {said}: .spec.replicas"));
    assert_eq!(
        error.details["causes"],
        json!([{"reason": "FieldManagerConflict", "message": said, "field": ".spec.replicas"}])
    );
    let forced = apply(kind(), &object, &wanted, &by("one"), true).unwrap();
    assert_eq!((&forced["spec"]["replicas"], owned(&forced, "scaler")), (&json!(1), Value::Null));
    let two = deployment(json!({"replicas": 7, "minReadySeconds": 7}));
    let error = apply(kind(), &forced, &two, &by("two"), false).unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 2 conflicts: conflicts with \"one\":\n- .spec.minReadySeconds\n- .spec.replicas"
    );
}

#[test]
fn the_same_value_is_shared_and_stays_as_long_as_one_owns_it() {
    let object = applied(&Value::Null, "one", json!({"replicas": 2, "minReadySeconds": 5}));
    let object = applied(&object, "two", json!({"replicas": 2}));
    let less = applied(&object, "one", json!({"minReadySeconds": 5}));
    assert_eq!(less["spec"], json!({"replicas": 2, "minReadySeconds": 5}));
    let gone = applied(&less, "two", json!({}));
    assert_eq!(gone["spec"], json!({"minReadySeconds": 5}), "nobody owned it any more");
}

#[test]
fn items_go_with_their_applier_and_keep_what_others_own() {
    let two =
        |a: &str| json!({"template": {"spec": {"containers": [container("a", a), container("b", "y")]}}});
    let object = applied(&Value::Null, "one", two("x"));
    let object = updated(&object, "other", |new| {
        new["spec"]["template"]["spec"]["containers"][1]["tty"] = json!(true);
        new["spec"]["template"]["spec"]["containers"]
            .as_array_mut()
            .unwrap()
            .insert(0, container("side", "z"));
    });
    let only = json!({"template": {"spec": {"containers": [container("b", "y2")]}}});
    let object = applied(&object, "one", only);
    assert_eq!(
        object["spec"]["template"]["spec"]["containers"],
        json!([container("side", "z"), {"name": "b", "image": "y2", "tty": true}])
    );
    let none = applied(&object, "one", json!({"replicas": 1}));
    assert_eq!(
        none["spec"]["template"]["spec"]["containers"],
        json!([container("side", "z"), {"tty": true}]),
        "the item stays for what the other one owns; that it has no name is for validation to refuse"
    );
}

#[test]
fn lists_take_the_appliers_order() {
    let list = |names: &[&str]| json!({"template": {"spec": {"containers": names.iter().map(|n| container(n, "x")).collect::<Value>()}}});
    let object = applied(&Value::Null, "one", list(&["a", "b"]));
    let object = updated(&object, "other", |new| {
        new["spec"]["template"]["spec"]["containers"].as_array_mut().unwrap().insert(1, container("m", "x"));
    });
    let object = applied(&object, "one", list(&["b", "n", "a"]));
    let names: Vec<_> = object["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].clone())
        .collect();
    assert_eq!(names, ["m", "b", "n", "a"]);
}

#[test]
fn an_object_without_owners_belongs_to_whoever_was_before() {
    let old = deployment(json!({"replicas": 1}));
    let error = apply(kind(), &old, &deployment(json!({"replicas": 2})), &by("me"), false).unwrap_err();
    assert!(
        error.message.contains(r#"conflict with "before-first-apply" using apps/v1: .spec.replicas"#),
        "{error}"
    );
    let shared = applied(&old, "me", json!({"replicas": 1}));
    assert_eq!(owned(&shared, BEFORE), owned(&shared, "me"));
}

#[test]
fn items_that_cannot_be_told_apart_are_refused() {
    let refused = |containers: Value| {
        let spec = json!({"template": {"spec": {"containers": containers}}});
        apply(kind(), &Value::Null, &deployment(spec), &by("me"), false).unwrap_err().message
    };
    let twice = refused(json!([container("a", "x"), container("a", "y")]));
    assert!(
        twice.ends_with(".spec.template.spec.containers: duplicate entries for key [name=\"a\"]"),
        "{twice}"
    );
    let keyless = refused(json!([{"image": "x"}]));
    assert!(
        keyless
            .contains("element 0: associative list with keys has an element that omits key field \"name\""),
        "{keyless}"
    );
    let port = refused(
        json!([{"name": "a", "ports": [{"containerPort": 1}, {"containerPort": 1, "protocol": "TCP"}]}]),
    );
    assert!(port.ends_with("duplicate entries for key [containerPort=1,protocol=\"TCP\"]"), "{port}");
}

#[test]
fn a_client_may_write_the_owners_itself() {
    let object = applied(&Value::Null, "one", json!({"replicas": 2}));
    let renamed = updated(&object, "x", |new| new["metadata"]["managedFields"][0]["manager"] = json!("two"));
    assert_eq!(owned(&renamed, "two"), owned(&object, "one"));
    let cleared = updated(&object, "x", |new| new["metadata"]["managedFields"] = json!([{}]));
    assert_eq!(cleared["metadata"].get("managedFields"), None);
    for nonsense in [
        json!([{"operation": "Eat"}]),
        json!("x"),
        json!([]),
        json!([{"operation": "Apply", "fieldsV1": {"x": 1}}]),
    ] {
        let kept = updated(&object, "x", |new| new["metadata"]["managedFields"] = nonsense.clone());
        assert_eq!(owned(&kept, "one"), owned(&object, "one"), "{nonsense}");
    }
}

#[test]
fn many_updaters_become_one() {
    let mut object = deployment(json!({}));
    for n in 0..30 {
        let (old, name) = (object.clone(), format!("m{n}"));
        object["metadata"]["annotations"][format!("a{n}")] = json!("x");
        let now = format!("2026-01-02T03:04:{n:02}Z");
        update(kind(), &old, &mut object, &Manager { now: &now, ..by(&name) }, true);
    }
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), MOST_UPDATERS + 1);
    assert_eq!(owned(&object, ANCIENT)["f:metadata"]["f:annotations"]["f:a3"], json!({}));
}
