//! Where the verbs could go wrong: retries, things given back, transitions between types, hostile input.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests too.

#[path = "common/api.rs"]
mod api;

use api::{Api, MAPS, PODS, map, pod};
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const MERGE: &str = "application/merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";

fn service(name: &str, spec: &Value) -> Value {
    let mut service = json!({"metadata": {"name": name}, "spec": spec});
    service["spec"]["ports"] =
        json!([{"port": 80, "nodePort": service["spec"]["ports"][0]["nodePort"].clone()}]);
    service
}

#[tokio::test]
async fn an_address_is_free_again_as_soon_as_its_service_is_gone() {
    let api = Api::start().await;
    let spec = json!({"type": "NodePort", "clusterIP": "10.43.7.7", "ports": [{"nodePort": 30777}]});
    for name in ["first", "second", "third"] {
        let (code, made) = api.post(SERVICES, service(name, &spec)).await;
        assert_eq!(code, StatusCode::CREATED, "{made}");
        assert_eq!(api.delete(&format!("{SERVICES}/{name}"), Value::Null).await.0, 200);
    }
}

#[tokio::test]
async fn a_refused_service_holds_no_address() {
    let api = Api::start().await;
    let spec = json!({"clusterIP": "10.43.7.8"});
    assert_eq!(api.post(&format!("{SERVICES}?dryRun=All"), service("a", &spec)).await.0, 201);
    assert_eq!(api.post(SERVICES, service("Bad_Name", &spec)).await.0, 422);
    let (code, made) = api.post(SERVICES, service("a", &spec)).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
}

#[tokio::test]
async fn services_made_at_once_share_nothing() {
    let api = Api::start().await;
    let make = |i: usize| {
        let api = &api;
        async move { api.post(SERVICES, service(&format!("s{i}"), &json!({"type": "NodePort"}))).await.1 }
    };
    let made = futures::future::join_all((0..40).map(make)).await;
    let addresses: std::collections::BTreeSet<_> =
        made.iter().map(|s| s["spec"]["clusterIP"].to_string()).collect();
    let ports: std::collections::BTreeSet<_> =
        made.iter().map(|s| s["spec"]["ports"][0]["nodePort"].to_string()).collect();
    assert_eq!((addresses.len(), ports.len()), (40, 40));
    let wanted = |i: usize| {
        let api = &api;
        async move { api.post(SERVICES, service(&format!("w{i}"), &json!({"clusterIP": "10.43.9.9"}))).await.0 }
    };
    let codes = futures::future::join_all((0..8).map(wanted)).await;
    assert_eq!(codes.iter().filter(|c| **c == 201).count(), 1, "{codes:?}");
}

#[tokio::test]
async fn a_service_changes_its_type() {
    let api = Api::start().await;
    let (_, made) = api.post(SERVICES, service("s", &json!({"type": "NodePort"}))).await;
    let path = format!("{SERVICES}/s");
    let (code, plain) = api.ask(Method::PATCH, &path, MERGE, json!({"spec": {"type": "ClusterIP"}})).await;
    assert_eq!(code, StatusCode::OK, "{plain}");
    assert_eq!(plain["spec"]["ports"][0]["nodePort"], Value::Null);
    assert_eq!(plain["spec"]["clusterIP"], made["spec"]["clusterIP"]);
    let external = json!({"spec": {"type": "ExternalName", "externalName": "example.org"}});
    let (code, external) = api.ask(Method::PATCH, &path, MERGE, external).await;
    assert_eq!(
        (code, &external["spec"]["clusterIP"], &external["spec"]["ipFamilies"]),
        (StatusCode::OK, &Value::Null, &Value::Null),
        "{external}"
    );
    let back = json!({"spec": {"type": "NodePort", "externalName": null}});
    let (code, back) = api.ask(Method::PATCH, &path, MERGE, back).await;
    assert_eq!(code, StatusCode::OK, "{back}");
    assert!(back["spec"]["clusterIP"].is_string() && back["spec"]["ports"][0]["nodePort"].is_u64(), "{back}");
}

