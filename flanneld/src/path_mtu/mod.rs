//! How large packets to each peer may be: found out while packets flow, and put into the route table's entry, where the data path
//! reads it.
//!
//! The outer packets may not be fragmented on the way: fragments are dropped by many networks, and one that is lost costs the whole.
//! So what does not get through has to be known. Routers tell ([`message`]), and where they don't, echo requests through the tunnel
//! find out ([`search`]); a Go flannel's host answers them as well as ours. [`ear`] is the socket, this file the loop over it.
//!
//! What lives here: what is known, and asking. What doesn't: what is done about a packet that is too long (`datapath::forward`).

pub mod ear;
pub mod message;
pub mod search;

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::sleep_until;
use tokio_util::task::AbortOnDropHandle;

use crate::chance;
use crate::datapath::engine::Voice;
use crate::route::Handle;
use crate::route::way::Way;
use ear::Ear;
use message::{Heard, Question};
use search::{Search, WAIT};

/// Between two looks at what was sent, while nothing is asked.
const LOOK: Duration = Duration::from_millis(500);
/// Questions that are sent at a time; further peers have to wait for the next look.
const MOST_QUESTIONS: usize = 128;
/// After the socket failed.
const PAUSE: Duration = Duration::from_secs(1);

/// What is counted; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Meters {
    questions: Counter,
    believed: Counter,
    ignored: Counter,
    narrow: Gauge,
}

impl Meters {
    /// Registered for /metrics.
    pub fn register(registry: &mut Registry) -> Meters {
        let meters = Meters::default();
        let Meters { questions, believed, ignored, narrow } = &meters;
        let text = "Echo requests that ask how large packets to a peer may be";
        registry.register("flannel_path_mtu_questions", text, questions.clone());
        let text = "How often a router told that packets to a peer are too long, and was believed";
        registry.register("flannel_path_mtu_told", text, believed.clone());
        let text = "How often it was not: nothing new, or disproved, or about nobody";
        registry.register("flannel_path_mtu_ignored", text, ignored.clone());
        let text = "Peers to which packets have to be smaller than the interface takes";
        registry.register("flannel_path_mtu_narrow_peers", text, narrow.clone());
        meters
    }
}

/// What the search works with.
#[derive(Debug)]
pub struct Parts {
    /// Flannel's socket.
    pub voice: Voice,
    /// Its address.
    pub address: SocketAddrV4,
    /// The tunnel's own address.
    pub own: Ipv4Addr,
    /// The peers, and where what is found is put.
    pub routes: Handle,
    /// What is counted.
    pub meters: Meters,
}

/// A running search; it ends with the value.
#[derive(Debug)]
pub struct Task {
    mtu: Arc<AtomicU32>,
    _running: AbortOnDropHandle<()>,
}

impl Task {
    /// Begins, where the interface takes inner packets of so many bytes.
    pub fn start(parts: Parts, mtu: u32) -> Task {
        let mtu = Arc::new(AtomicU32::new(mtu));
        let running = tokio::spawn(run(Paths { parts, mtu: mtu.clone(), peers: HashMap::new() }));
        Task { mtu, _running: AbortOnDropHandle::new(running) }
    }

    /// The interface takes others now.
    pub fn set_mtu(&self, mtu: u32) {
        self.mtu.store(mtu, Ordering::Relaxed);
    }
}

/// The search for one peer.
#[derive(Debug)]
struct Peer {
    search: Search,
    /// Its tunnel's address: the first of its subnet.
    tunnel: Ipv4Addr,
    secret: [u8; message::SECRET],
}

