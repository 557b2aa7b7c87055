//! The verbs over an in-process server with a store in memory, as raw requests: what a client sees, byte for byte.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests too.

#[path = "common/api.rs"]
mod api;

use api::{Api, MAPS, PODS, map, pod};
use http::{Method, StatusCode};
use serde_json::{Value, json};

fn told(events: &[Value]) -> Vec<(&str, &str)> {
    let text = |v: &'_ Value| -> &'static str {
        Box::leak(v.as_str().unwrap_or_default().to_owned().into_boxed_str())
    };
    events.iter().map(|e| (text(&e["type"]), text(&e["object"]["metadata"]["name"]))).collect()
}

#[tokio::test]
async fn an_object_lives() {
    let api = Api::start().await;
    let (code, made) = api.post(MAPS, map("m")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["metadata"]["namespace"], "default");
    assert_eq!(api.post(MAPS, map("m")).await.1["message"], r#"configmaps "m" already exists"#);

    let mut changed = made.clone();
    changed["data"]["a"] = json!("2");
    let (code, updated) = api.put(&format!("{MAPS}/m"), changed.clone()).await;
    assert_eq!((code, &updated["data"]["a"]), (StatusCode::OK, &json!("2")));
    let (code, stale) = api.put(&format!("{MAPS}/m"), changed).await;
    assert_eq!((code, &stale["reason"]), (StatusCode::CONFLICT, &json!("Conflict")), "{stale}");

    let same = api.put(&format!("{MAPS}/m"), updated.clone()).await.1;
    assert_eq!(
        same["metadata"]["resourceVersion"], updated["metadata"]["resourceVersion"],
        "nothing changed"
    );
    let wrong = json!({"preconditions": {"uid": "other"}});
    assert_eq!(api.delete(&format!("{MAPS}/m"), wrong).await.0, 409);
    assert_eq!(api.delete(&format!("{MAPS}/m"), Value::Null).await.1["status"], "Success");
    assert_eq!(api.get(&format!("{MAPS}/m")).await.1["message"], r#"configmaps "m" not found"#);
}

#[tokio::test]
async fn dry_run_and_generated_names() {
    let api = Api::start().await;
    assert_eq!(api.post(&format!("{MAPS}?dryRun=All"), map("dry")).await.0, 201);
    assert_eq!(api.get(&format!("{MAPS}/dry")).await.0, 404);
    let (_, made) = api.post(MAPS, json!({"metadata": {"generateName": "some-"}})).await;
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("some-") && name.len() == 10, "{name}");
}

#[tokio::test]
async fn fields_are_validated_as_strictly_as_wanted() {
    let api = Api::start().await;
    let mut typo = pod("p");
    typo["spec"]["containers"][0]["imagee"] = json!("y");
    let (code, refused) = api.post(&format!("{PODS}?fieldValidation=Strict"), typo.clone()).await;
    assert_eq!(code, 400);
    let text = refused["message"].as_str().unwrap();
    assert!(text.contains(r#"strict decoding error: unknown field "spec.containers[0].imagee""#), "{text}");
    let response = api.send(Method::POST, PODS, "application/json", typo.to_string()).await;
    let warning = response.headers()["warning"].to_str().unwrap().to_owned();
    assert_eq!(warning, r#"299 - "unknown field \"spec.containers[0].imagee\"""#);
    let (code, invalid) =
        api.post(PODS, json!({"metadata": {"name": "Q"}, "spec": {"containers": [{"name": "c"}]}})).await;
    assert_eq!(code, 422);
    let fields: Vec<_> =
        invalid["details"]["causes"].as_array().unwrap().iter().map(|c| c["field"].clone()).collect();
    assert_eq!(fields, ["metadata.name", "spec.containers[0].image"], "{invalid}");
}

#[tokio::test]
async fn patches_of_three_kinds() {
    let api = Api::start().await;
    let deployment = json!({"metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "one", "image": "x"}]}}}});
    let path = "/apis/apps/v1/namespaces/default/deployments";
    assert_eq!(api.post(path, deployment).await.0, 201);
    let path = format!("{path}/d");
    let strategic = json!({"spec": {"template": {"spec": {"containers": [{"name": "two", "image": "y"}]}}}});
    let (_, patched) =
        api.ask(Method::PATCH, &path, "application/strategic-merge-patch+json", strategic).await;
    let names: Vec<_> = patched["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["name"])
        .collect();
    assert_eq!(names, ["one", "two"], "merged by name");
    assert_eq!(patched["metadata"]["generation"], 2);
    let (_, patched) = api
        .ask(
            Method::PATCH,
            &path,
            "application/merge-patch+json",
            json!({"metadata": {"labels": {"x": "y"}}}),
        )
        .await;
    assert_eq!(
        (&patched["metadata"]["labels"]["x"], &patched["metadata"]["generation"]),
        (&json!("y"), &json!(2))
    );
    let json_patch = json!([{"op": "replace", "path": "/spec/replicas", "value": 4}]);
    let (_, patched) = api.ask(Method::PATCH, &path, "application/json-patch+json", json_patch).await;
    assert_eq!(patched["spec"]["replicas"], 4);
    let (_, scale) = api.get(&format!("{path}/scale")).await;
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(4), &json!("a=b")));
    let (code, _) = api
        .ask(
            Method::PATCH,
            &format!("{path}/scale"),
            "application/merge-patch+json",
            json!({"spec": {"replicas": 2}}),
        )
        .await;
    assert_eq!((code, &api.get(&path).await.1["spec"]["replicas"]), (StatusCode::OK, &json!(2)));
    let status = json!({"status": {"replicas": 2}, "spec": {"replicas": 9}});
    let (_, patched) =
        api.ask(Method::PATCH, &format!("{path}/status"), "application/merge-patch+json", status).await;
    assert_eq!(
        (&patched["status"]["replicas"], &patched["spec"]["replicas"]),
        (&json!(2), &json!(2)),
        "the spec stays"
    );
}

#[tokio::test]
async fn a_watch_sees_objects_enter_and_leave_its_selection() {
    let api = Api::start().await;
    let start = api.get(MAPS).await.1["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    for (name, label) in [("in", "yes"), ("out", "no")] {
        let mut object = map(name);
        object["metadata"]["labels"] = json!({"seen": label});
        api.post(MAPS, object).await;
    }
    let label = |value: &str| json!({"metadata": {"labels": {"seen": value}}});
    let merge = "application/merge-patch+json";
    api.ask(Method::PATCH, &format!("{MAPS}/out"), merge, label("yes")).await;
    api.ask(Method::PATCH, &format!("{MAPS}/in"), merge, label("no")).await;
    api.delete(&format!("{MAPS}/out"), Value::Null).await;
    let path = format!("{MAPS}?watch=true&labelSelector=seen%3Dyes&resourceVersion={start}");
    let events = api.watch(&path, 4).await;
    assert_eq!(told(&events), [("ADDED", "in"), ("ADDED", "out"), ("DELETED", "in"), ("DELETED", "out")]);
    let revisions: Vec<u64> = events
        .iter()
        .map(|e| e["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap())
        .collect();
    assert!(revisions.is_sorted(), "{revisions:?}");
}

#[tokio::test]
async fn a_watch_list_begins_with_what_is_there_and_a_bookmark() {
    let api = Api::start().await;
    api.post(MAPS, map("there")).await;
    let path = format!(
        "{MAPS}?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    );
    let events = api.watch(&path, 2).await;
    assert_eq!(told(&events)[0], ("ADDED", "there"));
    assert_eq!(events[1]["type"], "BOOKMARK");
    assert_eq!(events[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn lists_come_in_pages_at_one_revision() {
    let api = Api::start().await;
    for i in 0..5 {
        api.post(MAPS, map(&format!("m{i}"))).await;
    }
    let (_, first) = api.get(&format!("{MAPS}?limit=2")).await;
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    api.post(MAPS, map("m3-later")).await;
    api.delete(&format!("{MAPS}/m4"), Value::Null).await;
    let (_, second) = api.get(&format!("{MAPS}?limit=9&continue={token}")).await;
    let names: Vec<_> = second["items"].as_array().unwrap().iter().map(|i| &i["metadata"]["name"]).collect();
    assert_eq!(names, ["m2", "m3", "m4"], "as of the first page");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(api.get(&format!("{MAPS}?limit=2&continue=bm9uc2Vuc2U")).await.0, 400);
}

#[tokio::test]
async fn pods_are_bound_and_end_with_grace() {
    let api = Api::start().await;
    let (_, made) = api.post(PODS, pod("p")).await;
    assert_eq!(
        (&made["status"]["phase"], &made["status"]["qosClass"]),
        (&json!("Pending"), &json!("BestEffort")),
        "{made}"
    );
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(api.post(&format!("{PODS}/p/binding"), binding.clone()).await.0, 201);
    assert_eq!(api.post(&format!("{PODS}/p/binding"), binding).await.0, 409);
    let (_, selected) = api.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await;
    assert_eq!(selected["items"].as_array().unwrap().len(), 1);
    let (_, begun) = api.delete(&format!("{PODS}/p"), json!({"gracePeriodSeconds": 7})).await;
    assert_eq!(begun["metadata"]["deletionGracePeriodSeconds"], 7, "{begun}");
    assert_eq!(api.get(&format!("{PODS}/p")).await.0, 200);
    assert_eq!(api.delete(&format!("{PODS}/p"), json!({"gracePeriodSeconds": 0})).await.0, 200);
    assert_eq!(api.get(&format!("{PODS}/p")).await.0, 404);
    api.post(PODS, pod("unbound")).await;
    api.delete(&format!("{PODS}/unbound"), Value::Null).await;
    assert_eq!(api.get(&format!("{PODS}/unbound")).await.0, 404, "nobody has to end a pod that never ran");
}

#[tokio::test]
async fn finalizers_hold_an_object() {
    let api = Api::start().await;
    let mut object = map("held");
    object["metadata"]["finalizers"] = json!(["example.org/wait"]);
    api.post(MAPS, object).await;
    let (_, begun) = api.delete(&format!("{MAPS}/held"), Value::Null).await;
    assert!(begun["metadata"]["deletionTimestamp"].is_string(), "{begun}");
    let free = json!({"metadata": {"finalizers": null}});
    api.ask(Method::PATCH, &format!("{MAPS}/held"), "application/merge-patch+json", free).await;
    assert_eq!(api.get(&format!("{MAPS}/held")).await.0, 404);
}

#[tokio::test]
async fn services_get_addresses_of_their_own() {
    let api = Api::start().await;
    let path = "/api/v1/namespaces/default/services";
    let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    let (_, a) = api.post(path, service("a")).await;
    let (_, b) = api.post(path, service("b")).await;
    assert_ne!(a["spec"]["clusterIP"], b["spec"]["clusterIP"]);
    assert_ne!(a["spec"]["ports"][0]["nodePort"], b["spec"]["ports"][0]["nodePort"]);
    let mut taken = service("c");
    taken["spec"]["clusterIP"] = a["spec"]["clusterIP"].clone();
    let (code, refused) = api.post(path, taken).await;
    assert_eq!(
        (code, refused["message"].as_str().unwrap().contains("already allocated")),
        (StatusCode::UNPROCESSABLE_ENTITY, true)
    );
}

#[tokio::test]
async fn kubectl_gets_tables_and_discovery() {
    let api = Api::start().await;
    api.post(PODS, pod("p")).await;
    let (_, table) =
        api.ask(Method::GET, PODS, "accept:application/json;as=Table;v=v1;g=meta.k8s.io", Value::Null).await;
    assert_eq!((&table["kind"], &table["columnDefinitions"][0]["name"]), (&json!("Table"), &json!("Name")));
    assert_eq!(table["rows"][0]["cells"][2], "Pending", "{table}");
    let (_, apis) = api.get("/apis").await;
    assert!(apis["groups"].as_array().unwrap().iter().any(|g| g["name"] == "apps"));
    let (_, apps) = api.get("/apis/apps/v1").await;
    assert!(apps["resources"].as_array().unwrap().iter().any(|r| r["name"] == "deployments/scale"));
    assert_eq!(api.get("/apis/no/v1").await.0, 404);
    let (_, document) = api.get("/openapi/v3/api/v1").await;
    assert!(document["components"]["schemas"]["io.k8s.api.core.v1.Pod"].is_object());
}

#[tokio::test]
async fn events_are_one_storage_under_two_names() {
    let api = Api::start().await;
    let event = json!({"metadata": {"name": "e"}, "message": "hello", "reason": "Test", "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}});
    let (code, made) = api.post("/api/v1/namespaces/default/events", event).await;
    assert_eq!(code, 201, "{made}");
    let (_, other) = api.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await;
    assert_eq!((&other["note"], &other["regarding"]["name"]), (&json!("hello"), &json!("p")), "{other}");
}
