//! The daemon: it wires lease, routes and data path, and keeps them so.
//!
//! ```text
//!  start: config → interface → network config → lease → device, socket, rules → subnet.env → ready
//!  then:  follow the others' leases │ renew the own one │ heal device, routes and rules │ until a signal
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use hostnet::Netlink;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::backend::carrier::Carrier;
use crate::config::Config;
use crate::config::network::NetworkConfig;
use crate::datapath::counters::Counters;
use crate::http::{self, Ready};
use crate::iface;
use crate::lease::etcd::Etcd;
use crate::lease::follow::{Follower, News};
use crate::lease::keeper::{Keeper, KeeperError, Owned, Settings};
use crate::lease::key::Lease;
use crate::lease::store::{Events, LeaseStore, StoreError};
use crate::masquerade::Rules;
use crate::subnet_env::{self, SubnetEnv};

/// Between two questions to an etcd that does not answer, at the most; a part of it is by chance.
const RETRY: Duration = Duration::from_secs(1);
/// A daemon that lost its lease may wait so long for another before it says so again.
const REACQUIRE: Duration = Duration::from_secs(2);

/// Runs until it is dropped; returns only with an error that a restart may mend.
pub async fn run(config: Config) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("flanneld makes a device, routes and rules: run it as root (or with CAP_NET_ADMIN as uid 0)");
    }
    let mut registry = Registry::default();
    let counters = Counters::register(&mut registry);
    let metrics = Metrics::register(&mut registry);
    let ready = Ready::default();
    if let Some(address) = config.healthz {
        let listener = http::listen(address).await?;
        tokio::spawn(http::serve(listener, ready.clone(), Arc::new(registry)));
    }
    let netlink = Netlink::connect()?;
    let external = iface::find(&netlink, &config.iface, config.public_ip).await?;
    tracing::info!(interface = external.link.name, address = %external.address, public = %external.public, "using interface");
    let store: Arc<dyn LeaseStore> = Arc::new(Etcd::connect(&config.etcd).await?);
    let network = network_config(store.as_ref()).await?;
    tracing::info!(network = %network.network, backend = ?network.backend, "found network config");

    let before = leases(store.as_ref(), &network).await;
    let carrier = Carrier::prepare(netlink, &network, external.clone(), counters, before).await?;
    let settings = Settings {
        network: network.clone(),
        public_ip: external.public,
        backend: carrier.advert(),
        ttl: config.lease_ttl,
        margin: config.renew_margin,
    };
    let keeper = Keeper::new(store.clone(), settings);
    let owned = acquire(&keeper, subnet_env::previous(&config.subnet_file)).await?;
    let mut node = Node { config, network, metrics, ready, carrier, store, keeper };
    node.settle(&owned).await?;
    node.keep(owned).await
}

/// The network's configuration; asked for until it is there.
async fn network_config(store: &dyn LeaseStore) -> Result<NetworkConfig> {
    let mut told = String::new();
    loop {
        let problem = match store.config().await {
            Ok(Some(text)) => return NetworkConfig::parse(&text).context("the network config in etcd cannot be used"),
            Ok(None) => "there is no network config in etcd yet: put {\"Network\":\"10.42.0.0/16\"} at <prefix>/config".to_owned(),
            Err(error) => error.to_string(),
        };
        if told != problem {
            tracing::warn!("couldn't fetch network config: {problem}");
            told = problem;
        }
        sleep(RETRY).await;
    }
}

/// The leases that are there now; asked for until they are told.
async fn leases(store: &dyn LeaseStore, network: &NetworkConfig) -> Vec<Lease> {
    let mut follower = Follower::new(network.clone());
    loop {
        match store.list().await {
            Ok(snapshot) => {
                follower.replace(&snapshot.records);
                return follower.leases().cloned().collect();
            }
            Err(error) => tracing::warn!("cannot list the leases: {error}"),
        }
        sleep(jittered(RETRY)).await;
    }
}

