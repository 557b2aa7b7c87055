//! What is true, what each node believes, and the checks of one against the other.

use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use ipnetwork::Ipv4Network;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::chance;
use crate::config::network::NetworkConfig;
use crate::lease::follow::Follower;
use crate::lease::keeper::Owned;
use crate::lease::key::{Lease, encode_key};
use crate::lease::memory::Memory;
use crate::lease::store::LeaseStore;

/// Ticks of the store's clock in one of its seconds.
pub(super) const TICKS: i64 = 20;
/// One tick of the store's clock by the nodes': its second is shorter than theirs by a twentieth, so leases end early.
pub(super) const TICK: Duration = Duration::from_micros(47_500);
/// So long an undisturbed follower may differ from the truth.
const STALE: Duration = Duration::from_secs(3);
/// So long after a disturbance a follower has time to find back.
const RECOVERY: Duration = Duration::from_secs(15);

/// A defect, planted to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bug {
    None,
    /// A subnet is taken by a plain put.
    PlainCreate,
    /// A lease is renewed by a plain put.
    PlainRenew,
    /// A node goes on for as long as nobody tells it that its lease is gone.
    NoFence,
    /// A lease's life is counted from the answer instead of the question.
    LateFence,
    /// A watch begins one revision too late.
    WatchSkipsOne,
}

#[derive(Debug, Default, Clone)]
struct Seat {
    up: bool,
    paused: bool,
    cut: bool,
    lossy: bool,
    slow: bool,
    disturbed: Option<Instant>,
    /// The subnet it forwards for, and until when by its own clock.
    belief: Option<(Ipv4Network, Option<Instant>)>,
    picture: Option<Vec<Lease>>,
    stale_since: Option<Instant>,
}

/// A run's state.
pub(super) struct World {
    pub(super) memory: Memory,
    pub(super) bug: Bug,
    twins: Option<usize>,
    pub(super) config: NetworkConfig,
    pub(super) reserved: Option<Ipv4Network>,
    start: Instant,
    seats: Mutex<Vec<Seat>>,
    gates: Vec<(watch::Sender<bool>, watch::Sender<u32>)>,
    found: Mutex<Vec<String>>,
    trace: Mutex<Vec<String>>,
}

