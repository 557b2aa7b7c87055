//! The own lease: taken, renewed, and taken anew when it is lost.
//!
//! Every write is a compare: created only where the key is absent, renewed only as it was last seen. By its own monotonic clock
//! the keeper knows until when the lease is certainly its own; whoever forwards packets asks [`Owned::safe_until`]. So a node that
//! was paused beyond the end never sends for a subnet that may be somebody else's, and never overwrites the new owner.
//!
//! With two families the key is no name for one subnet: two nodes that choose at the same moment may write two keys that have one of
//! their subnets in common. So a new record is looked at again before it is used. The store numbers its writes, and whoever writes second
//! sees the first: the younger record gives way, the older one stays. Nodes of Go flannel don't look, but they too are given way to.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::allocate;
use super::follow::{older_owner, taken};
use super::holder::{self, Holding};
use super::key::{Advert, Lease, encode_key};
use super::kube::node::BadNode;
use super::store::{Held, LeaseStore, Record, Snapshot, StoreError};
use crate::chance;
use crate::config::network::NetworkConfig;
use crate::family::{Dual, Family};

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
    /// What others are told of the backend.
    pub backend: Advert,
    /// How long a lease lasts, in seconds.
    pub ttl: i64,
    /// How long before its end it is renewed.
    pub margin: Duration,
}

/// A lease that is ours.
#[derive(Debug, Clone)]
pub struct Owned {
    /// What it says.
    pub lease: Lease,
    /// What it hangs on.
    pub held: Held,
    /// Written without an end by somebody who wanted this node to have it (a reservation): it is not renewed.
    pub reserved: bool,
    /// What it says in the store, if that is something else: it is written anew as soon as can be.
    told: Option<Lease>,
    asked: Instant,
    ttl: Duration,
}

/// A lease as one process leaves it to the next.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Passed {
    key: String,
    value: String,
    mod_revision: i64,
    lease_id: i64,
    reserved: bool,
    /// Since it was asked for.
    age: Duration,
    ttl: Duration,
}

impl Owned {
    /// One that Kubernetes assigned: nobody else gets it as long as the node is there.
    pub fn assigned(lease: Lease, mod_revision: i64) -> Owned {
        let held = Held { mod_revision, lease_id: 0 };
        Owned { lease, held, reserved: true, told: None, asked: Instant::now(), ttl: Duration::ZERO }
    }

    /// When it was asked for: taken or renewed.
    pub fn asked(&self) -> Instant {
        self.asked
    }

    /// When it ends in the store, at the earliest; none: never.
    pub fn end(&self) -> Option<Instant> {
        (!self.reserved).then(|| self.asked + self.ttl)
    }

    /// Until when it is certainly ours: its end, counted from before it was asked for, less a tenth for clocks that drift.
    pub fn safe_until(&self) -> Option<Instant> {
        (!self.reserved).then(|| self.asked + self.ttl.mul_f64(0.9))
    }

    /// Whether it says something else in the store than it should.
    pub fn is_outdated(&self) -> bool {
        self.told.is_some()
    }

    /// Whether these are this host's addresses, under which it is known or was until now.
    pub fn is_of(&self, node: &Dual<IpAddr>) -> bool {
        self.lease.is_of(node) || self.told.as_ref().is_some_and(|told| told.is_of(node))
    }

    /// For the process that takes this one's place.
    pub fn pass(&self) -> Passed {
        let told = self.told.as_ref().unwrap_or(&self.lease);
        Passed {
            key: encode_key(&told.subnets),
            value: told.encode(),
            mod_revision: self.held.mod_revision,
            lease_id: self.held.lease_id,
            reserved: self.reserved,
            age: self.asked.elapsed(),
            ttl: self.ttl,
        }
    }
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

/// A record of this node that is there already.
struct Own<'a> {
    record: &'a Record,
    subnets: Dual<IpNetwork>,
    /// Whether it can be used as it is.
    is_good: bool,
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

