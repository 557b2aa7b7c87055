//! The daemon: it wires lease, routes and data path, and keeps them so.
//!
//! ```text
//!  start: config → network config → interface → lease → device, socket, rules → subnet.env → ready
//!  then:  follow the others' leases │ renew the own one │ look after device, routes and rules │ until a signal
//! ```
//!
//! [`source`] is etcd or Kubernetes. [`feed`] and [`renewal`] ask it and never hold up the rest; [`keep`] is the loop over them; [`node`] is what a lease means
//! on this host. [`place`] is what only one flanneld of a host has, and [`succession`] how the next one gets it.

mod feed;
mod keep;
mod metrics;
mod node;
mod place;
mod renewal;
#[cfg(test)]
mod sim;
mod socket;
mod source;
mod succession;
mod told;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use hostnet::{Changes, Netlink};
use prometheus_client::registry::Registry;
use tokio::time::sleep;

use crate::backend::carrier::Carrier;
use crate::chance;
use crate::config::Config;
use crate::config::network::NetworkConfig;
use crate::datapath::counters::Meters;
use crate::family::{Dual, Family};
use crate::http::Ready;
use crate::iface::{self, Wanted};
use crate::lease::follow::Follower;
use crate::lease::holder;
use crate::lease::keeper::{KeeperError, Owned, Settings};
use crate::lease::observed::Health;
use crate::look::board::Board;
use crate::notify;
use crate::subnet_env;
use metrics::Metrics;
use node::Node;
use place::Place;
pub use socket::is_ready;
use source::{Source, Tenure};
use succession::{Predecessor, Request, Successor};
use told::Told;

/// Between two questions to an etcd that does not answer, at the most; a part of it is by chance.
const RETRY: Duration = Duration::from_secs(1);
/// So long one question may take; then etcd counts as silent.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries to get a lease while all are taken.
const REACQUIRE: Duration = Duration::from_secs(2);
/// Between two questions whether another host with the same address is alive; each is a write of both.
const RIVAL: Duration = Duration::from_secs(10);

/// Runs until it is dropped; returns only with an error that a restart may mend.
pub async fn run(config: Config) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("flanneld makes a device, routes and rules: run it as root (or with CAP_NET_ADMIN as uid 0)");
    }
    let mut predecessor = meet(&config).await?;
    loop {
        let successor = life(config.clone(), predecessor.take()).await?;
        tracing::info!("handed over; standing by until this process is ended, or the other one does");
        successor.gone().await;
        socket::vacant(&config.socket()).await?;
        tracing::warn!("the flanneld that had taken over is gone; taking its place");
    }
}

/// The flanneld that runs here, if this one is to take its place.
async fn meet(config: &Config) -> Result<Option<Predecessor>> {
    let path = config.socket();
    let Some(stream) = socket::connect(&path).await? else { return Ok(None) };
    if !config.take_over {
        let pid = stream.peer_cred()?.pid().filter(|pid| *pid != 0);
        bail!(
            "another flanneld{} runs on this host with the subnet file {}: end it first, or start this one with --take-over, \
             which takes its place without a gap",
            pid.map_or(String::new(), |pid| format!(" (process {pid})")),
            config.subnet_file.display()
        );
    }
    Ok(Some(Predecessor::new(stream)))
}

