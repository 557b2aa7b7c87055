//! An API server in this process over a store in memory, asked with raw requests.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures::StreamExt;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use kubelite_apiserver::parts::Keys;
use kubelite_apiserver::request::UserInfo;
use kubelite_apiserver::storage::{StorageHandle, memory};
use kubelite_apiserver::{ApiServer, Config};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub(crate) struct Api(pub(crate) Router);

impl Api {
    pub(crate) async fn start() -> Api {
        Api::over(StorageHandle(std::sync::Arc::new(memory::storage().unwrap()))).await
    }

    /// One of several over one store.
    pub(crate) async fn over(storage: StorageHandle) -> Api {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["test".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        let keys = Keys {
            issuer: "https://test".to_owned(),
            service_account_key: key.serialize_der(),
            ca: certificate.clone(),
            kubelet_client_certificate: certificate,
            kubelet_client_key: key.serialize_pem(),
            static_tokens: Vec::new(),
        };
        let config = Config {
            service_network: (Ipv4Addr::new(10, 43, 0, 0), 16),
            node_ports: 30000..=32767,
            advertise: (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 6443),
        };
        let api =
            Api(ApiServer::start(config, storage, &keys, CancellationToken::new()).await.unwrap().router());
        // Pods need their namespace's service account, which in a cluster a controller makes.
        api.post("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}}))
            .await;
        api
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        media: &str,
        body: String,
    ) -> http::Response<Body> {
        let mut request = Request::builder().method(method).uri(path).header("content-type", media);
        request = request.extension(UserInfo::new("admin", &["system:masters"]));
        if let Some(accept) = media.strip_prefix("accept:") {
            request = request.header("accept", accept);
        }
        self.0.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap()
    }

    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        media: &str,
        body: Value,
    ) -> (StatusCode, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let response = self.send(method, path, media, body).await;
        let code = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or_else(|_| panic!("no JSON: {bytes:?}")))
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.ask(Method::GET, path, "application/json", Value::Null).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.ask(Method::POST, path, "application/json", body).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.ask(Method::PUT, path, "application/json", body).await
    }

    pub(crate) async fn delete(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.ask(Method::DELETE, path, "application/json", body).await
    }

    /// The first `count` events of a watch.
    pub(crate) async fn watch(&self, path: &str, count: usize) -> Vec<Value> {
        let response = self.send(Method::GET, path, "application/json", String::new()).await;
        let mut lines = response.into_body().into_data_stream();
        let mut events = Vec::new();
        let collect = async {
            while events.len() < count {
                let Some(line) = lines.next().await else { break };
                events.push(serde_json::from_slice(&line.unwrap()).unwrap());
            }
        };
        tokio::time::timeout(Duration::from_secs(5), collect).await.expect("the watch stays silent");
        events
    }
}

pub(crate) const MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";

pub(crate) fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

pub(crate) fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "x"}]}})
}
