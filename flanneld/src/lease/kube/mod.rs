//! Subnets from Kubernetes: nobody takes or renews anything. Each node's part of the pods' network is its `spec.podCIDR`, its annotations say
//! how it is reached, and a watch of the nodes tells of the others.
//!
//! - [`annotations`] and [`node`]: what stands on a node object. [`book`]: all nodes, told as the records that etcd would hold, so that who
//!   follows them need not know where they come from. All of it pure.
//! - [`connect`]: the way to the API server. [`watch`]: changes of nodes, as long as the server remembers them.
//!
//! All that flanneld knows of Kubernetes is here.

pub mod annotations;
pub mod book;
mod connect;
pub mod node;
#[cfg(test)]
mod tests;
mod watch;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::core::Request;
use kube::core::params::{GetParams, ListParams, Patch, PatchParams};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;

use self::annotations::Annotations;
use self::book::Book;
use self::node::Node;
use super::Lease;
use super::keeper::{KeeperError, Owned, Settings};
use super::observed::Health;
use super::store::{Events, Record, Snapshot, StoreError};
use crate::family::Dual;

/// How long one request may take, a page of a listing too.
const REQUEST: Duration = Duration::from_secs(10);
/// Nodes of one page of a listing: a node object has some ten kilobytes.
const PAGE: u32 = 250;

/// How the API server is reached, and what is done there.
#[derive(Debug, Clone)]
pub struct Access {
    /// `--kube-api-url`; empty if it is not given.
    pub url: String,
    /// `--kubeconfig-file`; empty if it is not given.
    pub kubeconfig: String,
    /// The annotations' names.
    pub annotations: Annotations,
    /// Which node this is.
    pub node: Name,
    /// The file with the network's configuration.
    pub net_config: PathBuf,
    /// Whether the node's condition NetworkUnavailable is set to False.
    pub set_network_unavailable: bool,
    /// Changes that are taken over at once, at the most (`EVENT_QUEUE_DEPTH`).
    pub batch: usize,
    /// Whether to begin without the others if they can't be listed for [`SYNC`] (`CONT_WHEN_CACHE_NOT_READY`).
    pub begin_alone: bool,
}

/// So long the first listing is waited for, as in flannel; only then [`Access::begin_alone`] counts.
pub const SYNC: Duration = Duration::from_secs(600);

/// Which node this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// `NODE_NAME`.
    Node(String),
    /// The one on which this pod runs: `POD_NAMESPACE` and `POD_NAME`.
    OfPod(String, String),
}

/// The nodes of the cluster, and which of them this is.
#[derive(Clone)]
pub struct Nodes(Arc<Inner>);

struct Inner {
    client: Client,
    access: Access,
    own: String,
    health: Health,
}

#[derive(Debug, Deserialize)]
struct List {
    metadata: ListMetadata,
    #[serde(default)]
    items: Vec<Node>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    token: String,
}

impl Nodes {
    /// A client; that the server answers is not asked.
    ///
    /// # Errors
    /// If flags, files or the service account don't say how to reach it.
    pub async fn client(access: &Access) -> anyhow::Result<Client> {
        connect::client(&access.url, &access.kubeconfig).await
    }

    /// The nodes, once it is known which of them this is; how the server answers is noted.
    pub async fn open(client: Client, access: Access, health: Health) -> Result<Nodes, StoreError> {
        let own = match &access.node {
            Name::Node(name) => name.clone(),
            Name::OfPod(namespace, pod) => {
                let pods = Request::new(format!("/api/v1/namespaces/{namespace}/pods"));
                let request = pods.get(pod, &GetParams::default()).map_err(|error| problem(&error))?;
                let object: Value = ask(&client, request, &health).await?;
                let name = object.pointer("/spec/nodeName").and_then(Value::as_str);
                let none = || StoreError::Unavailable(format!("pod {namespace}/{pod} is on no node yet"));
                name.map(str::to_owned).ok_or_else(none)?
            }
        };
        Ok(Nodes(Arc::new(Inner { client, access, own, health })))
    }

    /// The name of this node.
    pub fn own_name(&self) -> &str {
        &self.0.own
    }

    /// Where its network's configuration is, and the rest of what was asked for.
    pub fn access(&self) -> &Access {
        &self.0.access
    }

    /// The addresses that a person gave this node by annotations.
    pub async fn public(&self) -> Result<Dual<IpAddr>, KeeperError> {
        Ok(self.own_node().await?.public(&self.0.access.annotations)?)
    }

