//! Custom resources as a client sees them: defined, served, changed and gone.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests too.

#[path = "common/api.rs"]
#[allow(dead_code)] // Other tests need more of it.
mod api;

use std::sync::Arc;
use std::time::Duration;

use api::Api;
use http::{Method, StatusCode};
use kubelite_apiserver::storage::{StorageHandle, memory};
use serde_json::{Value, json};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const TABS: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";

fn definition() -> Value {
    let spec = json!({"type": "object", "required": ["cronSpec"], "properties": {
        "cronSpec": {"type": "string", "pattern": r"^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$"},
        "image": {"type": "string", "default": "busybox"},
        "replicas": {"type": "integer", "minimum": 1, "maximum": 10},
    }});
    let status = json!({"type": "object", "properties": {"replicas": {"type": "integer"}, "labelSelector": {"type": "string"}}});
    let schema =
        json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": spec, "status": status}}});
    let subresources = json!({"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.labelSelector"}});
    let columns = json!([{"name": "Spec", "type": "string", "jsonPath": ".spec.cronSpec"}, {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]);
    json!({
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {
            "group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "kind": "CronTab", "shortNames": ["ct"], "categories": ["all"]},
            "versions": [
                {"name": "v1", "served": true, "storage": true, "schema": schema, "subresources": subresources, "additionalPrinterColumns": columns,
                    "selectableFields": [{"jsonPath": ".spec.image"}]},
                {"name": "v1beta1", "served": true, "storage": false, "schema": schema, "subresources": subresources},
            ],
        },
    })
}

fn tab(name: &str) -> Value {
    json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": name}, "spec": {"cronSpec": "* * * * */5", "replicas": 3}})
}

/// An API server that serves the definition.
async fn served() -> Api {
    let api = Api::start().await;
    let (code, made) = api.post(DEFINITIONS, definition()).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    eventually(&api, TABS, StatusCode::OK).await;
    api
}

