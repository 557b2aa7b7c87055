//! The maps' elements, as `bpf/fastpath.c` has them.
#![allow(unsafe_code)]

use aya::Pod;

/// `struct lease`: the own one. Addresses and the port are in network order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Lease {
    pub network: u32,
    pub mask: u32,
    pub address: u32,
    pub underlay: u32,
    pub device: u32,
    pub mtu: u32,
    pub port: u16,
    pub flags: u16,
    /// The compiler would leave a hole here; the kernel wants to see every byte.
    pub unused: u32,
    pub deadline: u64,
}

/// `LEASE_SPLITS`: super-packets are cut before they reach another kernel.
pub(super) const SPLITS: u16 = 1;

/// `struct peer`: another node's subnet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Peer {
    pub next_hop: u32,
    pub flags: u32,
}

/// `PEER_TAKES`: it takes what a kernel sends.
pub(super) const TAKES: u32 = 1;
/// `PEER_NARROW`: flanneld judges its packets.
pub(super) const NARROW: u32 = 2;
/// `PEER_MARKS`: it takes over marks of congestion from the outer packet.
pub(super) const MARKS: u32 = 4;

/// `struct traffic`: what was carried to and from a subnet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Traffic {
    /// Packets out of the pods, as they are on the wire.
    pub out_packets: u64,
    /// Their bytes, without outer headers.
    pub out_bytes: u64,
    /// Packets in to the pods.
    pub in_packets: u64,
    /// Their bytes.
    pub in_bytes: u64,
}

// SAFETY: all three hold numbers only, laid out as in C without a hole, so that any bytes are a value and every byte has one.
unsafe impl Pod for Lease {}
// SAFETY: as above.
unsafe impl Pod for Peer {}
// SAFETY: as above.
unsafe impl Pod for Traffic {}

const _: () = assert!(size_of::<Lease>() == 40 && size_of::<Peer>() == 8 && size_of::<Traffic>() == 32);

impl Traffic {
    /// The sum of both.
    #[must_use]
    pub fn and(self, other: Traffic) -> Traffic {
        Traffic {
            out_packets: self.out_packets + other.out_packets,
            out_bytes: self.out_bytes + other.out_bytes,
            in_packets: self.in_packets + other.in_packets,
            in_bytes: self.in_bytes + other.in_bytes,
        }
    }

    /// What came on top of an earlier reading.
    #[must_use]
    pub fn since(self, before: Traffic) -> Traffic {
        Traffic {
            out_packets: self.out_packets.saturating_sub(before.out_packets),
            out_bytes: self.out_bytes.saturating_sub(before.out_bytes),
            in_packets: self.in_packets.saturating_sub(before.in_packets),
            in_bytes: self.in_bytes.saturating_sub(before.in_bytes),
        }
    }
}
