//! The daemon: it wires lease, routes and data path, and keeps them so.
//!
//! ```text
//!  start: config → interface → network config → lease → device, socket, rules → subnet.env → ready
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

use std::path::Path;
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
use crate::control;
use crate::datapath::counters::Meters;
use crate::http::{self, Ready};
use crate::iface::{self, External};
use crate::lease::etcd::Etcd;
use crate::lease::follow::Follower;
use crate::lease::keeper::{Keeper, KeeperError, Owned, Settings};
use crate::lease::key::Lease;
use crate::lease::observed::{Health, Observed};
use crate::lease::store::LeaseStore;
use crate::look::board::Board;
use crate::look::status::Interface;
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
    let health = Health::default();
    let metrics = Metrics::register(&mut registry, &health);
    let ready = Ready::default();
    let board = Board::new(config.subnet_file.clone(), meters.clone(), ready.clone(), health.clone());
    tell_who_asks(&control::path(&config.subnet_file), &board);
    if let Some(address) = config.healthz {
        let listener = http::listen(address).await?;
        tokio::spawn(http::serve(listener, ready.clone(), Arc::new(registry)));
    }
    let netlink = Netlink::connect()?;
    let changes = Changes::listen()?;
    let external = iface::find(&netlink, &config.iface, config.public_ip).await?;
    tracing::info!(interface = external.link.name, address = %external.address, public = %external.public, "using interface");
    let etcd: Arc<dyn LeaseStore> = Arc::new(Etcd::connect(&config.etcd).await?);
    let store: Arc<dyn LeaseStore> = Arc::new(Observed::new(etcd, health));
    let network = network_config(store.as_ref()).await?;
    tracing::info!(network = %network.network, backend = ?network.backend, "found network config");

    let before = leases(store.as_ref(), &network).await;
    let carrier =
        Carrier::prepare(netlink.clone(), &network, external.clone(), (config.datapath, meters), before)
            .await?;
    board.facts(interface(&external), carrier.told(), netlink);
    let settings = Settings {
        network: network.clone(),
        public_ip: external.public,
        backend: carrier.advert(),
        ttl: config.lease_ttl,
        margin: config.renew_margin,
    };
    let keeper = Keeper::new(store.clone(), settings);
    let previous = subnet_env::previous(&config.subnet_file);
    let owned = insist(async || keeper.acquire(previous).await).await;
    let host = node::Host { config, changes, network };
    let mut node = Node::new(host, carrier, (metrics, board), ready);
    node.settle(&owned).await?;
    node.keep(store, keeper, owned).await
}

/// Opens the control socket. Packets are carried without it, too.
fn tell_who_asks(path: &Path, board: &Board) {
    let board = board.clone();
    match control::listen(path) {
        Ok(listener) => {
            tokio::spawn(control::serve(listener, move |request| board.clone().answer(request)));
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), "flanneld status will not work: cannot make its socket: {error}");
        }
    }
}

fn interface(external: &External) -> Interface {
    Interface {
        name: external.link.name.clone(),
        index: external.link.index,
        address: external.address,
        public_ip: external.public,
        mtu: external.link.mtu,
    }
}

/// The network's configuration; asked for until it is there.
async fn network_config(store: &dyn LeaseStore) -> Result<NetworkConfig> {
    let mut told = Told::default();
    loop {
        let problem = match store.config().await {
            Ok(Some(text)) => return NetworkConfig::parse(&text).context("the network config in etcd cannot be used"),
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
                tracing::info!(subnet = %owned.lease.subnet, reserved = owned.reserved, "lease acquired");
                return owned;
            }
            Err(error) => {
                told.once(&error, |error| tracing::error!("failed to acquire a lease: {error}"));
                let taken = matches!(error, KeeperError::OutOfSubnets);
                sleep(if taken { REACQUIRE } else { jittered(RETRY) }).await;
            }
        }
    }
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(chance::factor(0.5..1.0))
}
