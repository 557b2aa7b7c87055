//! What `flanneld status` tells, as it travels: every length of time in seconds, every size in bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// flanneld's.
    pub version: String,
    /// Of the process.
    pub pid: u32,
    /// How long it runs.
    pub uptime: f64,
    /// Whether packets are carried: a lease is held and the device is there.
    pub ready: bool,
    /// Where the CNI plugin finds the subnet.
    pub subnet_file: PathBuf,
    /// How other nodes are reached; none until it is found.
    pub interface: Option<Interface>,
    /// What the network's configuration says; none until it is read.
    pub network: Option<Network>,
    /// The own lease; none while there is none.
    pub lease: Option<Own>,
    /// How the source of subnets answers.
    pub subnet_manager: ManagerState,
    /// How packets are moved.
    pub path: PathState,
    /// Packets of all peers by direction, `out` and `in`.
    pub totals: BTreeMap<String, Total>,
    /// The other nodes.
    pub peers: Vec<Peer>,
    /// The kernel's routes into the network.
    pub routes: Vec<Way>,
    /// Records below the leases' prefix that are damaged and left out.
    pub bad_records: usize,
}

/// The interface to the other nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    /// E.g. `eth0`.
    pub name: String,
    /// The kernel's number for it.
    pub index: u32,
    /// Its own address of each family that is used.
    pub addresses: Vec<IpAddr>,
    /// What other nodes are told.
    pub public_ips: Vec<IpAddr>,
    /// Of outer packets.
    pub mtu: u32,
}

/// The network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// All pods' addresses, of each family.
    pub networks: Vec<IpNetwork>,
    /// As the configuration names it, e.g. `udp`.
    pub backend: String,
    /// Of the tunnel, if it has one.
    pub port: Option<u16>,
    /// The tunnel's device, if it has one.
    pub device: Option<String>,
    /// Of inner packets.
    pub mtu: u32,
}

/// The own lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Own {
    /// This node's pods' addresses, of each family.
    pub subnets: Vec<IpNetwork>,
    /// It has no end.
    pub reserved: bool,
    /// For how long this process holds it.
    pub age: f64,
    /// Since it was taken or renewed.
    pub renewed: f64,
    /// Until it ends in etcd, unless it is renewed.
    pub ends_in: Option<f64>,
    /// For how long packets are carried by it if etcd stays silent.
    pub safe_for: Option<f64>,
}

/// Where subnets come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// They are taken in etcd.
    #[default]
    Etcd,
    /// Kubernetes gives them to its nodes.
    Kubernetes,
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Manager::Etcd { "etcd" } else { "kubernetes" })
    }
}

/// What is known of the source of subnets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ManagerState {
    /// Which one it is.
    pub kind: Manager,
    /// Since it last answered or told news.
    pub last_answer: Option<f64>,
    /// What is wrong with it now.
    pub error: Option<String>,
    /// For how long that is so.
    pub error_for: Option<f64>,
    /// How often the watch had to be begun anew.
    pub watch_restarts: u64,
}

/// How packets are moved.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PathState {
    /// Queues of the device; 0: the kernel alone carries the packets.
    pub queues: usize,
    /// Features of the kernel, and whether they are in use.
    pub features: BTreeMap<String, bool>,
}

/// One direction.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Total {
    /// Packets passed on.
    pub packets: u64,
    /// Their bytes, without outer headers.
    pub bytes: u64,
    /// ICMP unreachable answers given to pods.
    pub icmp_answers: u64,
    /// Packets dropped, by reason; reasons that never came up are left out.
    pub drops: BTreeMap<String, u64>,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Where it is reached, by each family.
    pub public_ips: Vec<IpAddr>,
    /// Its leases.
    pub subnets: Vec<IpNetwork>,
    /// Its numbers; none where the kernel carries the packets, which counts for all peers together.
    pub traffic: Option<PeerTraffic>,
}

/// Packets and bytes (inner ones) of a peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerTraffic {
    /// Sent to it.
    pub out_packets: u64,
    /// Their bytes.
    pub out_bytes: u64,
    /// To it, but not taken by the kernel.
    pub lost: u64,
    /// Received from it, and passed all checks.
    pub in_packets: u64,
    /// Their bytes.
    pub in_bytes: u64,
}

impl PeerTraffic {
    /// Both together: a peer may be reached by an address of each family.
    pub fn and(self, other: PeerTraffic) -> PeerTraffic {
        PeerTraffic {
            out_packets: self.out_packets + other.out_packets,
            out_bytes: self.out_bytes + other.out_bytes,
            lost: self.lost + other.lost,
            in_packets: self.in_packets + other.in_packets,
            in_bytes: self.in_bytes + other.in_bytes,
        }
    }
}

/// A route of the kernel's main table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Way {
    /// To where.
    pub to: IpNetwork,
    /// The next hop.
    pub via: Option<String>,
    /// The device.
    pub device: Option<String>,
    /// Of the route.
    pub mtu: Option<u32>,
    /// It refuses packets.
    pub unreachable: bool,
}

impl Status {
    /// The peer whose lease covers an address, and the lease.
    pub fn peer_of(&self, ip: IpAddr) -> Option<(&Peer, IpNetwork)> {
        let covers = |peer: &Peer| peer.subnets.iter().copied().find(|subnet| subnet.contains(ip));
        self.peers.iter().find_map(|peer| Some((peer, covers(peer)?)))
    }
}