    /// What this node said the last time, if it did, under the addresses that it has now.
    pub async fn own_record(&self, public: Dual<IpAddr>) -> Result<Option<Record>, StoreError> {
        let record = self.own_node().await?.record(&self.0.access.annotations);
        Ok(record.map(|record| match Lease::decode(&record.key, &record.value) {
            Ok(lease) => Record { value: Lease { public, ..lease }.encode().into_bytes(), ..record },
            Err(_) => record,
        }))
    }

    /// All nodes on which flannel runs, and what changes there from then on.
    pub async fn subscribe(&self) -> Result<(Snapshot, Events), StoreError> {
        let (book, version) = self.list().await?;
        let snapshot = Snapshot { records: book.records(), revision: revision(&version) };
        Ok((snapshot, watch::changes(self.clone(), book, version)))
    }

    /// This node alone, for whom the others don't matter: somebody else carries the packets.
    pub async fn subscribe_alone(&self) -> Result<(Snapshot, Events), StoreError> {
        let node = self.own_node().await?;
        let records = node.record(&self.0.access.annotations).into_iter().collect();
        let revision = revision(&node.metadata.resource_version);
        Ok((Snapshot { records, revision }, futures::stream::pending().boxed()))
    }

    /// All nodes, and the version of this listing.
    pub async fn list(&self) -> Result<(Book, String), StoreError> {
        let mut book = Book::new(self.0.access.annotations.clone());
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let request = nodes().list(&params).map_err(|error| problem(&error))?;
            let page: List = self.ask(request).await?;
            for node in &page.items {
                book.put(node);
            }
            if page.metadata.token.is_empty() {
                return Ok((book, page.metadata.resource_version));
            }
            params = params.continue_token(&page.metadata.token);
        }
    }

    /// Takes what the node was given, and tells the others how it is reached.
    pub async fn acquire(&self, settings: &Settings) -> Result<Owned, KeeperError> {
        let (node, names) = (self.own_node().await?, &self.0.access.annotations);
        let backend = settings.backend.clone();
        let lease = node.own(names, &settings.network, &settings.public, backend)?;
        let version = match node.patch(names, &lease) {
            Some(patch) => self.patch(&patch).await?.metadata.resource_version,
            None => node.metadata.resource_version,
        };
        Ok(Owned::assigned(lease, revision(&version)))
    }

    /// Says that the node's network is there, where that is asked for.
    pub async fn announce(&self) -> Result<(), StoreError> {
        if !self.0.access.set_network_unavailable {
            return Ok(());
        }
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition = json!({
            "type": "NetworkUnavailable", "status": "False", "reason": "FlannelIsUp",
            "message": "Flannel is running on this node", "lastHeartbeatTime": now, "lastTransitionTime": now,
        });
        self.patch(&json!({ "status": { "conditions": [condition] } })).await.map(drop)
    }

    async fn own_node(&self) -> Result<Node, StoreError> {
        let request = nodes().get(&self.0.own, &GetParams::default()).map_err(|error| problem(&error))?;
        self.ask(request).await
    }

    /// By way of the status, for which flannel has the right.
    async fn patch(&self, patch: &Value) -> Result<Node, StoreError> {
        let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
        let request = nodes().patch_subresource("status", &self.0.own, &params, &patch);
        self.ask(request.map_err(|error| problem(&error))?).await
    }

    async fn ask<T: DeserializeOwned>(&self, request: hyper::Request<Vec<u8>>) -> Result<T, StoreError> {
        ask(&self.0.client, request, &self.0.health).await
    }
}

/// A version as a number: it is one, the order of changes, in all API servers over etcd (KEP-5504). Another counts as the newest.
fn revision(version: &str) -> i64 {
    version.parse().unwrap_or(i64::MAX)
}

fn nodes() -> Request {
    Request::new("/api/v1/nodes")
}

async fn ask<T: DeserializeOwned>(
    client: &Client,
    request: hyper::Request<Vec<u8>>,
    health: &Health,
) -> Result<T, StoreError> {
    let answer = async {
        match timeout(REQUEST, client.request(request)).await {
            Ok(answer) => answer.map_err(|error| match error {
                // A page's token, or a version, that is too old.
                kube::Error::Api(status) if status.code == 410 => StoreError::Compacted,
                other => problem(&other),
            }),
            Err(_) => Err(StoreError::Unavailable("the API server does not answer".to_owned())),
        }
    };
    health.note(answer).await
}

fn problem(error: &dyn std::error::Error) -> StoreError {
    let mut text = format!("the API server: {error}");
    // An error of the connection names its cause only further down.
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(&format!(": {more}"));
        }
        cause = error.source();
    }
    if text.contains("forbidden") {
        text.push_str("; flannel needs get on pods, get, list and watch on nodes, and patch on nodes/status");
    }
    StoreError::Unavailable(text)
}
