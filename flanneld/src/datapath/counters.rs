//! What was carried and what was dropped, and why. Every drop has a reason, every reason a counter.

use std::sync::Arc;

use arc_swap::ArcSwap;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::fast::Carried;
use super::path::Path;
use super::per_peer::PerPeer;
use crate::path_mtu;
use crate::route::traffic::Ledger;

/// Why a packet went no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[repr(usize)]
pub enum Reason {
    /// Less than an IP header.
    Short,
    /// Of no family that the network has here.
    Version,
    /// Its lengths do not add up.
    Length,
    /// A datagram longer than any packet that is taken.
    Truncated,
    /// No hop left.
    Ttl,
    /// No lease covers the destination.
    NoRoute,
    /// The outer sender is not the next hop of the inner source.
    Sender,
    /// The inner destination is not in the own lease.
    Destination,
    /// The own lease is lost: nothing is forwarded until there is one.
    NoLease,
    /// The kernel did not take it.
    Send,
    /// What the kernel left to be done with it makes no sense.
    Offload,
    /// No message of WireGuard.
    Protocol,
    /// Of a node that is no peer, or for a session that is nobody's.
    Stranger,
    /// There is no session with the peer, or not this one.
    Session,
    /// It was not sealed with the peer's key.
    Forged,
    /// It was there before, or it is too old to tell.
    Replayed,
    /// One handshake more than are answered at a time.
    Flood,
    /// Longer than the way takes; its sender is told.
    TooLong,
    /// Marked as having met congestion, which its sender does not understand.
    Congestion,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Reason; 19] = [
        Reason::Short,
        Reason::Version,
        Reason::Length,
        Reason::Truncated,
        Reason::Ttl,
        Reason::NoRoute,
        Reason::Sender,
        Reason::Destination,
        Reason::NoLease,
        Reason::Send,
        Reason::Offload,
        Reason::Protocol,
        Reason::Stranger,
        Reason::Session,
        Reason::Forged,
        Reason::Replayed,
        Reason::Flood,
        Reason::TooLong,
        Reason::Congestion,
    ];
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Way {
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Drop {
    direction: &'static str,
    reason: Reason,
}

/// All that the data path tells of itself.
#[derive(Debug, Clone)]
pub struct Meters {
    /// Out of the pods.
    pub out: Counters,
    /// In to the pods.
    pub into: Counters,
    /// Which features of the kernel are in use.
    pub path: Path,
    /// To and from each peer.
    pub peers: Ledger,
    /// How large packets to each may be.
    pub path_mtu: path_mtu::Meters,
    /// What the kernel carried by itself: part of the others as of the last [`Meters::refresh`].
    fast: Arc<ArcSwap<Carried>>,
}

#[derive(Debug, Default)]
struct Families {
    packets: Family<Way, Counter>,
    bytes: Family<Way, Counter>,
    fast: Family<Way, Counter>,
    answers: Family<Way, Counter>,
    fragmented: Family<Way, Counter>,
    drops: Family<Drop, Counter>,
}

/// What is shown at /metrics: the counters, after a look at what the kernel carried by itself.
#[derive(Debug)]
struct Shown {
    families: Families,
    meters: Meters,
}

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.meters.refresh();
        let Families { packets, bytes, fast, answers, fragmented, drops } = &self.families;
        for (name, help, family) in [
            ("flannel_packets", "Packets carried.", packets),
            ("flannel_bytes", "Bytes carried, without outer headers.", bytes),
            ("flannel_fast_packets", "Those of the packets carried that the kernel carried by itself.", fast),
            ("flannel_icmp_answers", "ICMP unreachable answers to pods.", answers),
            (
                "flannel_fragmented",
                "Packets sent on in fragments, as the way is narrower than the interface.",
                fragmented,
            ),
        ] {
            family.encode(encoder.encode_descriptor(name, help, None, family.metric_type())?)?;
        }
        let help = "Packets dropped, by reason.";
        drops.encode(encoder.encode_descriptor("flannel_drops", help, None, drops.metric_type())?)
    }
}

/// The counters of one direction. Each is one atomic number; adding to it orders nothing.
#[derive(Debug, Clone)]
pub struct Counters {
    /// Packets that were passed on.
    pub packets: Counter,
    /// Their bytes, without outer headers.
    pub bytes: Counter,
    /// Those of the packets that the kernel carried by itself.
    pub fast: Counter,
    /// ICMP answers given.
    pub answers: Counter,
    /// Packets that were sent on in fragments.
    pub fragmented: Counter,
    drops: [Counter; Reason::ALL.len()],
}

impl Meters {
    /// Registered for /metrics.
    pub fn register(registry: &mut Registry) -> Meters {
        let families = Families::default();
        let of = |direction: &'static str| Counters {
            packets: families.packets.get_or_create_owned(&Way { direction }),
            bytes: families.bytes.get_or_create_owned(&Way { direction }),
            fast: families.fast.get_or_create_owned(&Way { direction }),
            answers: families.answers.get_or_create_owned(&Way { direction }),
            fragmented: families.fragmented.get_or_create_owned(&Way { direction }),
            drops: Reason::ALL.map(|reason| families.drops.get_or_create_owned(&Drop { direction, reason })),
        };
        let (peers, fast) = (Ledger::default(), Arc::default());
        let (path, path_mtu) = (Path::register(registry), path_mtu::Meters::register(registry));
        let meters = Meters { out: of("out"), into: of("in"), path, peers, path_mtu, fast };
        registry.register_collector(Box::new(Shown { families, meters: meters.clone() }));
        registry.register_collector(Box::new(PerPeer(meters.peers.clone())));
        meters
    }

    /// Takes what the kernel carries by itself into account.
    pub fn set_fast(&self, carried: Carried) {
        self.fast.store(Arc::new(carried));
    }

    /// Adds what the kernel has carried by itself since the last time.
    pub fn refresh(&self) {
        self.fast.load().fold(self);
    }
}

impl Counters {
    /// Counts packets that were passed on.
    pub fn carried(&self, packets: u64, bytes: u64) {
        self.packets.inc_by(packets);
        self.bytes.inc_by(bytes);
    }

    /// Counts one dropped packet.
    pub fn drop(&self, reason: Reason) {
        self.drops[reason as usize].inc();
    }

    /// Counts so many dropped packets.
    pub fn drop_many(&self, reason: Reason, count: u64) {
        self.drops[reason as usize].inc_by(count);
    }

    /// How many were dropped for a reason.
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.drops[reason as usize].get()
    }
}