/// A lease; asked for until there is one. That all are taken may change, too.
async fn acquire(keeper: &Keeper, previous: Option<ipnetwork::Ipv4Network>) -> Result<Owned> {
    loop {
        match keeper.acquire(previous).await {
            Ok(owned) => {
                tracing::info!(subnet = %owned.lease.subnet, reserved = owned.reserved, "lease acquired");
                return Ok(owned);
            }
            Err(error @ KeeperError::OutOfSubnets) => {
                tracing::error!("{error}");
                sleep(REACQUIRE).await;
            }
            Err(error) => {
                tracing::warn!("failed to acquire a lease: {error}");
                sleep(jittered(RETRY)).await;
            }
        }
    }
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..1.0))
}

#[derive(Debug)]
struct Metrics {
    leases: Gauge,
    bad: Gauge,
    until: Gauge<f64, AtomicU64>,
}

impl Metrics {
    fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics {
            leases: Gauge::<i64, AtomicI64>::default(),
            bad: Gauge::default(),
            until: Gauge::default(),
        };
        registry.register(
            "flannel_leases",
            "Leases of the network, the own one included",
            metrics.leases.clone(),
        );
        registry.register(
            "flannel_bad_records",
            "Damaged records below the leases' prefix",
            metrics.bad.clone(),
        );
        registry.register(
            "flannel_lease_seconds",
            "Seconds for which the own lease is certainly ours",
            metrics.until.clone(),
        );
        metrics
    }
}

/// A node with a lease.
struct Node {
    config: Config,
    network: NetworkConfig,
    metrics: Metrics,
    ready: Ready,
    carrier: Carrier,
    store: Arc<dyn LeaseStore>,
    keeper: Keeper,
}

impl Node {
    /// Brings device, rules and subnet.env into the state that a lease asks for.
    async fn settle(&mut self, owned: &Owned) -> Result<()> {
        self.carrier.start(owned.lease.subnet).await?;
        let mtu = self.carrier.mtu();
        self.rules(owned).ensure(true)?;
        let env = SubnetEnv {
            network: self.network.network,
            subnet: owned.lease.subnet,
            mtu,
            ip_masq: self.config.ip_masq,
        };
        let path = &self.config.subnet_file;
        env.write(path).with_context(|| format!("cannot write {}", path.display()))?;
        tracing::info!(file = %path.display(), mtu, "wrote subnet file");
        Ok(())
    }

    fn rules(&self, owned: &Owned) -> Rules {
        Rules {
            network: self.network.network,
            subnet: owned.lease.subnet,
            masquerade: self.config.ip_masq,
            forward: self.config.forward_rules,
        }
    }

    /// Follows the others and keeps the own lease, for ever.
    async fn keep(&mut self, mut owned: Owned) -> Result<()> {
        loop {
            let mut follower = Follower::new(self.network.clone());
            match self.follow(&mut follower, &mut owned).await {
                // Lost: nothing is forwarded until there is another.
                Ended::Lost => {
                    self.ready.set(false);
                    tracing::warn!(subnet = %owned.lease.subnet, "the lease is lost; taking another");
                    if let Err(error) = self.carrier.withdraw(owned.lease.subnet).await {
                        tracing::error!("cannot take the routes away: {error:#}");
                    }
                    owned = acquire(&self.keeper, Some(owned.lease.subnet)).await?;
                    self.settle(&owned).await?;
                }
                Ended::Watch(error) => {
                    tracing::warn!("the watch ended ({error}); listing again");
                    sleep(jittered(RETRY)).await;
                }
            }
        }
    }

