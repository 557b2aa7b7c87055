//! The daemon: it wires lease, routes and data path, and keeps them so.
//!
//! ```text
//!  start: config → network config → interface → lease → device, socket, rules → subnet.env → ready
//!  then:  follow the others' leases │ renew the own one │ look after device, routes and rules │ until a signal
//! ```
//!
//! [`feed`] and [`renewal`] ask etcd and never hold up the rest; [`keep`] is the loop over them; [`node`] is what a lease means
//! on this host.

mod feed;
mod keep;
mod metrics;
mod node;
mod renewal;
#[cfg(test)]
mod sim;
mod told;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hostnet::{Changes, Netlink};
use prometheus_client::registry::Registry;
use tokio::time::sleep;

use crate::backend::carrier::Carrier;
use crate::chance;
use crate::config::Config;
use crate::config::network::NetworkConfig;
use crate::datapath::counters::Meters;
use crate::family::Family;
use crate::http::{self, Ready};
use crate::iface;
use crate::lease::etcd::Etcd;
use crate::lease::follow::Follower;
use crate::lease::keeper::{Keeper, KeeperError, Owned, Settings};
use crate::lease::key::Lease;
use crate::lease::store::LeaseStore;
use crate::subnet_env;
use metrics::Metrics;
use node::Node;
use told::Told;

/// Between two questions to an etcd that does not answer, at the most; a part of it is by chance.
const RETRY: Duration = Duration::from_secs(1);
/// So long one question may take; then etcd counts as silent.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries to get a lease while all are taken.
const REACQUIRE: Duration = Duration::from_secs(2);

/// Runs until it is dropped; returns only with an error that a restart may mend.
pub async fn run(config: Config) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("flanneld makes a device, routes and rules: run it as root (or with CAP_NET_ADMIN as uid 0)");
    }
    let mut registry = Registry::default();
    let meters = Meters::register(&mut registry);
    let metrics = Metrics::register(&mut registry);
    let ready = Ready::default();
    if let Some(address) = config.healthz {
        let listener = http::listen(address).await?;
        tokio::spawn(http::serve(listener, ready.clone(), Arc::new(registry)));
    }
    let netlink = Netlink::connect()?;
    let changes = Changes::listen()?;
    let store: Arc<dyn LeaseStore> = Arc::new(Etcd::connect(&config.etcd).await?);
    let network = network_config(store.as_ref()).await?;
    tracing::info!(network = %network.networks(), backend = ?network.backend, "found network config");
    let families: Vec<Family> = network.pools.iter().map(|(family, _)| family).collect();
    let external = iface::find(&netlink, &config.iface, &config.public, &families).await?;
    tracing::info!(interface = external.link.name, address = %external.address, public = %external.public, "using interface");

    let before = leases(store.as_ref(), &network).await;
    let carrier =
        Carrier::prepare(netlink, &network, external.clone(), (config.datapath, meters), before).await?;
    let settings = Settings {
        network: network.clone(),
        public: external.public,
        backend: carrier.advert(),
        ttl: config.lease_ttl,
        margin: config.renew_margin,
    };
    let keeper = Keeper::new(store.clone(), settings);
    let previous = subnet_env::previous(&config.subnet_file);
    let owned = insist(async || keeper.acquire(previous).await).await;
    let host = node::Host { config, changes, network };
    let mut node = Node::new(host, carrier, metrics, ready);
    node.settle(&owned).await?;
    node.keep(store, keeper, owned).await
}

/// The network's configuration; asked for until it is there.
async fn network_config(store: &dyn LeaseStore) -> Result<NetworkConfig> {
    let mut told = Told::default();
    loop {
        let problem = match store.config().await {
            Ok(Some(text)) => {
                let network = NetworkConfig::parse(&text).and_then(NetworkConfig::require_ipv4);
                let network = network.context("the network config in etcd cannot be used")?;
                if network.pools.v6.is_some() {
                    bail!("the network config's EnableIPv6: IPv6 is not there yet; leave it out");
                }
                return Ok(network);
            }
            Ok(None) => "there is no network config in etcd yet: put {\"Network\":\"10.42.0.0/16\"} at <prefix>/config".to_owned(),
            Err(error) => error.to_string(),
        };
        told.once(&problem, |problem| tracing::warn!("couldn't fetch network config: {problem}"));
        sleep(RETRY).await;
    }
}

/// The leases that are there now; asked for until they are told.
async fn leases(store: &dyn LeaseStore, network: &NetworkConfig) -> Vec<Lease> {
    let mut follower = Follower::new(network.clone());
    let mut told = Told::default();
    loop {
        match store.list().await {
            Ok(snapshot) => {
                follower.replace(&snapshot.records);
                return follower.leases().cloned().collect();
            }
            Err(error) => told.once(&error, |error| tracing::warn!("cannot list the leases: {error}")),
        }
        sleep(jittered(RETRY)).await;
    }
}

/// A lease; asked for until there is one. That all are taken may change, too.
async fn insist(ask: impl AsyncFn() -> Result<Owned, KeeperError>) -> Owned {
    let mut told = Told::default();
    loop {
        match ask().await {
            Ok(owned) => {
                tracing::info!(subnet = %owned.lease.subnets, reserved = owned.reserved, "lease acquired");
                return owned;
            }
            Err(error) => {
                told.once(&error, |error| tracing::error!("failed to acquire a lease: {error}"));
                let taken = matches!(error, KeeperError::OutOfSubnets(_));
                sleep(if taken { REACQUIRE } else { jittered(RETRY) }).await;
            }
        }
    }
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(chance::factor(0.5..1.0))
}
