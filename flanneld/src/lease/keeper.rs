//! The own lease: taken, renewed, and taken anew when it is lost.
//!
//! Every write is a compare: created only where the key is absent, renewed only as it was last seen. By its own monotonic clock
//! the keeper knows until when the lease is certainly its own; whoever forwards packets asks [`Owned::safe_until`]. So a node that
//! was paused beyond the end never sends for a subnet that may be somebody else's, and never overwrites the new owner.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::Ipv4Network;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::allocate;
use super::follow::taken;
use super::holder::{self, Holding};
use super::key::{Advert, Lease, encode_key};
use super::store::{Held, LeaseStore, Record, Snapshot, StoreError};
use crate::chance;
use crate::config::network::NetworkConfig;

/// So long the holder of a lease has time to say that it is alive, when another host with its address asks.
pub const CLAIM: Duration = Duration::from_secs(3);
/// How often a subnet is tried before it is said that none can be had; each time somebody else was faster.
const TRIES: usize = 64;

/// What the keeper is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The network.
    pub network: NetworkConfig,
    /// The own external address: the name under which a lease is found again.
    pub public_ip: Ipv4Addr,
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
    /// Until when it is certainly ours: its end, counted from before it was asked for, less a tenth for clocks that drift.
    pub fn safe_until(&self) -> Option<Instant> {
        (!self.reserved).then(|| self.asked + self.ttl.mul_f64(0.9))
    }

    /// Whether it says something else in the store than it should.
    pub fn is_outdated(&self) -> bool {
        self.told.is_some()
    }

    /// Whether a lease is this host's, by the address under which it is known or was until now.
    pub fn is_of(&self, ip: Ipv4Addr) -> bool {
        ip == self.lease.public_ip || self.told.as_ref().is_some_and(|told| ip == told.public_ip)
    }

    /// For the process that takes this one's place.
    pub fn pass(&self) -> Passed {
        let told = self.told.as_ref().unwrap_or(&self.lease);
        Passed {
            key: encode_key(told.subnet),
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
        "out of subnets: all of the network's are leased; enlarge the Network or remove leases of dead nodes"
    )]
    OutOfSubnets,
    /// Another host has the same address.
    #[error(
        "{ip} is the public address of another host, too, which has the lease of {subnet} and is alive: give this host another one by \
         --public-ip or --iface"
    )]
    Rival {
        /// The address.
        ip: Ipv4Addr,
        /// The other host's subnet.
        subnet: Ipv4Network,
    },
    /// Others were faster each time.
    #[error("others took each of the {TRIES} subnets that were tried; trying again")]
    Contended,
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
    pub async fn acquire(&self, previous: Option<Ipv4Network>) -> Result<Owned, KeeperError> {
        for _ in 0..TRIES {
            let snapshot = self.store.list().await?;
            let owned = match self.own_record(&snapshot) {
                Some((record, lease)) if Holding::of(&record.value).is_of(&self.settings.holder) => {
                    self.take_over(record, lease).await?
                }
                Some((record, lease)) => self.claim(record, lease).await?,
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
            let (key, snapshot) = (encode_key(lost.lease.subnet), self.store.list().await?);
            let damaged = |r: &&Record| r.key == key && Lease::decode(&r.key, &r.value).is_err();
            if let Some(record) = snapshot.records.iter().find(damaged)
                && let Some(owned) = self.write(&lost.lease, record.mod_revision, lost.reserved).await?
            {
                return Ok(owned);
            }
        }
        self.acquire(Some(lost.lease.subnet)).await
    }

    /// Goes on with a lease that another process of this host has passed on, which told of it after `asked`. It says what this process
    /// wants it to say as soon as can be. None if the network does not hand out its subnet any more.
    pub fn adopt(&self, passed: &Passed, asked: Instant) -> Option<Owned> {
        let told = Lease::decode(&passed.key, passed.value.as_bytes()).ok()?;
        let held = Held { mod_revision: passed.mod_revision, lease_id: passed.lease_id };
        let asked = asked.checked_sub(passed.age)?;
        let (reserved, ttl) = (passed.reserved, passed.ttl);
        let owned = Owned { lease: told, held, reserved, told: None, asked, ttl };
        self.settings.network.hands_out(owned.lease.subnet).then(|| self.reword(owned))
    }

    /// Others are told this address from now on; a lease that was taken before says so as soon as can be.
    pub fn move_to(&mut self, public_ip: Ipv4Addr) {
        self.settings.public_ip = public_ip;
    }

    /// The same lease, to say what this host wants to be said of it now.
    pub fn reword(&self, owned: Owned) -> Owned {
        let Settings { public_ip, backend, .. } = &self.settings;
        let lease = Lease { public_ip: *public_ip, backend: backend.clone(), ..owned.lease.clone() };
        let told = Some(owned.told.unwrap_or(owned.lease)).filter(|told| *told != lease);
        Owned { lease, told, ..owned }
    }

    /// Renews a lease; none if it is not ours any more.
    pub async fn renew(&self, owned: &Owned) -> Result<Option<Owned>, StoreError> {
        let renewed = self.write(&owned.lease, owned.held.mod_revision, owned.reserved).await?;
        if renewed.is_some() && owned.held.lease_id != 0 {
            self.store.forget(owned.held.lease_id).await;
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

    /// The record that this address has, or that this host has under another address, if its subnet is one that is handed out.
    fn own_record<'a>(&self, snapshot: &'a Snapshot) -> Option<(&'a Record, Lease)> {
        let mut leases =
            snapshot.records.iter().filter_map(|r| Some((r, Lease::decode(&r.key, &r.value).ok()?)));
        leases.find(|(record, lease)| {
            let ours = Holding::of(&record.value).holder.as_ref() == Some(&self.settings.holder);
            (ours || lease.public_ip == self.settings.public_ip)
                && self.settings.network.hands_out(lease.subnet)
        })
    }

    async fn take_over(&self, record: &Record, lease: Lease) -> Result<Option<Owned>, StoreError> {
        let (public_ip, backend) = (self.settings.public_ip, self.settings.backend.clone());
        let lease = Lease { public_ip, backend, ..lease };
        let owned = self.write(&lease, record.mod_revision, record.lease_id == 0).await?;
        if owned.is_some() && record.lease_id != 0 {
            self.store.forget(record.lease_id).await;
        }
        Ok(owned)
    }

    /// Asks whether the holder of a lease with this host's address is alive, and takes it over if it is not. None if something else
    /// happened to it meanwhile.
    async fn claim(&self, record: &Record, lease: Lease) -> Result<Option<Owned>, KeeperError> {
        let (ip, subnet) = (lease.public_ip, lease.subnet);
        tracing::info!(%subnet, "another host, or this one before it was started anew, holds a lease with this address: is it alive?");
        let Some(value) = holder::claimed(&record.value, &self.settings.holder) else { return Ok(None) };
        let Some(revision) = self.store.mark(&record.key, &value, record.mod_revision).await? else {
            return Ok(None);
        };
        sleep(CLAIM).await;
        let snapshot = self.store.list().await?;
        match snapshot.records.iter().find(|now| now.key == record.key) {
            Some(now) if now.mod_revision == revision => Ok(self.take_over(now, lease).await?),
            Some(now)
                if Holding::of(&now.value) == (Holding { claimant: None, ..Holding::of(&record.value) }) =>
            {
                Err(KeeperError::Rival { ip, subnet })
            }
            _ => Ok(None),
        }
    }

    /// Whether a lease that is seen with this holding is still this host's.
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

    async fn create(
        &self,
        snapshot: &Snapshot,
        previous: Option<Ipv4Network>,
    ) -> Result<Option<Owned>, KeeperError> {
        let subnet =
            allocate::choose(&self.settings.network, &taken(&snapshot.records), previous, chance::below);
        let subnet = subnet.ok_or(KeeperError::OutOfSubnets)?;
        let backend = self.settings.backend.clone();
        let lease = Lease { subnet, public_ip: self.settings.public_ip, backend };
        let asked = Instant::now();
        let held = self.store.create(&encode_key(subnet), &self.value(&lease), self.settings.ttl).await?;
        Ok(held.map(|held| self.owned(lease, held, false, asked)))
    }

    async fn write(&self, lease: &Lease, seen: i64, reserved: bool) -> Result<Option<Owned>, StoreError> {
        let ttl = if reserved { 0 } else { self.settings.ttl };
        let asked = Instant::now();
        let held = self.store.renew(&encode_key(lease.subnet), &self.value(lease), seen, ttl).await?;
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
            public_ip: Ipv4Addr::new(192, 0, 2, last),
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
        let first = keeper(&store, 1, LARGE).acquire(None).await.unwrap();
        let again = keeper(&store, 1, LARGE).acquire(None).await.unwrap();
        assert_eq!(first.lease, again.lease);
        assert!(again.held.mod_revision > first.held.mod_revision);
        store.delete(&encode_key(first.lease.subnet));
        let later = keeper(&store, 1, LARGE).acquire(Some(first.lease.subnet)).await.unwrap();
        assert_eq!(later.lease, first.lease, "by the subnet of the last time");
    }

    #[tokio::test]
    async fn nodes_that_start_together_all_get_one() {
        let store = Memory::default();
        let starts = (1..=50).map(|n| {
            let keeper = keeper(&store, n, r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.60.0"}"#);
            tokio::spawn(async move { keeper.acquire(None).await.unwrap().lease.subnet })
        });
        let subnets = futures::future::join_all(starts).await.into_iter().map(Result::unwrap);
        assert_eq!(subnets.collect::<std::collections::BTreeSet<_>>().len(), 50);
    }

    #[tokio::test]
    async fn when_all_are_taken_it_is_said() {
        let store = Memory::default();
        for n in 1..=3 {
            keeper(&store, n, SMALL).acquire(None).await.unwrap();
        }
        assert!(matches!(keeper(&store, 4, SMALL).acquire(None).await, Err(KeeperError::OutOfSubnets)));
    }

    #[tokio::test]
    async fn a_paused_node_never_overwrites_the_new_owner() {
        let store = Memory::default();
        let (paused, other) = (keeper(&store, 1, LARGE), keeper(&store, 2, LARGE));
        let lost = paused.acquire(None).await.unwrap();
        store.pass(11);
        let taken = other.acquire(Some(lost.lease.subnet)).await.unwrap();
        assert_eq!(taken.lease.subnet, lost.lease.subnet);
        assert!(paused.renew(&lost).await.unwrap().is_none(), "not ours any more");
        let anew = paused.acquire(Some(lost.lease.subnet)).await.unwrap();
        assert_ne!(anew.lease.subnet, taken.lease.subnet);
        assert!(other.renew(&taken).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn it_stops_before_the_end_by_its_own_clock() {
        let store = Memory::default();
        let keeper = keeper(&store, 1, LARGE);
        let before = Instant::now();
        let owned = keeper.acquire(None).await.unwrap();
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
        let owned = mine.acquire(None).await.unwrap();
        let key = encode_key(owned.lease.subnet);
        store.renew(&key, "{not json", owned.held.mod_revision, 0).await.unwrap().unwrap();
        assert!(mine.renew(&owned).await.unwrap().is_none());
        let again = mine.retake(&owned).await.unwrap();
        assert_eq!(again.lease, owned.lease, "pods keep their subnet");
        assert_ne!(again.held.lease_id, 0);

        store.pass(11);
        let taken = other.acquire(Some(owned.lease.subnet)).await.unwrap();
        let anew = mine.retake(&again).await.unwrap();
        assert_ne!(anew.lease.subnet, taken.lease.subnet);
        assert!(other.renew(&taken).await.unwrap().is_some(), "nobody wrote over it");
    }

    #[tokio::test]
    async fn a_reservation_stays_one() {
        let store = Memory::default();
        let key = "10.5.77.0-24";
        let value = r#"{"PublicIP":"192.0.2.1","PublicIPv6":null}"#;
        let reserved = store.create(key, value, 1).await.unwrap().unwrap();
        store.renew(key, value, reserved.mod_revision, 0).await.unwrap().unwrap();
        let owned = keeper(&store, 1, LARGE).acquire(None).await.unwrap();
        assert_eq!(owned.lease.subnet, "10.5.77.0/24".parse().unwrap());
        assert!(owned.reserved && owned.safe_until().is_none() && owned.held.lease_id == 0);
        store.pass(1_000_000);
        assert_eq!(store.list().await.unwrap().records.len(), 1);
        let other = keeper(&store, 2, LARGE).acquire(Some(owned.lease.subnet)).await.unwrap();
        assert_ne!(other.lease.subnet, owned.lease.subnet, "nobody else takes it");
    }

    #[tokio::test]
    async fn what_is_passed_on_is_renewed_by_the_next_process_only() {
        let store = Memory::default();
        let (old, new) = (keeper(&store, 1, LARGE), keeper(&store, 1, LARGE));
        let owned = old.acquire(None).await.unwrap();
        let asked = Instant::now();
        let adopted = new.adopt(&owned.pass(), asked).unwrap();
        assert_eq!((&adopted.lease, adopted.held), (&owned.lease, owned.held));
        assert!(adopted.safe_until() <= owned.safe_until(), "not a moment longer");
        assert!(new.due(&adopted).unwrap() > Instant::now(), "nothing to say anew");
        let renewed = new.renew(&adopted).await.unwrap().unwrap();
        assert!(old.renew(&owned).await.unwrap().is_none(), "they do not fight");
        assert!(new.renew(&renewed).await.unwrap().is_some());

        // It is reached elsewhere, and says so at once.
        let moved = keeper(&store, 9, LARGE);
        let adopted = moved.adopt(&renewed.pass(), Instant::now()).unwrap();
        assert!(moved.due(&adopted).unwrap() <= Instant::now());
        assert!(adopted.is_of(owned.lease.public_ip) && adopted.is_of(adopted.lease.public_ip));
        let elsewhere = keeper(&store, 1, r#"{"Network":"10.6.0.0/16"}"#);
        assert!(elsewhere.adopt(&renewed.pass(), Instant::now()).is_none());
    }

    /// The same address on two hosts.
    #[tokio::test(start_paused = true)]
    async fn a_live_holder_keeps_its_lease_and_a_dead_ones_goes_to_its_heir() {
        let store = Memory::default();
        let (first, second) =
            (keeper_of(&store, 1, LARGE, "first/1"), keeper_of(&store, 1, LARGE, "second/1"));
        let mut owned = first.acquire(None).await.unwrap();
        let mut events = store.watch(owned.held.mod_revision).await.unwrap();
        let rival = tokio::spawn(async move { (second.acquire(None).await, second) });
        let (seen, _) = events.next().await.unwrap().unwrap();
        let Event::Put(record) = &seen[0] else { panic!("{seen:?}") };
        let holding = Holding::of(&record.value);
        assert!(first.holds(&holding) && holding.claimant.is_some());
        assert!(first.answer(&mut owned, &holding, record.mod_revision));
        owned = first.renew(&owned).await.unwrap().unwrap();
        let (answer, second) = rival.await.unwrap();
        let error = answer.unwrap_err().to_string();
        assert!(error.contains("192.0.2.1 is the public address of another host, too"), "{error}");
        assert!(first.renew(&owned).await.unwrap().is_some(), "nothing was lost");

        // The first one is dead, or its host was installed anew.
        let before = Instant::now();
        let heir = second.acquire(None).await.unwrap();
        assert_eq!((heir.lease.subnet, before.elapsed()), (owned.lease.subnet, CLAIM));
        let record = store.list().await.unwrap().records.remove(0);
        assert!(
            !first.holds(&Holding::of(&record.value)),
            "the first one would see that it is not its own any more"
        );
        assert!(first.renew(&owned).await.unwrap().is_none());
        // A restart of the same host asks nobody, nor does who finds a lease of Go flannel's.
        let before = Instant::now();
        assert_eq!(second.acquire(None).await.unwrap().lease, heir.lease);
        store.create("10.5.7.0-24", r#"{"PublicIP":"192.0.2.7","PublicIPv6":null}"#, 60).await.unwrap();
        assert_eq!(
            keeper(&store, 7, LARGE).acquire(None).await.unwrap().lease.subnet,
            "10.5.7.0/24".parse().unwrap()
        );
        assert_eq!(before.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_renewal_is_seen_by_the_others() {
        let store = Memory::default();
        let keeper = keeper(&store, 1, LARGE);
        let owned = keeper.acquire(None).await.unwrap();
        let mut events = store.watch(owned.held.mod_revision).await.unwrap();
        let renewed = keeper.renew(&owned).await.unwrap().unwrap();
        let (seen, revision) = events.next().await.unwrap().unwrap();
        assert!(matches!(&seen[0], Event::Put(record) if record.mod_revision == renewed.held.mod_revision));
        assert_eq!(revision, renewed.held.mod_revision);
    }
}