/// A node's external address.
pub(super) fn address(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, u8::try_from(node).unwrap_or(0) + 1)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(super) fn new(
        nodes: usize,
        config: &str,
        reserved: Option<Ipv4Network>,
        bug: Bug,
        twins: bool,
    ) -> World {
        World {
            memory: Memory::default(),
            bug,
            twins: twins.then_some(nodes - 1),
            config: NetworkConfig::parse(config).unwrap(),
            reserved,
            start: Instant::now(),
            seats: Mutex::new(vec![Seat::default(); nodes]),
            gates: (0..nodes).map(|_| (watch::Sender::new(false), watch::Sender::new(0))).collect(),
            found: Mutex::default(),
            trace: Mutex::default(),
        }
    }

    /// A node's external address; with twins the last one has the first one's.
    pub(super) fn address(&self, node: usize) -> Ipv4Addr {
        address(if self.twins == Some(node) { 0 } else { node })
    }

    fn seat<T>(&self, node: usize, work: impl FnOnce(&mut Seat) -> T) -> T {
        work(&mut lock(&self.seats)[node])
    }

    fn disturb(&self, node: usize, work: impl FnOnce(&mut Seat)) {
        self.seat(node, |seat| {
            work(seat);
            seat.disturbed = Some(Instant::now());
        });
    }

    pub(super) fn set_up(&self, node: usize, up: bool) {
        self.disturb(node, |seat| (seat.up, seat.belief, seat.picture) = (up, None, None));
    }

    pub(super) fn set_paused(&self, node: usize, paused: bool) {
        self.disturb(node, |seat| seat.paused = paused);
        self.gates[node].0.send_replace(paused);
    }

    pub(super) fn set_cut(&self, node: usize, cut: bool) {
        self.disturb(node, |seat| seat.cut = cut);
    }

    pub(super) fn set_lossy(&self, node: usize, lossy: bool) {
        self.disturb(node, |seat| seat.lossy = lossy);
    }

    pub(super) fn set_slow(&self, node: usize, slow: bool) {
        self.disturb(node, |seat| seat.slow = slow);
    }

    pub(super) fn break_watch(&self, node: usize) {
        self.disturb(node, |_| {});
        self.memory.compact();
        self.gates[node].1.send_modify(|count| *count += 1);
    }

    pub(super) fn gate(&self, node: usize) -> watch::Receiver<bool> {
        self.gates[node].0.subscribe()
    }

    pub(super) fn breaks(&self, node: usize) -> watch::Receiver<u32> {
        self.gates[node].1.subscribe()
    }

    pub(super) fn is_cut(&self, node: usize) -> bool {
        self.seat(node, |seat| seat.cut)
    }

    pub(super) fn loses_answers(&self, node: usize) -> bool {
        self.seat(node, |seat| seat.lossy)
    }

    /// Of a request or an answer; a slow line's is longer than a client waits, and longer than a lease lasts.
    pub(super) fn delay(&self, node: usize) -> Duration {
        let most = if self.seat(node, |seat| seat.slow) { 12.0 } else { 0.05 };
        Duration::from_secs_f64(chance::factor(0.001..most))
    }

    /// A node begins to forward for a subnet, or stops.
    pub(super) fn believe(&self, node: usize, owned: Option<&Owned>, until: Option<Instant>) {
        let belief = owned.map(|owned| (owned.lease.subnet, until));
        self.seat(node, |seat| seat.belief = belief);
        let line = format!("{:?} node {node}: {:?}", self.start.elapsed(), belief.map(|(subnet, _)| subnet));
        lock(&self.trace).push(line);
        self.check();
    }

    pub(super) fn see(&self, node: usize, follower: &Follower) {
        self.seat(node, |seat| seat.picture = Some(follower.leases().cloned().collect()));
    }

    /// What went wrong, and the way there.
    pub(super) fn report(&self) -> (Vec<String>, Vec<String>) {
        (lock(&self.found).clone(), lock(&self.trace).clone())
    }

    fn wrong(&self, what: &str) {
        let mut found = lock(&self.found);
        if found.len() < 8 {
            found.push(format!("{:?}: {what}", self.start.elapsed()));
        }
    }

    /// The checks, at this moment.
    pub(super) fn check(&self) {
        let now = Instant::now();
        let Some(Ok(snapshot)) = self.memory.list().now_or_never() else { return self.wrong("no listing") };
        let mut truth: Vec<Lease> =
            snapshot.records.iter().filter_map(|r| Lease::decode(&r.key, &r.value).ok()).collect();
        truth.sort_by_key(|lease| lease.subnet);
        let seats = lock(&self.seats).clone();
        // A node that stands still sends nothing, and looks at its clock before the next packet.
        let fenced = |until: Option<Instant>| until.is_some_and(|until| until <= now);
        let uses = |seat: &Seat| seat.belief.filter(|(_, until)| seat.up && !seat.paused && !fenced(*until));
        let using: Vec<(usize, Ipv4Network)> =
            seats.iter().enumerate().filter_map(|(node, seat)| Some((node, uses(seat)?.0))).collect();
        for (index, (node, subnet)) in using.iter().enumerate() {
            if let Some((other, _)) = using[..index].iter().find(|(_, other)| other == subnet) {
                self.wrong(&format!("{subnet} is used by nodes {other} and {node}"));
            }
            let owner = truth.iter().find(|lease| lease.subnet == *subnet).map(|lease| lease.public_ip);
            if owner != Some(self.address(*node)) {
                self.wrong(&format!("node {node} uses {subnet}, which is {owner:?}'s"));
            }
        }
        if let Some(reserved) = self.reserved {
            let record = snapshot.records.iter().find(|record| record.key == encode_key(reserved));
            let owner = truth.iter().find(|lease| lease.subnet == reserved).map(|lease| lease.public_ip);
            if record.is_none_or(|record| record.lease_id != 0) || owner != Some(address(0)) {
                self.wrong("the reservation is not kept");
            }
        }
        for node in 0..seats.len() {
            self.check_picture(node, &truth, now);
        }
    }

    fn check_picture(&self, node: usize, truth: &[Lease], now: Instant) {
        let stale = self.seat(node, |seat| {
            let disturbed = seat.paused || seat.cut || seat.lossy || seat.slow;
            let recent = seat.disturbed.is_some_and(|then| now < then + RECOVERY);
            let judged = seat.up && seat.belief.is_some() && !disturbed && !recent;
            if !judged || seat.picture.as_deref() == Some(truth) {
                seat.stale_since = None;
                return false;
            }
            now > *seat.stale_since.get_or_insert(now) + STALE
        });
        if stale {
            self.wrong(&format!("node {node} does not see the leases as they are"));
        }
    }

    /// How many nodes forward.
    pub(super) fn using(&self) -> usize {
        lock(&self.seats).iter().filter(|seat| seat.up && seat.belief.is_some()).count()
    }
}
