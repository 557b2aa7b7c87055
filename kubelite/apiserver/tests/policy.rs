//! The bootstrap policy through a `kube::Client`, against a small store that speaks just enough of the API.

#![allow(clippy::unwrap_used)] // helpers of tests, outside of test functions

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, put};
use axum::{Json, Router};
use kubelite_apiserver::auth::policy;
use kubelite_apiserver::client::in_process_client;
use kubelite_apiserver::request::UserInfo;
use serde_json::{Value, json};

#[derive(Default)]
struct Store {
    objects: BTreeMap<(String, String), Value>,
    writes: usize,
}

type Shared = State<Arc<Mutex<Store>>>;

async fn list(State(store): Shared, Path((_, resource)): Path<(String, String)>) -> Json<Value> {
    let store = store.lock().unwrap();
    let items: Vec<&Value> =
        store.objects.iter().filter(|((r, _), _)| *r == resource).map(|(_, o)| o).collect();
    Json(json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": items}))
}

async fn create(
    State(store): Shared,
    Path((_, resource)): Path<(String, String)>,
    Json(object): Json<Value>,
) -> (StatusCode, Json<Value>) {
    let mut store = store.lock().unwrap();
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    store.writes += 1;
    store.objects.insert((resource, name), object.clone());
    (StatusCode::CREATED, Json(object))
}

async fn replace(
    State(store): Shared,
    Path((_, resource, name)): Path<(String, String, String)>,
    Json(object): Json<Value>,
) -> Json<Value> {
    let mut store = store.lock().unwrap();
    store.writes += 1;
    store.objects.insert((resource, name), object.clone());
    Json(object)
}

#[tokio::test]
async fn the_policy_is_made_once_and_repaired() {
    let store = Arc::new(Mutex::new(Store::default()));
    let router = Router::new()
        .route("/apis/{group}/v1/{resource}", get(list).post(create))
        .route("/apis/{group}/v1/{resource}/{name}", put(replace))
        .with_state(store.clone());
    let client = in_process_client(router, UserInfo::new("system:apiserver", &["system:masters"]));
    policy::reconcile(&client).await.unwrap();
    let made = store.lock().unwrap().writes;
    assert_eq!(made, policy::objects().unwrap().len());

    policy::reconcile(&client).await.unwrap();
    assert_eq!(store.lock().unwrap().writes, made, "a second start writes nothing");

    let view = ("clusterroles".to_owned(), "system:aggregate-to-view".to_owned());
    let admin = ("clusterrolebindings".to_owned(), "cluster-admin".to_owned());
    {
        let mut store = store.lock().unwrap();
        store.objects.get_mut(&view).unwrap()["rules"] = json!([]);
        store.objects.get_mut(&admin).unwrap()["subjects"] = json!([{"kind": "User", "name": "own"}]);
    }
    policy::reconcile(&client).await.unwrap();
    let store = store.lock().unwrap();
    assert_eq!(store.writes, made + 2);
    assert_eq!(store.objects[&view]["rules"].as_array().unwrap().len(), 8);
    let subjects = store.objects[&admin]["subjects"].as_array().unwrap();
    assert_eq!(
        subjects.iter().map(|s| s["name"].as_str().unwrap()).collect::<Vec<_>>(),
        ["own", "system:masters"]
    );
}