/// Runs for ever.
async fn run(mut paths: Paths) {
    let mut ear = None;
    let mut next = Instant::now();
    loop {
        let ear = match &mut ear {
            Some(ear) => ear,
            None => ear.insert(listen().await),
        };
        tokio::select! {
            heard = ear.next() => match heard {
                Ok(heard) => paths.heard(heard, Instant::now()),
                Err(error) => {
                    tracing::warn!(%error, "cannot read the ICMP socket");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            () = sleep_until(next.into()) => {
                let now = Instant::now();
                next = now + if paths.tick(now) { WAIT } else { LOOK };
            }
        }
    }
}

/// The ICMP socket; asked for until there is one.
async fn listen() -> Ear {
    let mut told = false;
    loop {
        match Ear::open() {
            Ok(ear) => return ear,
            Err(error) if !told => {
                tracing::error!(%error, "cannot open an ICMP socket: how large packets to a peer may be is not found out, and ways narrower than the interface lose packets (it needs CAP_NET_RAW; or set a lower MTU in the network config's Backend)");
                told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

struct Paths {
    parts: Parts,
    mtu: Arc<AtomicU32>,
    peers: HashMap<SocketAddrV4, Peer>,
}

impl Paths {
    /// Looks at what was sent, asks what is to be asked, and hands on what is known; whether answers are waited for.
    fn tick(&mut self, now: Instant) -> bool {
        let table = self.parts.routes.at(now);
        let full = self.mtu.load(Ordering::Relaxed);
        let (mut seen, mut left, mut waiting) = (HashSet::new(), MOST_QUESTIONS, false);
        for (subnet, hop) in table.peers() {
            // Only the udp backend asks, which is one of IPv4.
            let (IpNetwork::V4(subnet), SocketAddr::V4(at)) = (subnet, hop.at) else { continue };
            let Some(way) = table.way(hop).filter(|_| seen.insert(at)) else { continue };
            // What was sent meanwhile stays noted at the way.
            let largest = if left > 0 { way.take_largest() } else { continue };
            if largest == 0 && !self.peers.contains_key(&at) {
                continue;
            }
            let peer = self.peers.entry(at).or_insert_with(|| Peer {
                search: Search::new(full),
                tunnel: subnet.network(),
                secret: rand::random(),
            });
            peer.tunnel = subnet.network();
            for size in peer.search.tick(full, largest, now, chance::factor(0.75..1.25)) {
                left = left.saturating_sub(1);
                let (from, to) = (self.parts.own, peer.tunnel);
                ask(&self.parts, at, &Question { from, to, size, secret: peer.secret });
            }
            waiting |= peer.search.is_asking();
            hand_on(hop.at, way, peer.search.limit());
        }
        self.peers.retain(|at, _| seen.contains(at));
        let narrow = self.peers.values().filter(|peer| peer.search.limit().is_some()).count();
        self.parts.meters.narrow.set(i64::try_from(narrow).unwrap_or(i64::MAX));
        waiting
    }

    /// Takes over what was heard.
    fn heard(&mut self, heard: Heard, now: Instant) {
        let table = self.parts.routes.at(now);
        let (hop, peer) = match heard {
            Heard::Answer(question) => {
                let Some(hop) = table.lookup(question.to) else { return };
                let SocketAddr::V4(at) = hop.at else { return };
                let Some(peer) = self.peers.get_mut(&at) else { return };
                if (question.from, question.secret) != (self.parts.own, peer.secret) {
                    return;
                }
                peer.search.answered(question.size, now);
                (hop, peer)
            }
            Heard::TooLong { router, from, to, mtu } => {
                // Only of peers to which packets went is there anything to tell.
                let peer = self.peers.get_mut(&to).filter(|_| from == self.parts.address);
                let believed = peer.and_then(|peer| peer.search.told(mtu, now).then_some(peer));
                let Some(peer) = believed else {
                    self.parts.meters.ignored.inc();
                    return;
                };
                self.parts.meters.believed.inc();
                tracing::debug!(peer = %to, %router, mtu, "a router tells that packets are too long");
                let Some(hop) = table.lookup(peer.tunnel) else { return };
                (hop, peer)
            }
        };
        if let Some(way) = table.way(hop) {
            hand_on(hop.at, way, peer.search.limit());
        }
    }
}

fn ask(parts: &Parts, to: SocketAddrV4, question: &Question) {
    // One that the kernel doesn't take is one that is not answered.
    if parts.voice.send(&question.encode(), to.into()) {
        parts.meters.questions.inc();
    }
}

/// Puts what is known to where the data path reads it.
fn hand_on(peer: SocketAddr, way: &Way, limit: Option<u32>) {
    if way.limit() == limit.map(|limit| limit as usize) {
        return;
    }
    way.set_limit(limit);
    match limit {
        Some(inner) => {
            let mtu = inner + search::OVERHEAD;
            tracing::info!(%peer, mtu, inner, "the way to a peer is narrower than the interface");
        }
        None => tracing::info!(%peer, "the way to a peer takes what the interface takes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Table;

    fn paths(peers: u32) -> Paths {
        let routes = Handle::default();
        let net = |n: u32| format!("10.{}.{}.0/24", 64 + (n >> 8), n & 255).parse().unwrap();
        let at = |n: u32| SocketAddrV4::new(Ipv4Addr::from(0xc612_0000 + n), 8285);
        routes.publish(Table::new("10.5.1.0/24".parse().ok(), (0..peers).map(|n| (net(n), at(n)))));
        let (address, own) = ("198.18.50.1:8285".parse().unwrap(), [10, 5, 1, 0].into());
        let parts = Parts { voice: Voice::default(), address, own, routes, meters: Meters::default() };
        Paths { parts, mtu: Arc::new(AtomicU32::new(1472)), peers: HashMap::new() }
    }

    fn ways(paths: &Paths, act: impl Fn(&Way)) {
        let table = paths.parts.routes.at(Instant::now());
        table.peers().for_each(|(_, hop)| act(table.way(hop).unwrap()));
    }

    #[test]
    fn thousands_of_peers_are_asked_one_after_the_other_and_none_is_forgotten() {
        let mut paths = paths(4000);
        let mut now = Instant::now();
        assert!(!paths.tick(now) && paths.peers.is_empty(), "nothing goes anywhere");
        ways(&paths, |way| way.used(1472));
        let mut ticks = 0;
        while paths.tick(now) {
            let asking = paths.peers.values_mut().filter(|peer| peer.search.is_asking());
            assert!(asking.map(|peer| peer.search.answered(1472, now)).count() <= MOST_QUESTIONS);
            (now, ticks) = (now + WAIT, ticks + 1);
        }
        assert_eq!((paths.peers.len(), ticks), (4000, 4000_usize.div_ceil(MOST_QUESTIONS)));
        paths.parts.routes.publish(Table::default());
        paths.tick(now);
        assert!(paths.peers.is_empty(), "what is known of peers that are gone is forgotten");
    }

    #[test]
    fn what_is_heard_counts_only_if_it_is_about_a_peer_and_from_it() {
        let mut paths = paths(2);
        let now = Instant::now();
        ways(&paths, |way| way.used(100));
        paths.tick(now);
        let [here, there] = ["198.18.50.1:8285", "198.18.0.0:8285"].map(|at| at.parse().unwrap());
        let told = |from, to| Heard::TooLong { router: Ipv4Addr::LOCALHOST, from, to, mtu: 1272 };
        let limits = |paths: &Paths| {
            let mut all: Vec<_> = paths.peers.values().map(|peer| peer.search.limit()).collect();
            all.sort();
            all
        };
        paths.heard(told(there, there), now);
        paths.heard(told(here, "198.18.9.9:8285".parse().unwrap()), now);
        assert_eq!((limits(&paths), paths.parts.meters.ignored.get()), (vec![None, None], 2));
        paths.heard(told(here, there), now);
        assert_eq!((limits(&paths), paths.parts.meters.believed.get()), (vec![None, Some(1272)], 1));

        let peer = &paths.peers[&there];
        let right = Question { from: [10, 5, 1, 0].into(), to: peer.tunnel, size: 1472, secret: peer.secret };
        for wrong in [
            Question { secret: [0; message::SECRET], ..right },
            Question { from: [10, 5, 1, 9].into(), ..right },
            Question { to: [10, 64, 1, 0].into(), ..right },
            Question { to: [10, 99, 1, 0].into(), ..right },
        ] {
            paths.heard(Heard::Answer(wrong), now);
            assert_eq!(limits(&paths), [None, Some(1272)], "{wrong:?}");
        }
        paths.heard(Heard::Answer(right), now);
        assert_eq!(limits(&paths), [None, None]);
    }
}