/// Asks until the answer has this code; a second at the most.
async fn eventually(api: &Api, path: &str, wanted: StatusCode) -> Value {
    for _ in 0..100 {
        let (code, answer) = api.get(path).await;
        if code == wanted {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{path} is not {wanted} within a second");
}

#[tokio::test]
async fn a_definition_is_established_and_shown() {
    let api = served().await;
    let (_, stored) = api.get(&format!("{DEFINITIONS}/crontabs.stable.example.com")).await;
    let conditions = stored["status"]["conditions"].as_array().unwrap();
    let is = |kind: &str| conditions.iter().any(|c| c["type"] == kind && c["status"] == "True");
    assert!(is("Established") && is("NamesAccepted"), "{stored}");
    assert_eq!(stored["status"]["acceptedNames"]["listKind"], "CronTabList");
    assert_eq!(stored["status"]["storedVersions"], json!(["v1"]));
    let (_, group) = api.get("/apis/stable.example.com").await;
    assert_eq!(group["preferredVersion"]["version"], "v1");
    assert_eq!(group["versions"].as_array().unwrap().len(), 2);
    let (_, resources) = api.get("/apis/stable.example.com/v1").await;
    let names: Vec<&str> =
        resources["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["crontabs", "crontabs/status", "crontabs/scale"]);
    let (_, document) = api.get("/openapi/v3/apis/stable.example.com/v1").await;
    let schema = &document["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(schema["properties"]["spec"]["properties"]["replicas"]["maximum"], 10);
    // A second kind of the name waits.
    let mut other = definition();
    other["metadata"]["name"] = json!("others.stable.example.com");
    other["spec"]["names"]["plural"] = json!("others");
    assert_eq!(api.post(DEFINITIONS, other).await.0, StatusCode::CREATED);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (_, other) = api.get(&format!("{DEFINITIONS}/others.stable.example.com")).await;
    let taken = &other["status"]["conditions"][0];
    assert_eq!(
        (&taken["status"], &taken["reason"]),
        (&json!("False"), &json!("SingularConflict")),
        "{other}"
    );
    assert_eq!(api.get("/apis/stable.example.com/v1/others").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn objects_are_validated_pruned_and_defaulted() {
    let api = served().await;
    let mut odd = tab("odd");
    odd["spec"]["other"] = json!(1);
    let (code, answer) = api.post(&format!("{TABS}?fieldValidation=Strict"), odd.clone()).await;
    assert_eq!(code, StatusCode::BAD_REQUEST);
    assert!(answer["message"].as_str().unwrap().contains("unknown field \"spec.other\""), "{answer}");
    let (code, made) = api.post(TABS, odd).await;
    assert_eq!(
        (code, &made["spec"]),
        (StatusCode::CREATED, &json!({"cronSpec": "* * * * */5", "replicas": 3, "image": "busybox"})),
        "{made}"
    );
    assert_eq!(made["metadata"]["generation"], 1);
    let mut wrong = tab("wrong");
    wrong["spec"]["replicas"] = json!(11);
    let (code, answer) = api.post(TABS, wrong).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    let text = "CronTab.stable.example.com \"wrong\" is invalid: spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10";
    assert_eq!(answer["message"], text);
    // A default that comes later shows in what was written before, in each version.
    let mut changed = definition();
    for version in 0..2 {
        changed["spec"]["versions"][version]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
            ["late"] = json!({"type": "string", "default": "x"});
    }
    let path = format!("{DEFINITIONS}/crontabs.stable.example.com");
    let (code, answer) = api.ask(Method::PATCH, &path, "application/merge-patch+json", changed).await;
    assert_eq!(code, StatusCode::OK, "{answer}");
    let (_, seen) = api.get(&format!("{TABS}/odd").replace("/v1/", "/v1beta1/")).await;
    assert_eq!(
        (&seen["apiVersion"], &seen["spec"]["late"]),
        (&json!("stable.example.com/v1beta1"), &json!("x")),
        "{seen}"
    );
    let (_, list) = api.get(TABS).await;
    assert_eq!((&list["kind"], &list["items"][0]["spec"]["late"]), (&json!("CronTabList"), &json!("x")));
}

#[tokio::test]
async fn status_and_scale_are_parts_of_their_own() {
    let api = served().await;
    api.post(TABS, tab("a")).await;
    let (code, answer) = api
        .ask(
            Method::PATCH,
            &format!("{TABS}/a/status"),
            "application/merge-patch+json",
            json!({"status": {"replicas": 2, "labelSelector": "app=a"}, "spec": {"replicas": 9}}),
        )
        .await;
    assert_eq!(code, StatusCode::OK, "{answer}");
    assert_eq!(
        (&answer["spec"]["replicas"], &answer["status"]["replicas"], &answer["metadata"]["generation"]),
        (&json!(3), &json!(2), &json!(1))
    );
    let (_, scale) = api.get(&format!("{TABS}/a/scale")).await;
    assert_eq!(
        (&scale["spec"]["replicas"], &scale["status"]),
        (&json!(3), &json!({"replicas": 2, "selector": "app=a"})),
        "{scale}"
    );
    let (code, scaled) = api
        .ask(
            Method::PATCH,
            &format!("{TABS}/a/scale"),
            "application/merge-patch+json",
            json!({"spec": {"replicas": 5}}),
        )
        .await;
    assert_eq!(code, StatusCode::OK, "{scaled}");
    let (_, a) = api.get(&format!("{TABS}/a")).await;
    assert_eq!((&a["spec"]["replicas"], &a["metadata"]["generation"]), (&json!(5), &json!(2)));
    let (code, answer) = api
        .ask(
            Method::PATCH,
            &format!("{TABS}/a/scale"),
            "application/merge-patch+json",
            json!({"spec": {"replicas": 50}}),
        )
        .await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
}

#[tokio::test]
async fn they_are_listed_watched_selected_and_printed() {
    let api = served().await;
    let (_, first) = api.post(TABS, tab("a")).await;
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let mut b = tab("b");
    b["spec"]["image"] = json!("nginx");
    api.post(TABS, b).await;
    let events = api.watch(&format!("{TABS}?watch=true&resourceVersion={version}"), 1).await;
    assert_eq!(
        (&events[0]["type"], &events[0]["object"]["metadata"]["name"]),
        (&json!("ADDED"), &json!("b"))
    );
    let (_, selected) = api.get(&format!("{TABS}?fieldSelector=spec.image%3Dnginx")).await;
    assert_eq!(selected["items"].as_array().unwrap().len(), 1, "{selected}");
    let (_, table) =
        api.ask(Method::GET, TABS, "accept:application/json;as=Table;v=v1;g=meta.k8s.io", Value::Null).await;
    let names: Vec<&str> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Name", "Spec", "Age"]);
    assert_eq!(table["rows"][0]["cells"][1], "* * * * */5");
    // A strategic merge needs keys that only built-in kinds have.
    let (code, _) = api
        .ask(Method::PATCH, &format!("{TABS}/a"), "application/strategic-merge-patch+json", json!({}))
        .await;
    assert_eq!(code, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let applied =
        json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "spec": {"image": "mine"}});
    let (code, answer) = api
        .ask(Method::PATCH, &format!("{TABS}/b?fieldManager=m"), "application/apply-patch+yaml", applied)
        .await;
    assert_eq!(code, StatusCode::CONFLICT, "{answer}");
}

#[tokio::test]
async fn servers_over_one_store_serve_the_same() {
    let storage = StorageHandle(Arc::new(memory::storage().unwrap()));
    let (one, two) = (Api::over(storage.clone()).await, Api::over(storage.clone()).await);
    assert_eq!(one.post(DEFINITIONS, definition()).await.0, StatusCode::CREATED);
    eventually(&two, TABS, StatusCode::OK).await;
    assert_eq!(two.post(TABS, tab("a")).await.0, StatusCode::CREATED);
    eventually(&one, &format!("{TABS}/a"), StatusCode::OK).await;
    // One that starts later finds the definition and what it defines.
    let three = Api::over(storage).await;
    let (code, list) = three.get(TABS).await;
    assert_eq!((code, list["items"].as_array().map(Vec::len)), (StatusCode::OK, Some(1)), "{list}");
    // A version that is not served any more isn't, anywhere; its objects are in the other one.
    let mut changed = definition();
    changed["spec"]["versions"][1]["served"] = json!(false);
    let path = format!("{DEFINITIONS}/crontabs.stable.example.com");
    three.ask(Method::PATCH, &path, "application/merge-patch+json", changed).await;
    eventually(&one, &TABS.replace("/v1/", "/v1beta1/"), StatusCode::NOT_FOUND).await;
    // All gone by one server's word, though no version is served by then.
    let mut hidden = definition();
    hidden["spec"]["versions"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .for_each(|version| version["served"] = json!(false));
    two.ask(Method::PATCH, &path, "application/merge-patch+json", hidden).await;
    eventually(&three, TABS, StatusCode::NOT_FOUND).await;
    assert_eq!(two.delete(&path, Value::Null).await.0, StatusCode::OK);
    eventually(&one, &path, StatusCode::NOT_FOUND).await;
    assert_eq!(one.post(DEFINITIONS, definition()).await.0, StatusCode::CREATED);
    assert_eq!(eventually(&three, TABS, StatusCode::OK).await["items"], json!([]));
}

#[tokio::test]
async fn a_deleted_definition_takes_its_objects_along() {
    let api = served().await;
    let mut held = tab("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.post(TABS, held).await;
    api.post(TABS, tab("free")).await;
    let path = format!("{DEFINITIONS}/crontabs.stable.example.com");
    assert_eq!(api.delete(&path, Value::Null).await.0, StatusCode::OK);
    eventually(&api, &format!("{TABS}/free"), StatusCode::NOT_FOUND).await;
    let (code, answer) = api.post(TABS, tab("late")).await;
    assert_eq!(code, StatusCode::METHOD_NOT_ALLOWED, "{answer}");
    let (_, waiting) = api.get(&path).await;
    assert_eq!(waiting["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    api.ask(
        Method::PATCH,
        &format!("{TABS}/held"),
        "application/merge-patch+json",
        json!({"metadata": {"finalizers": null}}),
    )
    .await;
    eventually(&api, &path, StatusCode::NOT_FOUND).await;
    eventually(&api, TABS, StatusCode::NOT_FOUND).await;
    // The same name again is another kind: it begins empty.
    assert_eq!(api.post(DEFINITIONS, definition()).await.0, StatusCode::CREATED);
    let list = eventually(&api, TABS, StatusCode::OK).await;
    assert_eq!(list["items"], json!([]));
}
