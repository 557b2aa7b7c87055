//! What is true, what each node believes, and the checks of one against the other.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use ipnetwork::IpNetwork;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::chance;
use crate::config::network::NetworkConfig;
use crate::family::Dual;
use crate::lease::follow::{Follower, older_owner};
use crate::lease::keeper::Owned;
use crate::lease::key::{Lease, encode_key};
use crate::lease::memory::Memory;
use crate::lease::store::{LeaseStore, Record};

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
    /// A new lease is used without a look whether an older record has a part of it.
    NoSecondLook,
    /// Of two records of one subnet the one whose key comes first has it, whichever is older.
    AgeIgnored,
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
    /// The subnets it forwards for, and until when by its own clock.
    belief: Option<(Dual<IpNetwork>, Option<Instant>)>,
    picture: Option<Vec<Lease>>,
    stale_since: Option<Instant>,
}

/// A run's state.
pub(super) struct World {
    pub(super) memory: Memory,
    pub(super) bug: Bug,
    twins: bool,
    pub(super) config: NetworkConfig,
    pub(super) reserved: Option<Dual<IpNetwork>>,
    start: Instant,
    seats: Mutex<Vec<Seat>>,
    gates: Vec<(watch::Sender<bool>, watch::Sender<u32>)>,
    /// The leases by the store, as of a revision.
    truth: Mutex<(i64, Arc<[Lease]>)>,
    found: Mutex<Vec<String>>,
    trace: Mutex<Vec<String>>,
}

/// A node's external addresses, unless there are twins.
pub(super) fn addresses(node: usize) -> Dual<IpAddr> {
    let last = u8::try_from(node).unwrap_or(0) + 1;
    Dual { v4: Some([192, 0, 2, last].into()), v6: format!("fd00::{last}").parse().ok() }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The leases by the store: of two records of one subnet the older.
fn truth(records: &[Record]) -> Arc<[Lease]> {
    let counts = |record: &&Record| older_owner(records, record).is_none();
    let leases = records.iter().filter(counts).filter_map(|r| Lease::decode(&r.key, &r.value).ok());
    let mut leases: Vec<Lease> = leases.collect();
    leases.sort_by_key(|lease| lease.subnets);
    leases.into()
}

impl World {
    pub(super) fn new(nodes: usize, config: &str, reserved: Option<Dual<IpNetwork>>, bug: Bug) -> World {
        World {
            memory: Memory::default(),
            bug,
            twins: false,
            config: NetworkConfig::parse(config).unwrap(),
            reserved,
            start: Instant::now(),
            seats: Mutex::new(vec![Seat::default(); nodes]),
            gates: (0..nodes).map(|_| (watch::Sender::new(false), watch::Sender::new(0))).collect(),
            truth: Mutex::new((-1, Arc::default())),
            found: Mutex::default(),
            trace: Mutex::default(),
        }
    }

    /// The last node has the first one's address.
    pub(super) fn with_twins(self, twins: bool) -> World {
        World { twins, ..self }
    }

    /// A node's external addresses.
    pub(super) fn addresses(&self, node: usize) -> Dual<IpAddr> {
        addresses(if self.twins && node + 1 == self.gates.len() { 0 } else { node })
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
        let belief = owned.map(|owned| (owned.lease.subnets, until));
        self.seat(node, |seat| seat.belief = belief);
        let line = format!(
            "{:?} node {node}: {:?}",
            self.start.elapsed(),
            belief.map(|(subnets, _)| subnets.to_string())
        );
        lock(&self.trace).push(line);
        self.check();
    }

    pub(super) fn see(&self, node: usize, follower: &Follower) {
        let mut leases: Vec<Lease> = follower.leases().cloned().collect();
        leases.sort_by_key(|lease| lease.subnets);
        self.seat(node, |seat| seat.picture = Some(leases));
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
        let mut seen = lock(&self.truth);
        if seen.0 != snapshot.revision {
            *seen = (snapshot.revision, truth(&snapshot.records));
        }
        let truth = seen.1.clone();
        drop(seen);
        let seats = lock(&self.seats).clone();
        // A node that stands still sends nothing, and looks at its clock before the next packet.
        let fenced = |until: Option<Instant>| until.is_some_and(|until| until <= now);
        let uses = |seat: &Seat| seat.belief.filter(|(_, until)| seat.up && !seat.paused && !fenced(*until));
        let using: Vec<(usize, IpNetwork)> = seats
            .iter()
            .enumerate()
            .filter_map(|(node, seat)| Some((node, uses(seat)?.0)))
            .flat_map(|(node, subnets)| {
                [subnets.v4, subnets.v6].into_iter().flatten().map(move |net| (node, net))
            })
            .collect();
        let owns = |node: usize, subnet: IpNetwork| {
            let of = |lease: &&Lease| lease.subnets.values().any(|owned| *owned == subnet);
            truth.iter().find(of).is_some_and(|lease| lease.is_of(&self.addresses(node)))
        };
        for (index, (node, subnet)) in using.iter().enumerate() {
            if let Some((other, _)) = using[..index].iter().find(|(_, other)| other == subnet) {
                self.wrong(&format!("{subnet} is used by nodes {other} and {node}"));
            }
            if !owns(*node, *subnet) {
                self.wrong(&format!("node {node} uses {subnet}, which the store says is not its own"));
            }
        }
        if let Some(reserved) = self.reserved {
            let record = snapshot.records.iter().find(|record| record.key == encode_key(&reserved));
            if record.is_none_or(|record| record.lease_id != 0)
                || !reserved.values().all(|subnet| owns(0, *subnet))
            {
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
