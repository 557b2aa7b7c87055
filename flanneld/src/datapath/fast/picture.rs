//! What the kernel's programs are told: elements of maps, from leases and a place. Pure.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipnetwork::Ipv4Network;

use super::layout::{Lease, MARKS, NARROW, Peer, SPLITS, TAKES};

/// Subnets of other nodes in the kernel at most; packets to more of them go by way of flanneld.
pub const MOST_PEERS: usize = 16_384;

/// Where packets go: interfaces and addresses of this host, which change seldom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The address from which and to which outer packets go.
    pub address: Ipv4Addr,
    /// The same on all nodes.
    pub port: u16,
    /// The interface to the other nodes.
    pub underlay: u32,
    /// The backend's device.
    pub device: u32,
    /// The largest inner packet.
    pub mtu: u32,
    /// Whether the interface leads to a wire, for which every super-packet is cut; not so the one to another namespace of this machine.
    pub wire: bool,
}

/// Another node, as the kernel is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Its subnet.
    pub subnet: Ipv4Network,
    /// Its flanneld.
    pub next_hop: Ipv4Addr,
    /// Whether it takes what a kernel sends: see [`crate::lease::features::Feature::Offload`].
    pub takes: bool,
    /// Whether it takes over marks of congestion from the outer packet.
    pub takes_marks: bool,
    /// Whether the way there takes less than the interface: its packets are judged by flanneld, in both directions.
    pub narrow: bool,
}

/// The element of the map `lease`. `clock` is the kernel's CLOCK_MONOTONIC at `now`, read no later than it.
pub(super) fn lease(
    own: Ipv4Network,
    place: &Place,
    until: Option<Instant>,
    (now, clock): (Instant, Duration),
) -> Lease {
    let deadline = |until: Instant| clock + until.saturating_duration_since(now);
    Lease {
        network: u32::from(own.network()).to_be(),
        mask: u32::from(own.mask()).to_be(),
        address: u32::from(place.address).to_be(),
        underlay: place.underlay,
        device: place.device,
        mtu: place.mtu,
        port: place.port.to_be(),
        flags: if place.wire { SPLITS } else { 0 },
        unused: 0,
        deadline: until
            .map_or(u64::MAX, |until| u64::try_from(deadline(until).as_nanos()).unwrap_or(u64::MAX)),
    }
}

/// The elements of the map `peers`. The programs look up a subnet as long as the own one, as flannel hands them out; to one of another
/// length, packets go by way of flanneld.
pub(super) fn peers(own: Ipv4Network, others: impl Iterator<Item = Neighbour>) -> BTreeMap<u32, Peer> {
    let element = |peer: Neighbour| {
        let flags = [(peer.takes, TAKES), (peer.takes_marks, MARKS), (peer.narrow, NARROW)];
        let flags = flags.iter().filter(|(is, _)| *is).map(|(_, flag)| flag).sum();
        (u32::from(peer.subnet.network()).to_be(), Peer { next_hop: u32::from(peer.next_hop).to_be(), flags })
    };
    others.filter(|peer| peer.subnet.prefix() == own.prefix()).take(MOST_PEERS).map(element).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place {
        address: Ipv4Addr::new(192, 0, 2, 1),
        port: 8285,
        underlay: 2,
        device: 5,
        mtu: 1472,
        wire: true,
    };

    #[test]
    fn the_deadline_is_the_leases_end_by_the_kernels_clock() {
        let (now, clock) = (Instant::now(), Duration::from_secs(100));
        let own = "10.5.1.0/24".parse().unwrap();
        let deadline =
            |until: Option<Instant>| Duration::from_nanos(lease(own, &PLACE, until, (now, clock)).deadline);
        assert_eq!(deadline(Some(now + Duration::from_secs(7))), Duration::from_secs(107));
        assert_eq!(deadline(Some(now - Duration::from_secs(7))), clock, "over");
        assert_eq!(deadline(None).as_nanos(), u64::MAX.into());
    }

    #[test]
    fn addresses_are_in_network_order() {
        let lease = lease("10.5.1.0/24".parse().unwrap(), &PLACE, None, (Instant::now(), Duration::ZERO));
        assert_eq!(lease.network.to_ne_bytes(), [10, 5, 1, 0]);
        assert_eq!(lease.mask.to_ne_bytes(), [255, 255, 255, 0]);
        assert_eq!(lease.address.to_ne_bytes(), [192, 0, 2, 1]);
        assert_eq!(lease.port.to_ne_bytes(), 8285_u16.to_be_bytes());
    }

    #[test]
    fn only_subnets_of_the_own_length_are_told() {
        let peer = |subnet: &str, takes| Neighbour {
            subnet: subnet.parse().unwrap(),
            next_hop: Ipv4Addr::new(192, 0, 2, 2),
            takes,
            takes_marks: false,
            narrow: false,
        };
        let others = [peer("10.5.2.0/24", true), peer("10.5.3.0/24", false), peer("10.5.4.0/25", true)];
        let told = peers("10.5.1.0/24".parse().unwrap(), others.into_iter());
        let flags = |subnet: [u8; 4]| told.get(&u32::from_ne_bytes(subnet)).map(|peer| peer.flags);
        assert_eq!(flags([10, 5, 2, 0]), Some(TAKES));
        assert_eq!(flags([10, 5, 3, 0]), Some(0), "it is heard, but not sent to");
        assert_eq!(flags([10, 5, 4, 0]), None);
    }
}