#[tokio::test]
async fn a_binding_is_for_the_pod_that_was_seen() {
    let api = Api::start().await;
    api.post(PODS, pod("p")).await;
    let binding =
        json!({"metadata": {"name": "p", "uid": "another"}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(api.post(&format!("{PODS}/p/binding"), binding).await.0, 409);
}

#[tokio::test]
async fn tables_hold_what_is_asked_for() {
    let api = Api::start().await;
    api.post(PODS, pod("p")).await;
    let table = "accept:application/json;as=Table;v=v1;g=meta.k8s.io";
    for (include, image) in [("Object", json!("x")), ("Metadata", Value::Null), ("None", Value::Null)] {
        let (_, table) =
            api.ask(Method::GET, &format!("{PODS}?includeObject={include}"), table, Value::Null).await;
        let object = &table["rows"][0]["object"];
        assert_eq!(object["spec"]["containers"][0]["image"], image, "{include}: {object}");
        assert_eq!(object.is_null(), include == "None");
    }
}

#[tokio::test]
async fn duplicates_in_a_patch_are_found() {
    let api = Api::start().await;
    api.post(MAPS, map("m")).await;
    let patch = r#"{"data": {"a": "1", "a": "2"}, "dataa": {}}"#.to_owned();
    let strict = format!("{MAPS}/m?fieldValidation=Strict");
    let response = api.send(Method::PATCH, &strict, MERGE, patch.clone()).await;
    assert_eq!(response.status(), 400);
    let text = String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
    assert!(
        text.contains(r#"duplicate field \"data.a\""#) && text.contains(r#"unknown field \"dataa\""#),
        "{text}"
    );
    let response = api.send(Method::PATCH, &format!("{MAPS}/m"), MERGE, patch).await;
    assert_eq!(response.headers().get_all("warning").iter().count(), 2);
}

#[tokio::test]
async fn quotas_and_limits_are_kinds() {
    let api = Api::start().await;
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"configmaps": "1"}}});
    assert_eq!(api.post("/api/v1/namespaces/default/resourcequotas", quota).await.0, 201);
    assert_eq!(api.post(MAPS, map("one")).await.0, 201);
    let (code, refused) = api.post(MAPS, map("two")).await;
    assert_eq!((code, &refused["reason"]), (StatusCode::FORBIDDEN, &json!("Forbidden")), "{refused}");
    let limits = json!({"metadata": {"name": "l"}, "spec": {"limits": [{"type": "Container", "default": {"cpu": "100m"}}]}});
    assert_eq!(api.post("/api/v1/namespaces/default/limitranges", limits).await.0, 201);
    let (_, made) = api.post(PODS, pod("p")).await;
    assert_eq!(made["spec"]["containers"][0]["resources"]["limits"]["cpu"], "100m", "{made}");
    assert_eq!(made["status"]["qosClass"], "Burstable", "what admission filled in counts");
}

#[tokio::test]
async fn pages_hold_for_large_lists_and_selections() {
    let api = Api::start().await;
    for i in 0..30 {
        let mut object = map(&format!("m{i:02}"));
        object["metadata"]["labels"] = json!({"even": (i % 2 == 0).to_string()});
        api.post(MAPS, object).await;
    }
    for (selector, expected) in [("", 30), ("&labelSelector=even%3Dtrue", 15)] {
        let (mut token, mut names) = (String::new(), Vec::new());
        loop {
            let (code, page) = api.get(&format!("{MAPS}?limit=4&continue={token}{selector}")).await;
            assert_eq!(code, 200, "{page}");
            let items = page["items"].as_array().unwrap();
            names.extend(items.iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()));
            let remaining = &page["metadata"]["remainingItemCount"];
            token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
            let left =
                if selector.is_empty() && !token.is_empty() { json!(30 - names.len()) } else { Value::Null };
            assert_eq!(*remaining, left);
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(names.len(), expected);
        assert!(names.is_sorted());
    }
}