    /// One listing and the watch behind it. While etcd is away the routes stay as they are, as long as the own lease lasts.
    async fn follow(&mut self, follower: &mut Follower, owned: &mut Owned) -> Ended {
        let mut events: Option<Events> = None;
        let mut heal = Instant::now();
        loop {
            if events.is_none() {
                match timeout(RETRY * 5, self.subscribe(follower, owned)).await {
                    Ok(Ok(stream)) => events = Some(stream),
                    Ok(Err(error)) => tracing::warn!("cannot list the leases: {error}"),
                    Err(_) => tracing::warn!("etcd does not answer"),
                }
            }
            let pause = if events.is_some() { Duration::from_secs(3600) } else { jittered(RETRY) };
            let next = async {
                match events.as_mut() {
                    Some(events) => events.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                item = next => match item {
                    Some(Ok((changes, _))) => {
                        let news: Vec<News> = changes.iter().flat_map(|event| follower.apply(event)).collect();
                        if self.tell(&news, owned) {
                            return Ended::Lost;
                        }
                        self.publish(follower, owned).await;
                    }
                    Some(Err(error)) => return Ended::Watch(error),
                    None => return Ended::Watch(StoreError::Unavailable("the connection is gone".to_owned())),
                },
                () = wait_until(self.next_renewal(owned)) => match self.renew(owned).await {
                    Renewal::Lost => return Ended::Lost,
                    Renewal::Done | Renewal::Later => {}
                },
                () = wait_until(owned.safe_until()) => return Ended::Lost,
                () = sleep_until(heal) => {
                    self.heal(owned).await;
                    heal = Instant::now() + self.config.resync;
                }
                () = sleep(pause) => {}
            }
        }
    }

    async fn subscribe(&mut self, follower: &mut Follower, owned: &Owned) -> Result<Events, StoreError> {
        let snapshot = self.store.list().await?;
        let events = self.store.watch(snapshot.revision).await?;
        let news = follower.replace(&snapshot.records);
        self.tell(&news, owned);
        self.publish(follower, owned).await;
        self.ready.set(self.carrier.is_alive());
        Ok(events)
    }

    /// Logs the news; whether the own lease is among what is gone or somebody else's now.
    fn tell(&self, news: &[News], owned: &Owned) -> bool {
        let mut lost = false;
        for item in news {
            match item {
                News::Set(lease) if lease.subnet == owned.lease.subnet => {
                    lost |= lease.public_ip != owned.lease.public_ip;
                }
                News::Set(lease) => {
                    tracing::info!(subnet = %lease.subnet, via = %lease.public_ip, "subnet added");
                }
                News::Gone(lease) if lease.subnet == owned.lease.subnet => lost = true,
                News::Gone(lease) => {
                    tracing::info!(subnet = %lease.subnet, via = %lease.public_ip, "subnet removed");
                }
                News::Bad(key, error) => {
                    tracing::warn!(key, "a record under the leases is damaged and is left out: {error}");
                }
            }
        }
        lost
    }

    async fn publish(&mut self, follower: &Follower, owned: &Owned) {
        if let Err(error) = self.carrier.publish(owned.lease.subnet, &mut follower.leases()).await {
            tracing::error!("{error:#}");
        }
        self.metrics.leases.set(i64::try_from(follower.leases().count()).unwrap_or(i64::MAX));
        self.metrics.bad.set(i64::try_from(follower.bad_count()).unwrap_or(i64::MAX));
    }

    fn next_renewal(&self, owned: &Owned) -> Option<Instant> {
        let left = owned
            .safe_until()
            .map_or(f64::INFINITY, |until| until.saturating_duration_since(Instant::now()).as_secs_f64());
        self.metrics.until.set(left);
        self.keeper.due(owned)
    }

    async fn renew(&self, owned: &mut Owned) -> Renewal {
        match timeout(RETRY * 5, self.keeper.renew(owned)).await {
            Ok(Ok(Some(renewed))) => {
                *owned = renewed;
                Renewal::Done
            }
            Ok(Ok(None)) => Renewal::Lost,
            Ok(Err(error)) => {
                tracing::warn!("the lease cannot be renewed now: {error}");
                sleep(jittered(RETRY)).await;
                Renewal::Later
            }
            Err(_) => {
                tracing::warn!("the lease cannot be renewed now: etcd does not answer");
                Renewal::Later
            }
        }
    }

    /// Mends what somebody took away: device, address, routes, rules.
    async fn heal(&mut self, owned: &Owned) {
        let mended = self.carrier.mend(owned.lease.subnet).await;
        let mended = mended.and_then(|()| Ok(self.rules(owned).ensure(false)?));
        if let Err(error) = mended {
            tracing::error!("cannot mend the network: {error:#}");
        }
        self.ready.set(self.carrier.is_alive());
    }
}

async fn wait_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Why following ended.
enum Ended {
    /// The own lease is not ours any more.
    Lost,
    /// The watch broke.
    Watch(StoreError),
}

/// What became of a renewal.
enum Renewal {
    /// It is ours for another while.
    Done,
    /// It could not be asked.
    Later,
    /// It is not ours.
    Lost,
}
