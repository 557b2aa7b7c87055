//! What a lease means on this host: a device, a socket, routes, rules and subnet.env, and that they stay.

use anyhow::{Context, Result};
use hostnet::Changes;
use tokio::time::Instant;

use super::metrics::Metrics;
use super::place::Place;
use super::succession::Successor;
use super::told::Told;
use crate::backend::carrier::Carrier;
use crate::config::Config;
use crate::config::network::NetworkConfig;
use crate::http::Ready;
use crate::lease::follow::Follower;
use crate::lease::keeper::Owned;
use crate::masquerade::{Guard, Rules};
use crate::subnet_env::SubnetEnv;

/// What does not change while the daemon runs.
pub(super) struct Host {
    pub(super) config: Config,
    pub(super) changes: Changes,
    pub(super) network: NetworkConfig,
}

/// A host with a lease.
pub(super) struct Node {
    host: Host,
    carrier: Carrier,
    metrics: Metrics,
    ready: Ready,
    rules: Guard,
    /// When everything is looked at, whether somebody told of a change or not.
    whole_look: Instant,
    told: Told,
}

impl Node {
    pub(super) fn new(host: Host, carrier: Carrier, metrics: Metrics, ready: Ready) -> Node {
        Node {
            host,
            carrier,
            metrics,
            ready,
            rules: Guard::default(),
            whole_look: Instant::now(),
            told: Told::default(),
        }
    }

    /// Brings device, rules and subnet.env into the state that a lease asks for.
    pub(super) async fn settle(&mut self, owned: &Owned, follower: &Follower) -> Result<()> {
        // Before anything is carried: a data path without routes would drop what waits for it.
        self.publish(follower, owned).await;
        self.carrier.start(owned.lease.subnet).await?;
        let mtu = self.carrier.mtu();
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
        self.ready.set(self.carrier.is_alive());
        Ok(())
    }

    /// Lets another process take the place; whether it carries packets now. If not, all goes on here.
    pub(super) async fn hand_over(
        &mut self,
        place: &mut Place,
        successor: &mut Successor,
        owned: &Owned,
    ) -> bool {
        let descriptors = self.carrier.pass_on(successor.request.carrier.as_ref());
        place.leave(successor, Some(owned.pass()), &descriptors).await
    }

    /// Forwards nothing until there are routes again.
    pub(super) async fn stand_still(&mut self, lost: &Owned) {
        self.ready.set(false);
        if let Err(error) = self.carrier.withdraw(lost.lease.subnet).await {
            tracing::error!("cannot take the routes away: {error:#}");
        }
    }

    /// Hands the picture of the leases to what carries packets, for as long as the own one is certainly ours.
    pub(super) async fn publish(&mut self, follower: &Follower, owned: &Owned) {
        self.metrics.leases.set(i64::try_from(follower.leases().count()).unwrap_or(i64::MAX));
        self.metrics.bad.set(i64::try_from(follower.bad_count()).unwrap_or(i64::MAX));
        self.ready.set(self.carrier.is_alive());
        // An earlier lease of this host leads nowhere: what is sent there is refused, not sent to ourselves.
        let others = follower.leases().filter(|lease| !owned.is_of(lease.public_ip));
        let until = owned.safe_until().map(Instant::into_std);
        if let Err(error) = self.carrier.publish(owned.lease.subnet, others, until).await {
            let error = format!("{error:#}");
            self.told.once(&error, |error| tracing::error!("{error}"));
        }
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
        if changed || !self.carrier.is_alive() || now >= self.whole_look {
            self.whole_look = now + self.host.config.resync;
            mended = self.mend_carrier(owned).await;
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

    async fn mend_carrier(&mut self, owned: &Owned) -> Result<()> {
        let mended = self.carrier.mend(owned.lease.subnet).await;
        self.ready.set(self.carrier.is_alive());
        mended
    }

    fn mend_rules(&mut self, owned: &Owned) -> Result<()> {
        if self.rules.ensure(&self.wanted_rules(owned))? {
            self.metrics.mended.inc();
            tracing::warn!("somebody changed flannel's rules; they are put back");
        }
        Ok(())
    }

    fn wanted_rules(&self, owned: &Owned) -> Rules {
        Rules {
            network: self.host.network.network,
            subnet: owned.lease.subnet,
            masquerade: self.host.config.ip_masq,
            random_ports: self.host.config.random_ports,
            forward: self.host.config.forward_rules,
        }
    }
}