#[tokio::test]
async fn a_revision_that_is_not_there_yet_is_too_large() {
    let api = Api::start().await;
    let (code, status) = api.get(&format!("{MAPS}?resourceVersion=999999&resourceVersionMatch=Exact")).await;
    assert_eq!(
        (code.as_u16(), &status["details"]["causes"][0]["reason"]),
        (504, &json!("ResourceVersionTooLarge"))
    );
}

#[tokio::test]
async fn deep_yaml_is_refused() {
    let api = Api::start().await;
    let deep = format!("metadata: {{name: deep}}\ndata: {}{}", "[".repeat(50_000), "]".repeat(50_000));
    let response = api.send(Method::POST, MAPS, "application/yaml", deep).await;
    assert_eq!(response.status(), 400);
    assert_eq!(api.get(MAPS).await.0, 200);
}

/// Such a patch has once overflowed the stack of whoever walked the result, and so ended the whole server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_patch_cannot_nest_without_end() {
    let api = Api::start().await;
    api.post(MAPS, map("m")).await;
    let (mut operations, mut depth) = (vec![json!({"op": "add", "path": "/x", "value": {"k": {}}})], 1);
    for _ in 0..15 {
        operations.push(json!({"op": "copy", "from": "/x", "path": format!("/x{}", "/k".repeat(depth + 1))}));
        depth = 2 * depth + 1;
    }
    let (code, refused) = api.ask(Method::PATCH, &format!("{MAPS}/m"), JSON_PATCH, json!(operations)).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{refused}");
    assert_eq!(api.get(MAPS).await.0, 200);
}

#[tokio::test]
async fn a_long_initial_list_and_a_long_history_are_told_whole() {
    let api = Api::start().await;
    let before = api.get(MAPS).await.1["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    for i in 0..200 {
        api.post(MAPS, map(&format!("m{i:03}"))).await;
    }
    for path in [
        format!("{MAPS}?watch=true"),
        format!("{MAPS}?watch=true&resourceVersion={before}"),
        format!("{MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"),
    ] {
        let events = api.watch(&path, 200).await;
        let names: Vec<_> =
            events.iter().map(|e| e["object"]["metadata"]["name"].as_str().unwrap()).collect();
        assert!(names.len() == 200 && names.is_sorted(), "{path}: {names:?}");
    }
}

#[tokio::test]
async fn a_watch_that_wants_no_initial_events_gets_none() {
    let api = Api::start().await;
    api.post(MAPS, map("old")).await;
    let path = format!("{MAPS}?watch=true&sendInitialEvents=false&resourceVersionMatch=NotOlderThan");
    let later = async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        api.post(MAPS, map("new")).await
    };
    let (events, _) = tokio::join!(api.watch(&path, 1), later);
    assert_eq!(events[0]["object"]["metadata"]["name"], "new");
}

#[tokio::test]
async fn a_node_port_may_serve_two_protocols() {
    let api = Api::start().await;
    let port = |protocol: &str| json!({"name": protocol.to_lowercase(), "port": 53, "protocol": protocol, "nodePort": 30053});
    let dns = json!({"metadata": {"name": "dns"}, "spec": {"type": "NodePort", "ports": [port("TCP"), port("UDP")]}});
    let (code, made) = api.post(SERVICES, dns).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
}

#[tokio::test]
async fn of_writers_that_saw_the_same_one_wins() {
    let api = Api::start().await;
    let (_, made) = api.post(MAPS, map("m")).await;
    let write = |i: usize| {
        let (api, mut object) = (&api, made.clone());
        object["data"]["a"] = json!(format!("writer {i}"));
        async move { api.put(&format!("{MAPS}/m"), object).await.0 }
    };
    let codes = futures::future::join_all((0..10).map(write)).await;
    assert_eq!(codes.iter().filter(|c| **c == 200).count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|c| **c == 409).count(), 9, "{codes:?}");
}
