//! Where the daemon's control side notes what it knows, for whoever asks. The packet path does not know it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hostnet::route::MAIN;
use hostnet::{Kind, Netlink};
use ipnetwork::IpNetwork;
use tokio::time::Instant;

use super::status::{Interface, Network, Own, PathState, Peer, PeerTraffic, Status, Total, Way};
use crate::datapath::counters::{Counters, Meters, Reason};
use crate::datapath::path::Feature;
use crate::family::Dual;
use crate::http::Ready;
use crate::lease::follow::Follower;
use crate::lease::keeper::Owned;
use crate::lease::observed::Health;
use crate::route::traffic::Traffic;

/// The board; cheap to clone.
#[derive(Clone)]
pub struct Board(Arc<Inner>);

struct Inner {
    start: Instant,
    subnet_file: PathBuf,
    meters: Meters,
    ready: Ready,
    health: Health,
    netlink: OnceLock<Netlink>,
    notes: Mutex<Notes>,
}

/// What changes.
#[derive(Default)]
struct Notes {
    facts: Option<(Interface, Network)>,
    own: Option<(Owned, Instant)>,
    peers: BTreeMap<Dual<IpAddr>, Vec<IpNetwork>>,
    bad_records: usize,
}

impl Board {
    /// Of a daemon that starts now.
    pub fn new(subnet_file: PathBuf, meters: Meters, ready: Ready, health: Health) -> Board {
        let start = Instant::now();
        let (netlink, notes) = (OnceLock::new(), Mutex::default());
        Board(Arc::new(Inner { start, subnet_file, meters, ready, health, netlink, notes }))
    }

    /// By this socket the kernel is asked for its routes.
    pub fn netlink(&self, netlink: Netlink) {
        let _ = self.0.netlink.set(netlink);
    }

    /// Notes how other nodes are reached, and by which backend.
    pub fn facts(&self, facts: (Interface, Network)) {
        self.note(|notes| notes.facts = Some(facts));
    }

    /// Notes the own lease; its age goes on if it is the one that was held before.
    pub fn own(&self, owned: Option<&Owned>) {
        self.note(|notes| {
            let since = |owned: &Owned| match &notes.own {
                Some((held, since)) if held.lease.subnets == owned.lease.subnets => *since,
                _ => Instant::now(),
            };
            notes.own = owned.map(|owned| (owned.clone(), since(owned)));
        });
    }

    /// Notes the picture of the leases.
    pub fn leases(&self, follower: &Follower, owned: &Owned) {
        let mut peers: BTreeMap<Dual<IpAddr>, Vec<IpNetwork>> = BTreeMap::new();
        for lease in follower.leases().filter(|lease| !owned.is_of(&lease.public)) {
            peers.entry(lease.public).or_default().extend(lease.subnets.values());
        }
        self.note(|notes| (notes.peers, notes.bad_records) = (peers, follower.bad_count()));
    }

    /// For how long the own lease is held; none without one.
    pub fn lease_age(&self) -> Option<f64> {
        self.note(|notes| notes.own.as_ref().map(|(_, since)| since.elapsed().as_secs_f64()))
    }

    fn note<T>(&self, work: impl FnOnce(&mut Notes) -> T) -> T {
        work(&mut self.0.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether packets are carried.
    pub fn ready(&self) -> bool {
        self.0.ready.get()
    }

    /// The same, as it changes.
    pub fn readiness(&self) -> Ready {
        self.0.ready.clone()
    }

    /// All that it knows.
    pub async fn status(&self) -> Status {
        let Inner { start, subnet_file, meters, ready, health, netlink, .. } = &*self.0;
        let now = Instant::now();
        meters.refresh();
        let (interface, network) = self.note(|notes| notes.facts.clone()).unzip();
        let routes = match netlink.get().zip(network.as_ref()) {
            Some((netlink, network)) => routes(netlink, &network.networks).await.unwrap_or_default(),
            None => Vec::new(),
        };
        let (own, peers, bad_records) = self.note(|notes| {
            (notes.own.as_ref().map(|own| told(own, now)), notes.peers.clone(), notes.bad_records)
        });
        let mut numbers: BTreeMap<IpAddr, Arc<Traffic>> = meters.peers.all().into_iter().collect();
        let peer = |(public, subnets): (Dual<IpAddr>, Vec<IpNetwork>)| {
            let counted = public.values().filter_map(|ip| numbers.remove(ip));
            let traffic = counted.map(|traffic| read(&traffic)).reduce(PeerTraffic::and);
            Peer { public_ips: public.values().copied().collect(), subnets, traffic }
        };
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: (now - *start).as_secs_f64(),
            ready: ready.get(),
            subnet_file: subnet_file.clone(),
            interface,
            network,
            lease: own,
            subnet_manager: health.told(now),
            path: path(meters),
            totals: [("out", &meters.out), ("in", &meters.into)]
                .map(|(direction, counters)| (direction.to_owned(), total(counters)))
                .into(),
            peers: peers.into_iter().map(peer).collect(),
            routes,
            bad_records,
        }
    }
}

fn told((owned, since): &(Owned, Instant), now: Instant) -> Own {
    let left = |until: Instant| until.saturating_duration_since(now).as_secs_f64();
    Own {
        subnets: owned.lease.subnets.values().copied().collect(),
        reserved: owned.reserved,
        age: (now - *since).as_secs_f64(),
        renewed: (now - owned.asked()).as_secs_f64(),
        ends_in: owned.end().map(left),
        safe_for: owned.safe_until().map(left),
    }
}

fn read(traffic: &Traffic) -> PeerTraffic {
    let (out, into) = (traffic.out.get(), traffic.into.get());
    PeerTraffic {
        out_packets: out.packets,
        out_bytes: out.bytes,
        lost: traffic.lost.load(std::sync::atomic::Ordering::Relaxed),
        in_packets: into.packets,
        in_bytes: into.bytes,
    }
}

fn path(meters: &Meters) -> PathState {
    let queues = meters.path.queues();
    // Where the kernel alone carries packets, none of the features was asked for.
    let features = if queues == 0 { &[][..] } else { &Feature::ALL[..] };
    let told = |feature: &Feature| (format!("{feature:?}"), meters.path.uses(*feature));
    PathState { queues, features: features.iter().map(told).collect() }
}

fn total(counters: &Counters) -> Total {
    let drops = Reason::ALL.iter().map(|reason| (format!("{reason:?}"), counters.dropped(*reason)));
    Total {
        packets: counters.packets.get(),
        bytes: counters.bytes.get(),
        icmp_answers: counters.answers.get(),
        drops: drops.filter(|(_, count)| *count > 0).collect(),
    }
}

/// The kernel's routes into the network, the refusing one among them.
async fn routes(netlink: &Netlink, networks: &[IpNetwork]) -> hostnet::Result<Vec<Way>> {
    let names: BTreeMap<u32, String> =
        netlink.links().await?.into_iter().map(|link| (link.index, link.name)).collect();
    let inside = |to: IpNetwork| {
        networks.iter().any(|network| to.prefix() >= network.prefix() && network.contains(to.ip()))
    };
    let routes = netlink.routes().await?.into_iter().filter(|route| route.table == MAIN && inside(route.dst));
    let way = |route: hostnet::Route| Way {
        to: route.dst,
        via: route.gateway.map(|ip| ip.to_string()),
        // The kernel names the loopback interface for a route that refuses.
        device: route.oif.filter(|_| route.kind == Kind::Unicast).and_then(|oif| names.get(&oif).cloned()),
        mtu: route.mtu,
        unreachable: route.kind == Kind::Unreachable,
    };
    Ok(routes.map(way).collect())
}