    /// Takes a lease: the one that this address has, or the one of the last time, or a free one.
    pub async fn acquire(&self, previous: Dual<IpNetwork>) -> Result<Owned, KeeperError> {
        for _ in 0..TRIES {
            let snapshot = self.store.list().await?;
            let owned = match self.own_record(&snapshot) {
                Some(own) if !self.holds(&Holding::of(&own.record.value)) => {
                    self.claim(&own, previous).await?
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

    /// The record that this address has, or that this host has under another address, if a subnet of it is one that is handed out; a good one before others.
    fn own_record<'a>(&self, snapshot: &'a Snapshot) -> Option<Own<'a>> {
        let (records, network) = (&snapshot.records, &self.settings.network);
        let fits = |(family, subnet): (Family, &IpNetwork)| {
            network.pools.get(family).is_some_and(|pool| pool.hands_out(*subnet))
        };
        let own = records.iter().filter_map(|record| {
            let lease = Lease::decode(&record.key, &record.value).ok()?;
            let is_good = network.hands_out(&lease.subnets) && older_owner(records, record).is_none();
            let same = Holding::of(&record.value).holder.as_ref() == Some(&self.settings.holder);
            let ours = (same || lease.is_of(&self.settings.public)) && lease.subnets.iter().any(fits);
            ours.then_some(Own { record, subnets: lease.subnets, is_good })
        });
        own.max_by_key(|own| own.is_good)
    }

    /// What the own lease of these subnets says; of a family that the network lacks, nothing.
    fn lease(&self, subnets: Dual<IpNetwork>) -> Lease {
        let public = Dual::of(|family| subnets.get(family).and(self.settings.public.get(family).copied()));
        Lease { subnets, public, backend: self.settings.backend.clone() }
    }

    async fn take_over(&self, Own { record, subnets, .. }: Own<'_>) -> Result<Option<Owned>, StoreError> {
        let owned = self.write(&self.lease(subnets), record.mod_revision, record.lease_id == 0).await?;
        if owned.is_some() {
            self.give_back(record.lease_id);
        }
        Ok(owned)
    }

    /// Asks whether the holder of a lease with this host's address is alive, and takes it over if it is not. None if something else
    /// happened to it meanwhile.
    async fn claim(&self, own: &Own<'_>, previous: Dual<IpNetwork>) -> Result<Option<Owned>, KeeperError> {
        let (key, before) = (&own.record.key, Holding::of(&own.record.value));
        tracing::info!(subnet = %own.subnets, "another host, or this one before it was started anew, holds a lease with this address: is it alive?");
        let Some(value) = holder::claimed(&own.record.value, &self.settings.holder) else { return Ok(None) };
        let Some(revision) = self.store.mark(key, &value, own.record.mod_revision).await? else {
            return Ok(None);
        };
        sleep(CLAIM).await;
        let snapshot = self.store.list().await?;
        let Some(record) = snapshot.records.iter().find(|now| now.key == *key) else { return Ok(None) };
        if record.mod_revision == revision {
            let own = Own { record, subnets: own.subnets, is_good: own.is_good };
            return match own.is_good {
                true => Ok(self.take_over(own).await?),
                false => self.convert(&snapshot, &own, previous).await,
            };
        }
        if Holding::of(&record.value) == (Holding { claimant: None, ..before }) {
            return Err(KeeperError::Rival { ip: self.settings.public, subnets: own.subnets });
        }
        Ok(None)
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

    /// The own lease is of other families than the network has now, or an older record has a part of it: what can stay of it stays.
    /// A reservation stays one.
    async fn convert(
        &self,
        snapshot: &Snapshot,
        own: &Own<'_>,
        previous: Dual<IpNetwork>,
    ) -> Result<Option<Owned>, KeeperError> {
        let record = own.record;
        let others = taken(snapshot.records.iter().filter(|other| other.key != record.key));
        let wanted = Dual::of(|family| own.subnets.get(family).or(previous.get(family)).copied());
        let (lease, reserved) = (self.lease(self.choose(&others, wanted)?), record.lease_id == 0);
        let (asked, key) = (Instant::now(), encode_key(&lease.subnets));
        let ttl = if reserved { 0 } else { self.settings.ttl };
        let old = (record.key.as_str(), record.mod_revision);
        let held = self.store.replace(old, &key, &self.value(&lease), ttl).await?;
        let Some(held) = held else { return Ok(None) };
        self.give_back(record.lease_id);
        self.confirm(self.owned(lease, held, reserved, asked)).await
    }

    async fn create(
        &self,
        snapshot: &Snapshot,
        previous: Dual<IpNetwork>,
    ) -> Result<Option<Owned>, KeeperError> {
        let lease = self.lease(self.choose(&taken(&snapshot.records), previous)?);
        let asked = Instant::now();
        let key = encode_key(&lease.subnets);
        let held = self.store.create(&key, &self.value(&lease), self.settings.ttl).await?;
        let Some(held) = held else { return Ok(None) };
        self.confirm(self.owned(lease, held, false, asked)).await
    }

    /// A subnet of each family that the network has.
    fn choose(
        &self,
        taken: &BTreeSet<IpNetwork>,
        previous: Dual<IpNetwork>,
    ) -> Result<Dual<IpNetwork>, KeeperError> {
        let mut chosen = Dual::default();
        for (family, pool) in self.settings.network.pools.iter() {
            let subnet = allocate::choose(pool, taken, previous.get(family).copied(), chance::below);
            let subnet = Some(subnet.ok_or(KeeperError::OutOfSubnets(family))?);
            match family {
                Family::V4 => chosen.v4 = subnet,
                Family::V6 => chosen.v6 = subnet,
            }
        }
        Ok(chosen)
    }

    /// A new record, if no older one has a subnet of it; else the next try puts another in its place. Nobody uses it before this is known.
    async fn confirm(&self, new: Owned) -> Result<Option<Owned>, KeeperError> {
        let (key, records) = (encode_key(&new.lease.subnets), self.store.list().await?.records);
        let own = records.iter().find(|r| r.key == key && r.mod_revision == new.held.mod_revision);
        let Some(own) = own else { return Ok(None) };
        let Some(older) = older_owner(&records, own) else { return Ok(Some(new)) };
        tracing::info!(key, older, "another node took one of these subnets first; trying others");
        Ok(None)
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
        holder::held(&lease.encode(), &self.settings.holder)
    }

    fn owned(&self, lease: Lease, held: Held, reserved: bool, asked: Instant) -> Owned {
        let ttl = Duration::from_secs(u64::try_from(self.settings.ttl).unwrap_or(0));
        Owned { lease, held, reserved, told: None, asked, ttl }
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Memory;
    use super::super::store::Event;
    use super::*;
    use futures::StreamExt;

    fn keeper(store: &Memory, last: u8, network: &str) -> Keeper {
        keeper_of(store, last, network, &format!("boot/{last}"))
    }

    fn keeper_of(store: &Memory, last: u8, network: &str, holder: &str) -> Keeper {
        let settings = Settings {
            network: NetworkConfig::parse(network).unwrap(),
            public: Dual { v4: Some([192, 0, 2, last].into()), v6: format!("fd00::{last}").parse().ok() },
            holder: holder.to_owned(),
            backend: Advert::default(),
            ttl: 10,
            margin: Duration::from_secs(3600),
        };
        Keeper::new(Arc::new(store.clone()), settings)
    }

    const LARGE: &str = r#"{"Network":"10.5.0.0/16"}"#;
    /// Room for three.
    const SMALL: &str = r#"{"Network":"10.5.0.0/24","SubnetLen":26}"#;

    #[tokio::test]
    async fn a_restarted_node_gets_its_subnet_back() {
        let store = Memory::default();
        let first = keeper(&store, 1, LARGE).acquire(Dual::default()).await.unwrap();
        let again = keeper(&store, 1, LARGE).acquire(Dual::default()).await.unwrap();
        assert_eq!(first.lease, again.lease);
        assert!(again.held.mod_revision > first.held.mod_revision);
        store.delete(&encode_key(&first.lease.subnets));
        let later = keeper(&store, 1, LARGE).acquire(first.lease.subnets).await.unwrap();
        assert_eq!(later.lease, first.lease, "by the subnet of the last time");
    }

    #[tokio::test]
    async fn nodes_that_start_together_all_get_one() {
        let store = Memory::default();
        let starts = (1..=50).map(|n| {
            let keeper = keeper(&store, n, r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.60.0"}"#);
            tokio::spawn(async move { keeper.acquire(Dual::default()).await.unwrap().lease.subnets })
        });
        let subnets = futures::future::join_all(starts).await.into_iter().map(Result::unwrap);
        assert_eq!(subnets.collect::<std::collections::BTreeSet<_>>().len(), 50);
    }

    #[tokio::test]
    async fn when_all_are_taken_it_is_said() {
        let store = Memory::default();
        for n in 1..=3 {
            keeper(&store, n, SMALL).acquire(Dual::default()).await.unwrap();
        }
        assert!(matches!(
            keeper(&store, 4, SMALL).acquire(Dual::default()).await,
            Err(KeeperError::OutOfSubnets(Family::V4))
        ));
    }

    #[tokio::test]
    async fn a_paused_node_never_overwrites_the_new_owner() {
        let store = Memory::default();
        let (paused, other) = (keeper(&store, 1, LARGE), keeper(&store, 2, LARGE));
        let lost = paused.acquire(Dual::default()).await.unwrap();
        store.pass(11);
        let taken = other.acquire(lost.lease.subnets).await.unwrap();
        assert_eq!(taken.lease.subnets, lost.lease.subnets);
        assert!(paused.renew(&lost).await.unwrap().is_none(), "not ours any more");
        let anew = paused.acquire(lost.lease.subnets).await.unwrap();
        assert_ne!(anew.lease.subnets, taken.lease.subnets);
        assert!(other.renew(&taken).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn it_stops_before_the_end_by_its_own_clock() {
        let store = Memory::default();
        let keeper = keeper(&store, 1, LARGE);
        let before = Instant::now();
        let owned = keeper.acquire(Dual::default()).await.unwrap();
        let until = owned.safe_until().unwrap();
        assert!(until < before + Duration::from_secs(10) && until > before + Duration::from_secs(8));
        assert!(
            keeper.due(&owned).unwrap() <= Instant::now() + Duration::from_secs(5),
            "half of its life at the latest"
        );
        store.set_down(true);
        assert!(keeper.renew(&owned).await.is_err());
        assert_eq!(owned.safe_until(), Some(until), "a failed renewal makes it no longer");
    }

    #[tokio::test]
    async fn a_damaged_record_is_mended_and_a_new_owner_left_alone() {
        let store = Memory::default();
        let (mine, other) = (keeper(&store, 1, LARGE), keeper(&store, 2, LARGE));
        let owned = mine.acquire(Dual::default()).await.unwrap();
        let key = encode_key(&owned.lease.subnets);
        store.renew(&key, "{not json", owned.held.mod_revision, 0).await.unwrap().unwrap();
        assert!(mine.renew(&owned).await.unwrap().is_none());
        let again = mine.retake(&owned).await.unwrap();
        assert_eq!(again.lease, owned.lease, "pods keep their subnet");
        assert_ne!(again.held.lease_id, 0);

        store.pass(11);
        let taken = other.acquire(owned.lease.subnets).await.unwrap();
        let anew = mine.retake(&again).await.unwrap();
        assert_ne!(anew.lease.subnets, taken.lease.subnets);
        assert!(other.renew(&taken).await.unwrap().is_some(), "nobody wrote over it");
    }

    const DUAL: &str =
        r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/62","Backend":{"Type":"vxlan"}}"#;

    #[tokio::test]
    async fn both_families_are_leased_under_one_key() {
        let store = Memory::default();
        let first = keeper(&store, 1, DUAL).acquire(Dual::default()).await.unwrap();
        let record = &store.list().await.unwrap().records[0];
        let (v4, v6) = (first.lease.subnets.v4.unwrap(), first.lease.subnets.v6.unwrap());
        assert_eq!(record.key, format!("{}-24&{}-64", v4.network(), v6.network()));
        assert_eq!(record.value, br#"{"PublicIP":"192.0.2.1","PublicIPv6":"fd00::1","Holder":"boot/1"}"#);
        // Beyond those of which one is chosen by chance.
        let previous = Dual { v4: "10.5.200.0/24".parse().ok(), v6: first.lease.subnets.v6 };
        let second = keeper(&store, 2, DUAL).acquire(previous).await.unwrap().lease.subnets;
        assert_eq!(second.v4, previous.v4, "each by itself");
        assert_ne!(second.v6, previous.v6);
        keeper(&store, 3, DUAL).acquire(Dual::default()).await.unwrap();
        let none = keeper(&store, 4, DUAL).acquire(Dual::default()).await;
        assert!(matches!(none, Err(KeeperError::OutOfSubnets(Family::V6))));
    }

    /// A key that names the subnet and another one doesn't keep it from being taken.
    #[tokio::test]
    async fn of_two_that_took_one_subnet_the_younger_gives_way() {
        let store = Memory::default();
        let value = |n: u8| format!(r#"{{"PublicIP":"192.0.2.{n}","PublicIPv6":"fd00::{n}"}}"#);
        store.create("10.5.7.0-24&fc00:0:0:1::-64", &value(7), 60).await.unwrap().unwrap();
        store.create("10.5.1.0-24&fc00:0:0:1::-64", &value(1), 60).await.unwrap().unwrap();
        let owned = keeper(&store, 1, DUAL).acquire(Dual::default()).await.unwrap().lease.subnets;
        assert_eq!(owned.v4, "10.5.1.0/24".parse().ok(), "what nobody else has stays");
        assert_ne!(owned.v6, "fc00:0:0:1::/64".parse().ok());
        let older = keeper(&store, 7, DUAL).acquire(Dual::default()).await.unwrap().lease.subnets;
        assert_eq!(encode_key(&older), "10.5.7.0-24&fc00:0:0:1::-64");
        assert_eq!(store.list().await.unwrap().records.len(), 2, "no second record of the younger");
    }

    #[tokio::test]
    async fn a_family_more_or_less_changes_nothing_of_the_other() {
        let store = Memory::default();
        let v4 = keeper(&store, 1, LARGE).acquire(Dual::default()).await.unwrap().lease.subnets.v4;
        let both = keeper(&store, 1, DUAL).acquire(Dual::default()).await.unwrap().lease.subnets;
        assert!(both.v4 == v4 && both.v6.is_some());
        let back = keeper(&store, 1, LARGE).acquire(Dual::default()).await.unwrap().lease.subnets;
        assert_eq!(back, Dual { v4, v6: None });
        let again = keeper(&store, 1, DUAL).acquire(both).await.unwrap().lease.subnets;
        assert_eq!(again, both, "by the subnet of the last time");
        assert_eq!(store.list().await.unwrap().records.len(), 1);

        let (key, value) = ("10.5.177.0-24", r#"{"PublicIP":"192.0.2.2","PublicIPv6":null}"#);
        store.create(key, value, 0).await.unwrap().unwrap();
        let reserved = keeper(&store, 2, DUAL).acquire(Dual::default()).await.unwrap();
        assert_eq!(reserved.lease.subnets.v4, "10.5.177.0/24".parse().ok());
        assert!(reserved.reserved && reserved.held.lease_id == 0);
    }

    #[tokio::test]
    async fn a_reservation_stays_one() {
        let store = Memory::default();
        let key = "10.5.77.0-24";
        let value = r#"{"PublicIP":"192.0.2.1","PublicIPv6":null}"#;
        let reserved = store.create(key, value, 1).await.unwrap().unwrap();
        store.renew(key, value, reserved.mod_revision, 0).await.unwrap().unwrap();
        let owned = keeper(&store, 1, LARGE).acquire(Dual::default()).await.unwrap();
        assert_eq!(owned.lease.subnets.v4, "10.5.77.0/24".parse().ok());
        assert!(owned.reserved && owned.safe_until().is_none() && owned.held.lease_id == 0);
        store.pass(1_000_000);
        assert_eq!(store.list().await.unwrap().records.len(), 1);
        let other = keeper(&store, 2, LARGE).acquire(owned.lease.subnets).await.unwrap();
        assert_ne!(other.lease.subnets, owned.lease.subnets, "nobody else takes it");
    }

    #[tokio::test]
    async fn what_is_passed_on_is_renewed_by_the_next_process_only() {
        let store = Memory::default();
        let (old, new) = (keeper(&store, 1, DUAL), keeper(&store, 1, DUAL));
        let owned = old.acquire(Dual::default()).await.unwrap();
        let asked = Instant::now();
        let adopted = new.adopt(&owned.pass(), asked).unwrap();
        assert_eq!((&adopted.lease, adopted.held), (&owned.lease, owned.held));
        assert!(adopted.safe_until() <= owned.safe_until(), "not a moment longer");
        assert!(new.due(&adopted).unwrap() > Instant::now(), "nothing to say anew");
        let renewed = new.renew(&adopted).await.unwrap().unwrap();
        assert!(old.renew(&owned).await.unwrap().is_none(), "they do not fight");
        assert!(new.renew(&renewed).await.unwrap().is_some());

        // It is reached elsewhere, and says so at once.
        let moved = keeper(&store, 9, DUAL);
        let adopted = moved.adopt(&renewed.pass(), Instant::now()).unwrap();
        assert!(moved.due(&adopted).unwrap() <= Instant::now());
        assert!(adopted.is_of(&owned.lease.public) && adopted.is_of(&adopted.lease.public));
        for elsewhere in [LARGE, r#"{"Network":"10.6.0.0/16"}"#] {
            assert!(keeper(&store, 1, elsewhere).adopt(&renewed.pass(), Instant::now()).is_none());
        }
    }

    /// The same address on two hosts.
    #[tokio::test(start_paused = true)]
    async fn a_live_holder_keeps_its_lease_and_a_dead_ones_goes_to_its_heir() {
        let store = Memory::default();
        let (first, second) =
            (keeper_of(&store, 1, LARGE, "first/1"), keeper_of(&store, 1, LARGE, "second/1"));
        let mut owned = first.acquire(Dual::default()).await.unwrap();
        let mut events = store.watch(owned.held.mod_revision).await.unwrap();
        let rival = tokio::spawn(async move { (second.acquire(Dual::default()).await, second) });
        let (seen, _) = events.next().await.unwrap().unwrap();
        let Event::Put(record) = &seen[0] else { panic!("{seen:?}") };
        let holding = Holding::of(&record.value);
        assert!(first.holds(&holding) && holding.claimant.is_some());
        assert!(first.answer(&mut owned, &holding, record.mod_revision));
        owned = first.renew(&owned).await.unwrap().unwrap();
        let (answer, second) = rival.await.unwrap();
        let error = answer.unwrap_err().to_string();
        assert!(error.contains("is another host's, too"), "{error}");
        assert!(first.renew(&owned).await.unwrap().is_some(), "nothing was lost");

        // The first one is dead, or its host was installed anew.
        let before = Instant::now();
        let heir = second.acquire(Dual::default()).await.unwrap();
        assert_eq!((heir.lease.subnets, before.elapsed()), (owned.lease.subnets, CLAIM));
        let record = store.list().await.unwrap().records.remove(0);
        assert!(
            !first.holds(&Holding::of(&record.value)),
            "the first one would see that it is not its own any more"
        );
        assert!(first.renew(&owned).await.unwrap().is_none());
        // A restart of the same host asks nobody, nor does who finds a lease of Go flannel's.
        let before = Instant::now();
        assert_eq!(second.acquire(Dual::default()).await.unwrap().lease, heir.lease);
        store.create("10.5.7.0-24", r#"{"PublicIP":"192.0.2.7","PublicIPv6":null}"#, 60).await.unwrap();
        assert_eq!(
            keeper(&store, 7, LARGE).acquire(Dual::default()).await.unwrap().lease.subnets.v4,
            "10.5.7.0/24".parse().ok()
        );
        assert_eq!(before.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_renewal_is_seen_by_the_others() {
        let store = Memory::default();
        let keeper = keeper(&store, 1, LARGE);
        let owned = keeper.acquire(Dual::default()).await.unwrap();
        let mut events = store.watch(owned.held.mod_revision).await.unwrap();
        let renewed = keeper.renew(&owned).await.unwrap().unwrap();
        let (seen, revision) = events.next().await.unwrap().unwrap();
        assert!(matches!(&seen[0], Event::Put(record) if record.mod_revision == renewed.held.mod_revision));
        assert_eq!(revision, renewed.held.mod_revision);
    }
}
