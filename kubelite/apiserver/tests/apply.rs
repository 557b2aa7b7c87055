//! Server-side apply and the owners of fields over an in-process server.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests too.

#[path = "common/api.rs"]
#[allow(dead_code)] // Other tests need more of it.
mod api;

use api::{Api, MAPS, map};
use http::{Method, StatusCode};
use serde_json::{Value, json};

const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/default/deployments/web";

async fn apply(api: &Api, path: &str, manager: &str, body: Value) -> (StatusCode, Value) {
    api.ask(Method::PATCH, &format!("{path}?fieldManager={manager}"), APPLY, body).await
}

fn web(spec: &Value) -> Value {
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
    let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template}});
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    object
}

fn owned(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries.iter().find(|entry| entry["manager"] == manager).cloned().unwrap_or_default()
}

#[tokio::test]
async fn an_object_is_made_changed_and_left() {
    let api = Api::start().await;
    let (code, made) =
        apply(&api, DEPLOYMENT, "me", web(&json!({"replicas": 2, "minReadySeconds": 3}))).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["strategy"]["type"], "RollingUpdate", "defaults are there");
    assert_eq!(owned(&made, "me")["fieldsV1"]["f:spec"].get("f:strategy"), None, "and nobody owns them");
    let (code, same) =
        apply(&api, DEPLOYMENT, "me", web(&json!({"replicas": 2, "minReadySeconds": 3}))).await;
    assert_eq!((code, same), (StatusCode::OK, made));
    let (_, less) = apply(&api, DEPLOYMENT, "me", web(&json!({"replicas": 2}))).await;
    assert_eq!(less["spec"].get("minReadySeconds").unwrap_or(&json!(0)), &json!(0), "what is left out goes");
    let (_, scaled) = api
        .ask(
            Method::PATCH,
            &format!("{DEPLOYMENT}?fieldManager=scaler"),
            MERGE,
            json!({"spec": {"replicas": 5}}),
        )
        .await;
    assert_eq!(owned(&scaled, "scaler")["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    let (code, refused) = apply(&api, DEPLOYMENT, "me", web(&json!({"replicas": 2}))).await;
    assert_eq!(
        (code, &refused["message"]),
        (
            StatusCode::CONFLICT,
            &json!(r#"Apply failed with 1 conflict: conflict with "scaler" using apps/v1: .spec.replicas"#)
        )
    );
    assert_eq!(refused["details"]["causes"][0]["reason"], "FieldManagerConflict");
    let (code, left) = apply(&api, DEPLOYMENT, "me", web(&json!({}))).await;
    assert_eq!((code, &left["spec"]["replicas"]), (StatusCode::OK, &json!(5)), "it is the scaler's now");
    let path = format!("{DEPLOYMENT}?fieldManager=me&force=true");
    let (code, forced) = api.ask(Method::PATCH, &path, APPLY, web(&json!({"replicas": 1}))).await;
    assert_eq!((code, &forced["spec"]["replicas"]), (StatusCode::OK, &json!(1)));
    assert_eq!(owned(&forced, "scaler"), Value::Null);
}

#[tokio::test]
async fn status_has_its_own_owners() {
    let api = Api::start().await;
    let mut all = web(&json!({"replicas": 2}));
    all["status"] = json!({"replicas": 9});
    let (_, made) = apply(&api, DEPLOYMENT, "me", all.clone()).await;
    assert_eq!(made["status"].get("replicas"), None);
    assert_eq!(owned(&made, "me")["fieldsV1"].get("f:status"), None);
    let (code, status) = apply(&api, &format!("{DEPLOYMENT}/status"), "controller", all).await;
    assert_eq!((code, &status["status"]["replicas"]), (StatusCode::OK, &json!(9)));
    let entry = owned(&status, "controller");
    assert_eq!(
        (&entry["subresource"], &entry["fieldsV1"]),
        (&json!("status"), &json!({"f:status": {"f:replicas": {}}}))
    );
    assert_eq!(owned(&status, "me"), owned(&made, "me"));
    let (code, _) =
        apply(&api, "/apis/apps/v1/namespaces/default/deployments/other/status", "me", json!({})).await;
    assert_eq!(code, 404);
}

#[tokio::test]
async fn writes_without_a_name_are_the_programs() {
    let api = Api::start().await;
    let (_, made) = api.post(MAPS, map("m")).await;
    assert_eq!(owned(&made, "admin")["fieldsV1"], json!({"f:data": {".": {}, "f:a": {}}}));
    let (_, put) = api
        .put(&format!("{MAPS}/m"), {
            let mut changed = made.clone();
            changed["data"]["b"] = json!("2");
            changed["metadata"]["managedFields"] = Value::Null;
            changed
        })
        .await;
    assert_eq!(owned(&put, "admin")["fieldsV1"]["f:data"], json!({".": {}, "f:a": {}, "f:b": {}}));
    let (_, cleared) = api
        .ask(Method::PATCH, &format!("{MAPS}/m"), MERGE, json!({"metadata": {"managedFields": [{}]}}))
        .await;
    assert_eq!(cleared["metadata"].get("managedFields"), None);
}

#[tokio::test]
async fn what_cannot_be_applied_is_refused() {
    let api = Api::start().await;
    let path = format!("{MAPS}/m");
    let (code, refused) = api.ask(Method::PATCH, &path, APPLY, map("m")).await;
    assert_eq!(code, 422);
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("fieldManager: Required value: is required for apply patch"),
        "{refused}"
    );
    let (code, refused) = api.ask(Method::PATCH, &format!("{path}?force=true"), MERGE, json!({})).await;
    assert_eq!(code, 422);
    assert!(
        refused["message"].as_str().unwrap().contains("may not be specified for non-apply patch"),
        "{refused}"
    );
    let owners = json!({"metadata": {"name": "m", "managedFields": []}});
    assert_eq!(apply(&api, &path, "me", owners).await.0, 400);
    assert_eq!(apply(&api, &path, "me", map("other")).await.0, 400);
    assert_eq!(apply(&api, &path, "me", json!({"metadata": {"resourceVersion": "5"}})).await.0, 409);
    assert_eq!(apply(&api, &path, "me", json!({"kind": "Pod"})).await.0, 400);
    assert_eq!(apply(&api, &path, "me", json!([])).await.0, 400);
    assert_eq!(api.get(&path).await.0, 404, "nothing of that was stored");
}
