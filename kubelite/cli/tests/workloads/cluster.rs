//! API server and controllers in this process over a store in memory. The test is the kubelet: it says what becomes of
//! pods.

use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use kubelite_apiserver::parts::Keys;
use kubelite_apiserver::request::UserInfo;
use kubelite_apiserver::storage::{StorageHandle, memory};
use kubelite_apiserver::{ApiServer, Config};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long something may take that takes milliseconds when nothing else runs.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Cluster {
    pub(crate) client: Client,
    _stop: DropGuard,
}

impl Cluster {
    /// With the controllers under their own name and rights.
    pub(crate) async fn start() -> Cluster {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["test".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        let keys = Keys {
            issuer: "https://test".to_owned(),
            service_account_key: key.serialize_der(),
            ca: certificate.clone(),
            kubelet_client_certificate: certificate.clone(),
            kubelet_client_key: key.serialize_pem(),
            static_tokens: Vec::new(),
        };
        let config = Config {
            service_network: (Ipv4Addr::new(10, 43, 0, 0), 16),
            node_ports: 30000..=32767,
            advertise: (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 6443),
        };
        let shutdown = CancellationToken::new();
        let storage = StorageHandle(Arc::new(memory::storage().unwrap()));
        let api = ApiServer::start(config, storage, &keys, shutdown.clone()).await.unwrap();
        let config = kubelite_controllers::Config {
            cluster_ca_pem: certificate,
            ..kubelite_controllers::Config::default()
        };
        let manager = api.client(UserInfo::new("system:kube-controller-manager", &[]));
        tokio::spawn(kubelite_controllers::run(manager, config, shutdown.clone()));
        let client = api.client(UserInfo::new("admin", &["system:masters"]));
        let cluster = Cluster { client, _stop: shutdown.drop_guard() };
        cluster
            .until("the service account", async || {
                cluster.get("v1/ServiceAccount", "default").await.is_some()
            })
            .await;
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "node"}})).unwrap();
        Api::all(cluster.client.clone()).create(&PostParams::default(), &node).await.unwrap();
        cluster
    }

    /// The API of `apps/v1/StatefulSet` or `v1/Pod` in the namespace `default`.
    fn api(&self, kind: &str) -> Api<DynamicObject> {
        let (version, name) = kind.rsplit_once('/').unwrap();
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, name));
        Api::default_namespaced_with(self.client.clone(), &resource)
    }

    pub(crate) async fn create(&self, kind: &str, object: Value) -> Value {
        let (api_version, name) = kind.rsplit_once('/').unwrap();
        let mut object = object;
        object["apiVersion"] = json!(api_version);
        object["kind"] = json!(name);
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        json!(self.api(kind).create(&PostParams::default(), &object).await.unwrap())
    }

    pub(crate) async fn get(&self, kind: &str, name: &str) -> Option<Value> {
        self.api(kind).get_opt(name).await.unwrap().map(|object| json!(object))
    }

    pub(crate) async fn patch(&self, kind: &str, name: &str, patch: Value) -> Value {
        json!(self.api(kind).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap())
    }

    pub(crate) async fn patch_status(&self, kind: &str, name: &str, status: Value) {
        let patch = Patch::Merge(json!({"status": status}));
        self.api(kind).patch_status(name, &PatchParams::default(), &patch).await.unwrap();
    }

    pub(crate) async fn delete(&self, kind: &str, name: &str, params: DeleteParams) {
        self.api(kind).delete(name, &params).await.unwrap();
    }

    pub(crate) async fn list(&self, kind: &str) -> Vec<Value> {
        let list = self.api(kind).list(&ListParams::default()).await.unwrap();
        list.items.into_iter().map(|object| json!(object)).collect()
    }

    /// The names of the pods that don't terminate, in order.
    pub(crate) async fn pods(&self) -> Vec<String> {
        let alive = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_null();
        let pods = self.list("v1/Pod").await;
        pods.iter()
            .filter(|pod| alive(pod))
            .map(|p| p["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The reasons of the events about an object.
    pub(crate) async fn events(&self, name: &str) -> Vec<String> {
        let events = self.list("v1/Event").await;
        let about = events.iter().filter(|event| event["involvedObject"]["name"] == name);
        about.map(|event| event["reason"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until something is so.
    pub(crate) async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        let wait = async {
            while !is_so().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            let pods = self.list("v1/Pod").await;
            panic!("waited in vain for {what}; pods: {}", json!(pods));
        }
    }

    /// Waits until a field has a value.
    pub(crate) async fn field(
        &self,
        kind: &str,
        name: &str,
        pointer: &str,
        expected: impl Into<Value> + Debug,
    ) {
        let expected = expected.into();
        let what = format!("{kind} {name} {pointer} = {expected}");
        self.until(&what, async || {
            let object = self.get(kind, name).await;
            let found = object.and_then(|object| object.pointer(pointer).cloned()).unwrap_or(Value::Null);
            // An empty list is as good as none.
            found == expected || (expected.is_null() && found == json!([]))
        })
        .await;
    }

    /// Waits until these pods are there, and no others.
    pub(crate) async fn has_pods(&self, expected: &[&str]) {
        self.until(&format!("the pods {expected:?}"), async || self.pods().await == expected).await;
    }

    /// Waits until there are so many pods; their names.
    pub(crate) async fn count_pods(&self, count: usize) -> Vec<String> {
        self.until(&format!("{count} pods"), async || self.pods().await.len() == count).await;
        self.pods().await
    }

    /// Nothing happens any more: the controllers have looked at everything.
    pub(crate) async fn stays(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        for _ in 0..20 {
            assert!(is_so().await, "no longer so: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn run(&self, pod: &str) {
        let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": k8s_openapi::jiff::Timestamp::now().to_string()}]);
        self.patch_status("v1/Pod", pod, json!({"phase": "Running", "conditions": ready})).await;
    }

    /// The pod runs and isn't ready.
    pub(crate) async fn sicken(&self, pod: &str) {
        self.patch_status(
            "v1/Pod",
            pod,
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}),
        )
        .await;
    }

    pub(crate) async fn succeed(&self, pod: &str) {
        self.end(pod, "Succeeded", 0, "1970-01-01T00:00:00Z").await;
    }

    /// Long ago, so that nobody waits before a new attempt.
    pub(crate) async fn fail(&self, pod: &str, code: i32) {
        self.end(pod, "Failed", code, "1970-01-01T00:00:00Z").await;
    }

    pub(crate) async fn end(&self, pod: &str, phase: &str, code: i32, finished: &str) {
        let terminated = json!({"exitCode": code, "finishedAt": finished});
        let containers = json!([{"name": "c", "ready": false, "restartCount": 0, "image": "i", "imageID": "",
                                 "state": {"terminated": terminated}}]);
        let ready = json!([{"type": "Ready", "status": "False"}]);
        self.patch_status(
            "v1/Pod",
            pod,
            json!({"phase": phase, "conditions": ready, "containerStatuses": containers}),
        )
        .await;
    }

    /// Puts a pod onto a node, so that its deletion takes until [`Cluster::gone`].
    pub(crate) async fn bind(&self, pod: &str) {
        self.bind_to(pod, "node").await;
    }

    /// Puts a pod onto a node of this name.
    pub(crate) async fn bind_to(&self, pod: &str, node: &str) {
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod}, "target": {"kind": "Node", "name": node}});
        let path = format!("/api/v1/namespaces/default/pods/{pod}/binding");
        let request = http::Request::post(path).body(serde_json::to_vec(&binding).unwrap()).unwrap();
        let _: Value = self.client.request(request).await.unwrap();
    }

    /// The node has ended the pod.
    pub(crate) async fn gone(&self, pod: &str) {
        self.delete("v1/Pod", pod, DeleteParams::default().grace_period(0)).await;
    }
}

/// The name of an object.
pub(crate) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

/// The names of dynamic objects, for `assert_eq!`.
pub(crate) fn names(objects: &[Value]) -> Vec<&str> {
    objects.iter().map(name).collect()
}
