//! An API server in memory, just large enough for a kubelet: objects by path, merge patches, and one watch of all pods.

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::Frame;
use kube::client::Body;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tokio::sync::broadcast;

type Answer = Response<BoxBody<Bytes, Infallible>>;

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
}

/// The API server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api {
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<Value>,
}

impl Api {
    pub(crate) fn new() -> Api {
        Api { state: Arc::default(), events: broadcast::channel(1024).0 }
    }

    pub(crate) fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    /// Creates or replaces an object.
    pub(crate) fn put(&self, path: &str, mut object: Value) -> Value {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        object["metadata"]["resourceVersion"] = state.version.to_string().into();
        let old = state.objects.insert(path.to_string(), object.clone());
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        self.tell(path, kind, &object);
        object
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(path).cloned()
    }

    /// The reasons and messages of all events.
    pub(crate) fn events(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let events = state.objects.iter().filter(|(path, _)| path.contains("/events/"));
        let mut all: Vec<_> = events.map(|(_, e)| e.clone()).collect();
        all.sort_by_key(|e| e["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap());
        let text =
            |e: &Value| format!("{} {}", e["reason"].as_str().unwrap(), e["message"].as_str().unwrap());
        all.iter().map(text).collect()
    }

    /// Marks a pod for deletion, as the API server does for a kubelet's pod.
    pub(crate) fn delete_gracefully(&self, path: &str, grace: u64) {
        let mut pod = self.get(path).unwrap();
        pod["metadata"]["deletionTimestamp"] = json!(jiff::Timestamp::now());
        pod["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        self.put(path, pod);
    }

    fn tell(&self, path: &str, kind: &str, object: &Value) {
        if path.contains("/pods/") {
            // Nobody may be watching.
            let _ = self.events.send(json!({ "type": kind, "object": object }));
        }
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_string();
        let query = parts.uri.query().unwrap_or_default();
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        match (parts.method, path.as_str()) {
            (Method::GET, "/api/v1/pods") if query.contains("watch=") => self.watch(),
            (Method::GET, "/api/v1/pods") => self.list("Pod"),
            (Method::GET, path) if path.ends_with("/services") => self.list("Service"),
            (Method::GET, path) => self.get(path).map_or_else(not_found, |o| whole(StatusCode::OK, &o)),
            (Method::POST, path) => {
                let name = body["metadata"]["name"].as_str().unwrap_or_default().to_string();
                whole(StatusCode::CREATED, &self.put(&format!("{path}/{name}"), body))
            }
            (Method::PUT, path) => whole(StatusCode::OK, &self.put(path.trim_end_matches("/status"), body)),
            (Method::PATCH, path) => self.patch(path.trim_end_matches("/status"), &body),
            (Method::DELETE, path) => self.delete(path),
            _ => not_found(),
        }
    }

    fn list(&self, kind: &str) -> Answer {
        let state = self.state.lock().unwrap();
        let below = format!("/{}s/", kind.to_lowercase());
        let items: Vec<_> =
            state.objects.iter().filter(|(p, _)| p.contains(&below)).map(|(_, o)| o).collect();
        let version = state.version.to_string();
        let list = json!({ "kind": format!("{kind}List"), "apiVersion": "v1", "metadata": { "resourceVersion": version }, "items": items });
        whole(StatusCode::OK, &list)
    }

    fn watch(&self) -> Answer {
        let events = stream::unfold(self.events.subscribe(), |mut events| async move {
            let event = events.recv().await.ok()?;
            Some((Bytes::from(format!("{event}\n")), events))
        });
        let body = StreamBody::new(events.map(|bytes| Ok(Frame::data(bytes))));
        Response::new(BodyExt::boxed(body))
    }

    fn patch(&self, path: &str, patch: &Value) -> Answer {
        let Some(mut object) = self.get(path) else { return not_found() };
        let version = &patch["metadata"]["resourceVersion"];
        if !version.is_null() && *version != object["metadata"]["resourceVersion"] {
            return whole(StatusCode::CONFLICT, &status(409, "Conflict"));
        }
        merge(&mut object, patch);
        whole(StatusCode::OK, &self.put(path, object))
    }

    fn delete(&self, path: &str) -> Answer {
        let object = self.state.lock().unwrap().objects.remove(path);
        let Some(object) = object else { return not_found() };
        self.tell(path, "DELETED", &object);
        whole(StatusCode::OK, &object)
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in fields {
        match value {
            Value::Null => _ = target.as_object_mut().unwrap().remove(key),
            value => merge(&mut target[key], value),
        }
    }
}

fn whole(code: StatusCode, value: &Value) -> Answer {
    let body = http_body_util::Full::new(Bytes::from(value.to_string()));
    let mut answer = Response::new(BodyExt::boxed(body));
    *answer.status_mut() = code;
    answer
}

fn status(code: u16, reason: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code })
}

fn not_found() -> Answer {
    whole(StatusCode::NOT_FOUND, &status(404, "NotFound"))
}
