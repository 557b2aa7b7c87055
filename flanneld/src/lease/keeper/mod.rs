//! The own lease: taken, renewed, and taken anew when it is lost.
//!
//! Every write is a compare: created only where the key is absent, renewed only as it was last seen. By its own monotonic clock
//! the keeper knows until when the lease is certainly its own; whoever forwards packets asks [`Owned::safe_until`]. So a node that
//! was paused beyond the end never sends for a subnet that may be somebody else's, and never overwrites the new owner.
//!
//! With two families the key is no name for one subnet: two nodes that choose at the same moment may write two keys that have one of
//! their subnets in common. So a new record is looked at again before it is used. The store numbers its writes, and whoever writes second
//! sees the first: the younger record gives way, the older one stays. Nodes of Go flannel don't look, but they too are given way to.
//!
//! [`owned`] is what is held, [`take`] how it comes to this node.

mod owned;
mod take;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;
use tokio::time::Instant;

use super::follow::older_owner;
use super::holder::{self, Holding};
use super::key::{Advert, Lease, encode_key};
use super::kube::node::BadNode;
use super::store::{Held, LeaseStore, Record, StoreError};
use crate::config::network::NetworkConfig;
use crate::family::{Dual, Family};
pub use owned::{Owned, Passed};

/// So long the holder of a lease has time to say that it is alive, when another host with its address asks.
pub const CLAIM: Duration = Duration::from_secs(3);
/// How often a subnet is tried before it is said that none can be had; each time somebody else was faster.
const TRIES: usize = 64;

/// What the keeper is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The network.
    pub network: NetworkConfig,
    /// The own external addresses: the name under which a lease is found again.
    pub public: Dual<IpAddr>,
    /// This host, apart from others to which the same address was given ([`holder::this_host`]).
    pub holder: String,
    /// The same host across its starts ([`holder::this_machine`]), if it has a name.
    pub machine: Option<String>,
    /// What others are told of the backend.
    pub backend: Advert,
    /// How long a lease lasts, in seconds.
    pub ttl: i64,
    /// How long before its end it is renewed.
    pub margin: Duration,
}

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// All subnets are taken.
    #[error(
        "out of {0} subnets: all of the network's are leased; enlarge the network or remove leases of dead nodes"
    )]
    OutOfSubnets(Family),
    /// Another host has the same address.
    #[error(
        "the public address {ip} is another host's, too, which has the lease of {subnets} and is alive: give this host another one by \
         --public-ip or --iface"
    )]
    Rival {
        /// The addresses.
        ip: Dual<IpAddr>,
        /// The other host's subnets.
        subnets: Dual<IpNetwork>,
    },
    /// Others were faster each time.
    #[error("others took each of the {TRIES} subnets that were tried; trying again")]
    Contended,
    /// Kubernetes gave this node none that could be used.
    #[error(transparent)]
    Node(#[from] BadNode),
}

/// Takes and keeps the own lease.
#[derive(Clone)]
pub struct Keeper {
    store: Arc<dyn LeaseStore>,
    settings: Settings,
}

impl Keeper {
    /// Over a store.
    pub fn new(store: Arc<dyn LeaseStore>, settings: Settings) -> Keeper {
        Keeper { store, settings }
    }

    /// Takes a lease: the one that this address has, or this machine had, or the one of the last time, or a free one.
    pub async fn acquire(&self, previous: Dual<IpNetwork>) -> Result<Owned, KeeperError> {
        let mut machine = self.settings.machine.as_deref();
        for _ in 0..TRIES {
            let snapshot = self.store.list().await?;
            let owned = match self.own_record(&snapshot, machine) {
                Some(own) if !self.holds(&Holding::of(&own.record.value)) => {
                    match self.claim(&own, previous).await {
                        Err(KeeperError::Rival { subnets, .. }) if own.by_machine => {
                            tracing::info!(subnet = %subnets, "that is a copy of this machine's, which is alive: this one needs a lease of its own");
                            machine = None;
                            None
                        }
                        outcome => outcome?,
                    }
                }
                Some(own) if own.is_good => self.take_over(own).await?,
                Some(own) => self.convert(&snapshot, &own, previous).await?,
                None => self.create(&snapshot, previous).await?,
            };
            if let Some(owned) = owned {
                return Ok(owned);
            }
        }
        Err(KeeperError::Contended)
    }

