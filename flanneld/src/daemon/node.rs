//! What a lease means on this host: a device, a socket, routes, rules and subnet.env, and that they stay.

use std::net::SocketAddrV4;

use anyhow::{Context, Result};
use hostnet::{Changes, Netlink};
use tokio::time::Instant;

use super::metrics::Metrics;
use super::told::Told;
use crate::backend::{BackendKind, udp};
use crate::config::Config;
use crate::config::network::NetworkConfig;
use crate::datapath::counters::Counters;
use crate::datapath::engine::Engine;
use crate::http::Ready;
use crate::iface::External;
use crate::lease::follow::Follower;
use crate::lease::keeper::Owned;
use crate::masquerade::{Guard, Rules};
use crate::route::{Handle, Table};
use crate::subnet_env::SubnetEnv;

/// What does not change while the daemon runs.
pub(super) struct Host {
    pub(super) config: Config,
    pub(super) netlink: Netlink,
    pub(super) changes: Changes,
    pub(super) external: External,
    pub(super) network: NetworkConfig,
}

/// A host with a lease.
pub(super) struct Node {
    host: Host,
    routes: Handle,
    counters: (Counters, Counters),
    metrics: Metrics,
    ready: Ready,
    engine: Option<Engine>,
    rules: Guard,
    /// When everything is looked at, whether somebody told of a change or not.
    whole_look: Instant,
    told: Told,
}

impl Node {
    pub(super) fn new(host: Host, counters: (Counters, Counters), metrics: Metrics, ready: Ready) -> Node {
        Node {
            host,
            routes: Handle::default(),
            counters,
            metrics,
            ready,
            engine: None,
            rules: Guard::default(),
            whole_look: Instant::now(),
            told: Told::default(),
        }
    }

    pub(super) fn network(&self) -> &NetworkConfig {
        &self.host.network
    }

    /// Brings device, rules and subnet.env into the state that a lease asks for.
    pub(super) async fn settle(&mut self, owned: &Owned) -> Result<()> {
        self.engine = None;
        let mut mtu = self.host.external.link.mtu;
        if let Some(backend) = self.udp(owned) {
            mtu = backend.mtu();
            self.start(&backend).await?;
        }
        self.rules.put(&self.wanted_rules(owned))?;
        let env = SubnetEnv {
            network: self.host.network.network,
            subnet: owned.lease.subnet,
            mtu,
            ip_masq: self.host.config.ip_masq,
        };
        let path = &self.host.config.subnet_file;
        env.write(path).with_context(|| format!("cannot write {}", path.display()))?;
        tracing::info!(file = %path.display(), mtu, "wrote subnet file");
        Ok(())
    }

    /// Forwards nothing until there are routes again.
    pub(super) fn stand_still(&self) {
        self.ready.set(false);
        self.routes.publish(Table::default());
    }

    /// Hands the picture of the leases to the data path, for as long as the own one is certainly ours.
    pub(super) fn publish(&self, follower: &Follower, owned: &Owned) {
        self.metrics.leases.set(i64::try_from(follower.leases().count()).unwrap_or(i64::MAX));
        self.metrics.bad.set(i64::try_from(follower.bad_count()).unwrap_or(i64::MAX));
        self.ready.set(self.is_carrying());
        let BackendKind::Udp { port } = self.host.network.backend else { return };
        // An earlier lease of this host leads nowhere: what is sent there is refused, not sent to ourselves.
        let others = follower.leases().filter(|lease| lease.public_ip != owned.lease.public_ip);
        let peers = others.map(|lease| (lease.subnet, SocketAddrV4::new(lease.public_ip, port)));
        let table = Table::new(Some(owned.lease.subnet), peers);
        self.routes.publish(table.valid_until(owned.safe_until().map(Instant::into_std)));
    }

    /// Looks whether somebody took something away, and mends it. The kernel tells of links, addresses and routes that changed; of
    /// rules it is asked.
    pub(super) async fn look(&mut self, owned: &Owned) {
        let now = Instant::now();
        let left = owned.safe_until().map(|until| until.saturating_duration_since(now).as_secs_f64());
        self.metrics.until.set(left.unwrap_or(f64::INFINITY));
        // Asked in any case: what was told of until now is looked at now.
        let changed = self.host.changes.any();
        let mut mended = Ok(());
        if changed || !self.is_carrying() || now >= self.whole_look {
            self.whole_look = now + self.host.config.resync;
            mended = self.mend_device(owned).await;
        }
        let mended = mended.and_then(|()| self.mend_rules(owned));
        match mended {
            Ok(()) => self.told.over(),
            Err(error) => {
                let error = format!("{error:#}");
                self.told.once(&error, |error| tracing::error!("cannot mend the network: {error}"));
            }
        }
    }

    async fn mend_device(&mut self, owned: &Owned) -> Result<()> {
        let Some(backend) = self.udp(owned) else { return Ok(()) };
        if self.is_carrying() {
            return backend.ensure(&self.host.netlink).await;
        }
        self.ready.set(false);
        tracing::warn!("the data path ended; starting it again");
        self.engine = None;
        self.start(&backend).await?;
        self.ready.set(true);
        Ok(())
    }

    fn mend_rules(&mut self, owned: &Owned) -> Result<()> {
        if self.rules.ensure(&self.wanted_rules(owned))? {
            self.metrics.mended.inc();
            tracing::warn!("somebody changed flannel's rules; they are put back");
        }
        Ok(())
    }

    async fn start(&mut self, backend: &udp::Settings) -> Result<()> {
        let engine = backend.start(&self.host.netlink, self.routes.clone(), self.counters.clone()).await?;
        self.engine = Some(engine);
        Ok(())
    }

    /// Whether packets are carried here, or somebody else does it (the backend alloc).
    fn is_carrying(&self) -> bool {
        let ours = matches!(self.host.network.backend, BackendKind::Udp { .. });
        !ours || self.engine.as_ref().is_some_and(Engine::is_alive)
    }

    fn udp(&self, owned: &Owned) -> Option<udp::Settings> {
        let BackendKind::Udp { port } = self.host.network.backend else { return None };
        let (network, subnet) = (self.host.network.network, owned.lease.subnet);
        Some(udp::Settings { network, subnet, external: self.host.external.clone(), port })
    }

    fn wanted_rules(&self, owned: &Owned) -> Rules {
        Rules {
            network: self.host.network.network,
            subnet: owned.lease.subnet,
            masquerade: self.host.config.ip_masq,
            forward: self.host.config.forward_rules,
        }
    }
}