/// From the start until another process has the place.
async fn life(config: Config, mut predecessor: Option<Predecessor>) -> Result<Successor> {
    let mut registry = Registry::default();
    let meters = Meters::register(&mut registry);
    let health = Health::of(config.leases.manager());
    let metrics = Metrics::register(&mut registry, &health);
    let (ready, registry) = (Ready::default(), Arc::new(registry));
    let board = Board::new(config.subnet_file.clone(), meters.clone(), ready.clone(), health.clone());
    let start = start(&config, meters, (&board, health));
    let (mut place, mut started, inherited) = match &mut predecessor {
        None => {
            let mut place = Place::open(&config, &board, registry, None).await?;
            match place.unless_left(start).await {
                Ok(started) => (place, started?, None),
                Err(successor) => return Ok(successor),
            }
        }
        Some(predecessor) => {
            // The other one goes on meanwhile, however long it takes.
            let started = start.await?;
            let request = Request::new(config.healthz, started.carrier.wish());
            let mut inherited = match predecessor.ask(&request).await {
                Ok(inherited) => Some(inherited),
                Err(error) if socket::connect(&config.socket()).await?.is_some() => return Err(error),
                Err(_) => {
                    tracing::info!("the flanneld that ran here has ended by itself");
                    None
                }
            };
            let health = inherited.as_mut().and_then(|inherited| inherited.health.take());
            (Place::open(&config, &board, registry, health).await?, started, inherited)
        }
    };
    let tenure = started.tenure;
    let owned = inherited.as_ref().and_then(|it| tenure.adopt(it.lease.as_ref()?, it.asked));
    let predecessor = predecessor.filter(|_| inherited.is_some());
    started.carrier.inherit(inherited.and_then(|inherited| inherited.given));
    let owned = match owned {
        Some(owned) => owned,
        None => {
            let previous = subnet_env::previous(&config.subnet_file);
            let acquired = insist(async || tenure.acquire(previous).await);
            match place.unless_left(acquired).await {
                Ok(owned) => owned,
                Err(successor) => return Ok(successor),
            }
        }
    };
    let host = node::Host { config, changes: started.changes, network: started.network };
    let mut node = Node::new(host, started.carrier, tenure, (metrics, board), ready);
    node.settle(&owned, &started.follower).await?;
    notify::ready();
    node.tenure.announce();
    // For as long as this connection lasts the other one stands by.
    let _standing_by = match predecessor {
        Some(predecessor) => Some(predecessor.carrying().await?),
        None => None,
    };
    node.keep(owned, started.follower, &mut place).await
}

/// What there is before the lease.
struct Started {
    changes: Changes,
    network: NetworkConfig,
    follower: Follower,
    carrier: Carrier,
    tenure: Tenure,
}

async fn start(config: &Config, meters: Meters, (board, health): (&Board, Health)) -> Result<Started> {
    let netlink = Netlink::connect()?;
    let changes = Changes::listen()?;
    let source = Source::open(&config.leases, health).await?;
    let network = source.network().await?;
    tracing::info!(network = %network.networks(), backend = ?network.backend, "found network config");
    let families: Vec<Family> = network.pools.iter().map(|(family, _)| family).collect();
    let public = source.public(config).await;
    let wanted = Wanted { families: &families, public: &public, used: &Dual::default() };
    let external = iface::find(&netlink, &config.iface, &wanted).await?;
    tracing::info!(interface = external.link.name, address = %external.address, public = %external.public, "using interface");
    let follower = source.leases(&network, external.public).await;
    let known = follower.leases().cloned().collect();
    let datapath = (config.datapath, meters);
    let owner = config.owner(network.networks());
    let carrier = Carrier::prepare(netlink.clone(), &network, external.clone(), datapath, owner, known);
    let carrier = carrier.await?.with_blackhole(config.blackhole);
    board.netlink(netlink);
    board.facts(carrier.told());
    let settings = Settings {
        network: network.clone(),
        public: external.public,
        holder: holder::this_host(),
        machine: holder::this_machine(),
        backend: carrier.advert(),
        ttl: config.lease_ttl,
        margin: config.renew_margin,
    };
    Ok(Started { changes, network, follower, carrier, tenure: source.tenure(settings) })
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
                sleep(match error {
                    KeeperError::Rival { .. } => RIVAL,
                    KeeperError::OutOfSubnets(_) | KeeperError::Node(_) => REACQUIRE,
                    _ => jittered(RETRY),
                })
                .await;
            }
        }
    }
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(chance::factor(0.5..1.0))
}