    /// Takes a lease in place of one that was lost: the same one if only its record is damaged while it is still ours by the own
    /// clock (nobody else can have taken the subnet: its key is there), or else as [`Keeper::acquire`] does.
    pub async fn retake(&self, lost: &Owned) -> Result<Owned, KeeperError> {
        if lost.safe_until().is_none_or(|until| Instant::now() < until) {
            let (key, snapshot) = (encode_key(&lost.lease.subnets), self.store.list().await?);
            let damaged = |r: &&Record| r.key == key && Lease::decode(&r.key, &r.value).is_err();
            if let Some(record) = snapshot.records.iter().find(damaged)
                && older_owner(&snapshot.records, record).is_none()
                && let Some(owned) = self.write(&lost.lease, record.mod_revision, lost.reserved).await?
            {
                return Ok(owned);
            }
        }
        self.acquire(lost.lease.subnets).await
    }

    /// Where it takes them.
    pub fn store(&self) -> Arc<dyn LeaseStore> {
        self.store.clone()
    }

    /// Goes on with a lease that another process of this host has passed on, which told of it after `asked`. It says what this process
    /// wants it to say as soon as can be. None if the network does not hand out its subnets any more.
    pub fn adopt(&self, passed: &Passed, asked: Instant) -> Option<Owned> {
        let told = Lease::decode(&passed.key, passed.value.as_bytes()).ok()?;
        let held = Held { mod_revision: passed.mod_revision, lease_id: passed.lease_id };
        let asked = asked.checked_sub(passed.age)?;
        let (reserved, ttl) = (passed.reserved, passed.ttl);
        let owned = Owned { lease: told, held, reserved, told: None, asked, ttl };
        self.settings.network.hands_out(&owned.lease.subnets).then(|| self.reword(owned))
    }

    /// Others are told these addresses from now on; a lease that was taken before says so as soon as can be.
    pub fn move_to(&mut self, public: Dual<IpAddr>) {
        self.settings.public = public;
    }

    /// The same lease, to say what this host wants to be said of it now.
    pub fn reword(&self, owned: Owned) -> Owned {
        let lease = self.lease(owned.lease.subnets);
        let told = Some(owned.told.unwrap_or(owned.lease)).filter(|told| *told != lease);
        Owned { lease, told, ..owned }
    }

    /// Renews a lease; none if it is not ours any more.
    pub async fn renew(&self, owned: &Owned) -> Result<Option<Owned>, StoreError> {
        let renewed = self.write(&owned.lease, owned.held.mod_revision, owned.reserved).await?;
        if renewed.is_some() {
            self.give_back(owned.held.lease_id);
        }
        Ok(renewed)
    }

    /// When a lease is due to be renewed: a margin before its end, at the latest after half of its life; at once if it doesn't say
    /// what it should.
    pub fn due(&self, owned: &Owned) -> Option<Instant> {
        if owned.told.is_some() {
            return Some(owned.asked);
        }
        let margin = self.settings.margin.min(owned.ttl / 2);
        (!owned.reserved).then(|| owned.asked + owned.ttl - margin)
    }

    /// Whether a lease that is seen with this holding is this host's, as far as it says.
    pub fn holds(&self, holding: &Holding) -> bool {
        holding.is_of(&self.settings.holder)
    }

    /// Somebody claims the lease: as it is seen now it is renewed, which tells that this host is alive.
    pub fn answer(&self, owned: &mut Owned, holding: &Holding, revision: i64) -> bool {
        let claimed = holding.claimant.is_some() && holding.holder.as_ref() == Some(&self.settings.holder);
        if claimed && revision > owned.held.mod_revision {
            owned.held.mod_revision = revision;
            return true;
        }
        false
    }

    /// What the own lease of these subnets says; of a family that the network lacks, nothing.
    fn lease(&self, subnets: Dual<IpNetwork>) -> Lease {
        let public = Dual::of(|family| subnets.get(family).and(self.settings.public.get(family).copied()));
        Lease { subnets, public, backend: self.settings.backend.clone() }
    }

    /// It is not waited for: a renewal that was answered must not look lost because this takes long. What isn't given back ends by itself.
    fn give_back(&self, lease_id: i64) {
        if lease_id != 0 {
            let store = self.store.clone();
            tokio::spawn(async move { store.forget(lease_id).await });
        }
    }

    async fn write(&self, lease: &Lease, seen: i64, reserved: bool) -> Result<Option<Owned>, StoreError> {
        let ttl = if reserved { 0 } else { self.settings.ttl };
        let asked = Instant::now();
        let held = self.store.renew(&encode_key(&lease.subnets), &self.value(lease), seen, ttl).await?;
        Ok(held.map(|held| self.owned(lease.clone(), held, reserved, asked)))
    }

    fn value(&self, lease: &Lease) -> String {
        holder::held(&lease.encode(), &self.settings.holder, self.settings.machine.as_deref())
    }

    fn owned(&self, lease: Lease, held: Held, reserved: bool, asked: Instant) -> Owned {
        let ttl = Duration::from_secs(u64::try_from(self.settings.ttl).unwrap_or(0));
        Owned { lease, held, reserved, told: None, asked, ttl }
    }
}
