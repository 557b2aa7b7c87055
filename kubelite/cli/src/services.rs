//! Services on a node: the proxy and the DNS server, over the same caches.

use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use kubelite_informer::Informer;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::dns;
use crate::node::Identity;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Runs until `shutdown`; the proxy's rules stay, so that connections go on.
pub async fn run(
    client: Client,
    identity: &Identity,
    domain: String,
    shutdown: CancellationToken,
) -> Result<()> {
    let services = watch(&client, &shutdown);
    let slices = watch(&client, &shutdown);
    let listen = SocketAddr::new(identity.ip, dns::PORT);
    let own = match listen {
        SocketAddr::V4(own) => Some(own),
        SocketAddr::V6(_) => None,
    };
    let proxy = kubelite_proxy::Config {
        node_name: identity.name.clone(),
        only_by_service: own.into_iter().collect(),
    };
    let proxy = kubelite_proxy::run(services.clone(), slices.clone(), proxy, shutdown.clone());
    let names = kubelite_dns::Config { listen, domain, upstreams: upstreams(RESOLV_CONF) };
    let names = kubelite_dns::run(services, slices, names, shutdown);
    tokio::try_join!(async { proxy.await.context("the service proxy ended") }, async {
        names.await.context("the DNS server ended")
    },)
    .map(drop)
}

/// The host's own resolvers; none is no error, as a cluster may have no outside.
fn upstreams(path: &str) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok());
    servers.map(|ip: IpAddr| SocketAddr::new(ip, 53)).collect()
}

/// A cache of a kind, filled until `shutdown`.
pub fn watch<K>(client: &Client, shutdown: &CancellationToken) -> Informer<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let informer = Informer::default();
    let filled = informer.clone().run(Api::all(client.clone()), watcher::Config::default(), shutdown.clone());
    tokio::spawn(filled);
    informer
}
