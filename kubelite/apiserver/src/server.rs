//! The API server as a whole: made from a storage and the cluster's keys; yields a router and in-process clients.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use kube::Client;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::auth::{Objects, policy};
use crate::cache::Caches;
use crate::client::in_process_client;
use crate::custom::names;
use crate::http::{Front, router};
use crate::parts::{Keys, Parts};
use crate::registry::{Leases, Registry};
use crate::request::UserInfo;
use crate::storage::StorageHandle;
use crate::strategy::Allocator;
use crate::{resources, system};

/// What an API server is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The service network: address and prefix length.
    pub service_network: (Ipv4Addr, u8),
    /// The ports that services of type NodePort get.
    pub node_ports: std::ops::RangeInclusive<u16>,
    /// Where it is reached, for the endpoints of the service `kubernetes`.
    pub advertise: (IpAddr, u16),
}

/// A running API server. Cheap to clone.
#[derive(Clone)]
pub struct ApiServer {
    router: Router,
}

impl ApiServer {
    /// Fills the caches, and makes what every cluster has: system namespaces, the bootstrap policy, the service `kubernetes`.
    pub async fn start(
        config: Config,
        storage: StorageHandle,
        keys: &Keys,
        shutdown: CancellationToken,
    ) -> anyhow::Result<ApiServer> {
        let caches =
            Caches::start(storage.clone(), shutdown.clone()).await.context("the store cannot be read")?;
        let objects: Arc<dyn Objects> = Arc::new(View(caches.clone()));
        let parts = Parts::new(&objects, keys)?;
        let allocator = Allocator::new(caches.clone(), config.service_network, config.node_ports.clone());
        let compactor = crate::compaction::run(storage.clone(), caches.clone());
        tokio::spawn(async move {
            tokio::select! { () = shutdown.cancelled() => {}, () = compactor => {} }
        });
        let registry = Registry {
            storage,
            caches,
            allocator,
            leases: Leases::default(),
            admission: parts.admission.clone(),
        };
        let front = Arc::new(Front { registry, parts });
        tokio::spawn(names::run(Arc::downgrade(&front)));
        let server = ApiServer { router: router(&front) };
        let client = server.client(UserInfo::new("system:apiserver", &["system:masters"]));
        system::namespaces(&client).await.context("the system namespaces cannot be made")?;
        policy::reconcile(&client).await.context("the bootstrap policy cannot be written")?;
        system::kubernetes_service(&client, &config)
            .await
            .context("the service kubernetes cannot be made")?;
        Ok(server)
    }

    /// The router over everything; requests from a socket pass it with their peer's identity (see `serve`).
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// A client inside of this process, under a name of its own, authorised and admitted like any other.
    pub fn client(&self, user: UserInfo) -> Client {
        in_process_client(self.router.clone(), user)
    }
}

/// The cache as authentication, authorisation and admission see it.
struct View(Arc<Caches>);

impl Objects for View {
    fn list(&self, resource: &str, namespace: &str) -> Vec<Arc<Value>> {
        let Some(resource) = resources::by_plural(resource) else { return Vec::new() };
        let prefix = if namespace.is_empty() { resource.key_prefix() } else { resource.key(namespace, "") };
        self.0.of(resource).list(&prefix).iter().map(|entry| entry.value()).collect()
    }

    fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let resource = resources::by_plural(resource)?;
        self.0.of(resource).get(&resource.key(namespace, name)).map(|entry| entry.value())
    }
}
