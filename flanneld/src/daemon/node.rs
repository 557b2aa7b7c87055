//! What a lease means on this host: a device, a socket, routes, rules and subnet.env, and that they stay.

use anyhow::{Context, Result};
use hostnet::Changes;
use tokio::time::Instant;

use super::metrics::Metrics;
use super::place::Place;
use super::source::Tenure;
use super::succession::Successor;
use super::told::Told;
use crate::backend::carrier::Carrier;
use crate::config::Config;
use crate::config::network::NetworkConfig;
use crate::http::Ready;
use crate::lease::follow::Follower;
use crate::lease::keeper::Owned;
use crate::look::board::Board;
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
    pub(super) tenure: Tenure,
    metrics: Metrics,
    board: Board,
    ready: Ready,
    rules: Guard,
    /// When everything is looked at, whether somebody told of a change or not.
    whole_look: Instant,
    told: Told,
    interface: Told,
}

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// The host is where it was.
    Same,
    /// It is reached elsewhere now.
    Moved,
}

impl Node {
    pub(super) fn new(
        host: Host,
        carrier: Carrier,
        tenure: Tenure,
        (metrics, board): (Metrics, Board),
        ready: Ready,
    ) -> Node {
        Node {
            host,
            carrier,
            tenure,
            metrics,
            board,
            ready,
            rules: Guard::default(),
            whole_look: Instant::now(),
            told: Told::default(),
            interface: Told::default(),
        }
    }

    /// Notes how long it took until packets went by some news.
    pub(super) fn converged(&self, since: Instant) {
        self.metrics.convergence.observe(since.elapsed().as_secs_f64());
    }

    /// Begins to carry packets for a lease.
    pub(super) async fn settle(&mut self, owned: &Owned, follower: &Follower) -> Result<()> {
        // Before anything is carried: a data path without routes would drop what waits for it.
        self.hand_out(follower, owned).await;
        self.equip(owned).await?;
        self.ready.set(self.carrier.is_alive());
        Ok(())
    }

    /// Brings device, rules and subnet.env into the state that a lease asks for. With another lease than before the routes come later: as long
    /// as the device has the old address, the kernel answers in its name.
    pub(super) async fn equip(&mut self, owned: &Owned) -> Result<()> {
        self.carrier.start(owned.lease.subnets).await?;
        self.rules.put(&self.wanted_rules(owned))?;
        self.write_env(owned)
    }

    fn write_env(&self, owned: &Owned) -> Result<()> {
        let mtu = self.carrier.mtu();
        self.board.facts(self.carrier.told());
        let env = SubnetEnv {
            networks: self.host.network.networks(),
            subnets: owned.lease.subnets,
            mtu,
            ip_masq: self.host.config.ip_masq,
        };
        let path = &self.host.config.subnet_file;
        env.write(path).with_context(|| format!("cannot write {}", path.display()))?;
        tracing::info!(file = %path.display(), mtu, "wrote subnet file");
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
        self.board.own(None);
        if let Err(error) = self.carrier.withdraw(lost.lease.subnets).await {
            tracing::error!("cannot take the routes away: {error:#}");
        }
    }

    /// Hands the picture of the leases to what carries packets, for as long as the own one is certainly ours.
    pub(super) async fn publish(&mut self, follower: &Follower, owned: &Owned) {
        self.ready.set(self.carrier.is_alive());
        self.hand_out(follower, owned).await;
    }

    async fn hand_out(&mut self, follower: &Follower, owned: &Owned) {
        self.metrics.leases.set(i64::try_from(follower.leases().count()).unwrap_or(i64::MAX));
        self.metrics.bad.set(i64::try_from(follower.bad_count()).unwrap_or(i64::MAX));
        self.board.own(Some(owned));
        self.board.leases(follower, owned);
        // An earlier lease of this host leads nowhere: what is sent there is refused, not sent to ourselves.
        // Nor is the own subnet another's, whatever address it is told under.
        let others = follower
            .leases()
            .filter(|lease| !owned.is_of(&lease.public) && lease.subnets != owned.lease.subnets);
        let until = owned.safe_until().map(Instant::into_std);
        if let Err(error) = self.carrier.publish(owned.lease.subnets, others, until).await {
            let error = format!("{error:#}");
            self.told.once(&error, |error| tracing::error!("{error}"));
        }
    }

    /// Looks whether somebody took something away, and mends it. The kernel tells of links, addresses and routes that changed; of
    /// rules it is asked.
    pub(super) async fn look(&mut self, owned: &Owned) -> Look {
        let now = Instant::now();
        let left = owned.safe_until().map(|until| until.saturating_duration_since(now).as_secs_f64());
        self.metrics.until.set(left.unwrap_or(f64::INFINITY));
        self.carrier.tend();
        self.metrics.age.set(self.board.lease_age().unwrap_or(0.0));
        // Asked in any case: what was told of until now is looked at now.
        let changed = self.host.changes.any(&self.carrier.devices());
        let (mut mended, mut found) = (Ok(()), Look::Same);
        if changed || !self.carrier.is_alive() || now >= self.whole_look {
            self.whole_look = now + self.host.config.resync;
            found = self.follow_interface().await;
            mended = self.mend_carrier(owned).await;
        }
        if found == Look::Moved {
            mended = mended.and_then(|()| self.write_env(owned));
        }
        let mended = mended.and_then(|()| self.mend_rules(owned));
        match mended {
            Ok(()) => self.told.over(),
            Err(error) => {
                let error = format!("{error:#}");
                self.told.once(&error, |error| tracing::error!("cannot mend the network: {error}"));
            }
        }
        found
    }

    /// The interface to the other nodes may have another address now, or be another one.
    async fn follow_interface(&mut self) -> Look {
        let config = &self.host.config;
        match self.carrier.follow_interface(&config.iface, &config.public).await {
            Ok(moved) => {
                self.interface.over();
                self.tenure.move_to(self.carrier.public());
                if moved { Look::Moved } else { Look::Same }
            }
            Err(error) => {
                let error = format!("{error:#}");
                self.interface.once(&error, |error| {
                    tracing::warn!("there is no interface to the other nodes at the moment: {error}");
                });
                Look::Same
            }
        }
    }

    async fn mend_carrier(&mut self, owned: &Owned) -> Result<()> {
        let mended = self.carrier.mend(owned.lease.subnets).await;
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
            networks: self.host.network.networks(),
            subnets: owned.lease.subnets,
            masquerade: self.host.config.ip_masq,
            random_ports: self.host.config.random_ports,
            forward: self.host.config.forward_rules,
            owner: self.host.config.owner(self.host.network.networks()),
        }
    }
}
