//! The service proxy: on each node, what services promise becomes rules of nftables.
//!
//! `(services, endpoint slices, this node)` → [`model`] → [`ruleset`] → one transaction of `nft`, which is the difference to the rules
//! before. What doesn't live here: which pods stand behind a service (the endpoint slice controller), and names (DNS).

mod change;
mod model;
mod ruleset;

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kubelite_informer::{Informer, Key};
use ruleset::Ruleset;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Changes that come within this time go into one transaction.
const GATHER: Duration = Duration::from_millis(10);
/// Before a transaction that failed is tried again, as a whole.
const RETRY: Duration = Duration::from_secs(1);
/// Proxies that skip a service say so by this label (kube-proxy's).
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";

/// What the proxy is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Whose endpoints are local.
    pub node_name: String,
    /// Sockets of this node that answer only to what comes by way of a service (the node's DNS server).
    pub only_by_service: Vec<SocketAddrV4>,
}

/// Keeps the rules until `shutdown`, and then leaves them: connections and new ones go on as long as the endpoints live.
///
/// The caches are filled by the caller.
pub async fn run(
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    config: Config,
    shutdown: CancellationToken,
) -> Result<()> {
    let dirty = Arc::new(Notify::new());
    let (by_service, by_slice) = (dirty.clone(), dirty.clone());
    services.on_change(move |_| by_service.notify_one());
    slices.on_change(move |_| by_slice.notify_one());
    services.synced().await;
    slices.synced().await;
    let mut applied: Option<Ruleset> = None;
    loop {
        let wanted = rules(&services, &slices, &config.node_name);
        let text = match &applied {
            Some(before) => wanted.from(before),
            None => wanted.whole(&config.only_by_service),
        };
        let failed = match apply(text).await {
            Ok(()) => {
                applied = Some(wanted);
                false
            }
            Err(error) => {
                tracing::error!(
                    "services are not as they should be on this node: {error:#}; setting up all rules anew"
                );
                applied = None;
                true
            }
        };
        let next = async { if failed { tokio::time::sleep(RETRY).await } else { dirty.notified().await } };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = next => tokio::time::sleep(GATHER).await,
        }
    }
}

/// Takes all rules away.
pub fn cleanup() -> Result<()> {
    hostnet::nft::apply(&format!("table {0}\ndelete table {0}\n", ruleset::TABLE))
        .context("cannot remove the rules of services")
}

fn rules(services: &Informer<Service>, slices: &Informer<EndpointSlice>, node: &str) -> Ruleset {
    let mut by_service: BTreeMap<Key, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in slices.all() {
        if let Some(name) = slice.labels().get(model::SERVICE_LABEL) {
            let key = Key::new(slice.namespace().unwrap_or_default(), name);
            by_service.entry(key).or_default().push(slice);
        }
    }
    let ours = services.all().into_iter().filter(|service| !service.labels().contains_key(OTHER_PROXY));
    let ports: Vec<model::Port> = ours
        .flat_map(|service| {
            let slices = by_service.get(&Key::of(&*service)).map(Vec::as_slice).unwrap_or_default();
            model::ports(&service, slices, node)
        })
        .collect();
    Ruleset::new(ports.iter())
}

async fn apply(text: String) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let (started, bytes) = (Instant::now(), text.len());
    tokio::task::spawn_blocking(move || hostnet::nft::apply(&text)).await??;
    tracing::debug!(bytes, took = ?started.elapsed(), "rules of services applied");
    Ok(())
}
