//! The wireguard backend: the encrypted mode. Each node has a key pair; the public key stands in its lease, in flannel's form, and packets are
//! sealed for the node whose subnet they go to.
//!
//! The kernel's WireGuard and ours speak the same over the wire, so that a node with Go flannel, which uses the kernel's, is a peer as any
//! other. The kernel's is not used here, also where there is one: ours ([`crate::datapath::wireguard`]) works everywhere.

mod keyfile;

use std::net::SocketAddrV4;
use std::sync::Arc;

use anyhow::Result;
use ipnetwork::Ipv4Network;
use serde_json::{Map, Value};

use crate::config::network::{BadNetwork, get};
use crate::datapath::wireguard::{Preshared, PublicKey, Wireguard};
use crate::family::Dual;
use crate::iface::External;
use crate::lease::key::{Advert, Lease};

/// What leases call it.
pub const TYPE: &str = "wireguard";
/// The device's name, as flannel has it; those of the host's further networks are counted.
pub fn device(network: usize) -> String {
    if network == 0 { "flannel-wg".to_owned() } else { format!("flannel-wg{network}") }
}
/// What flannel takes off the outer MTU: the headers of IPv6, UDP and WireGuard, and the tag. Over IPv4 it is 20 bytes less.
const OVERHEAD: u32 = 80;
const PORT: u16 = 51820;

/// The options of the network's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The outer UDP port, of this node and of all that name no other.
    pub port: u16,
    /// The outer MTU, where it is not the interface's.
    mtu: Option<u32>,
    preshared: Option<Preshared>,
    /// In seconds; 0: none.
    keepalive: u16,
}

impl Options {
    /// From the `Backend` object.
    pub fn parse(map: &Map<String, Value>) -> Result<Options, BadNetwork> {
        let bad = |problem: String| BadNetwork::Field { field: "Backend", problem };
        let number = |name: &str, default: u16| match get(map, name) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => {
                let number = value.as_u64().and_then(|n| u16::try_from(n).ok());
                number.ok_or_else(|| bad(format!("{name} {value} is no number up to {}", u16::MAX)))
            }
        };
        let text = |name: &str| match get(map, name) {
            None | Some(Value::Null) => Ok(""),
            Some(value) => value.as_str().ok_or_else(|| bad(format!("{name} must be a string"))),
        };
        match text("Mode")? {
            "" | "separate" | "auto" | "ipv4" => {}
            "ipv6" => return Err(bad("Mode ipv6 is not there yet: use separate, auto or ipv4".to_owned())),
            mode => return Err(bad(format!("Mode {mode} is none of separate, auto, ipv4, ipv6"))),
        }
        let preshared = match text("PSK")? {
            "" => None,
            // Not shown: it may be right but for one letter.
            text => Some(text.parse().map_err(|error| bad(format!("PSK {error}; wg genpsk makes one")))?),
        };
        Ok(Options {
            port: number("ListenPort", PORT).and_then(|port| match port {
                0 => Err(bad("ListenPort must not be 0: other nodes have to know it".to_owned())),
                port => Ok(port),
            })?,
            mtu: Some(number("MTU", 0)?).filter(|mtu| *mtu > 0).map(u32::from),
            preshared,
            keepalive: number("PersistentKeepaliveInterval", 0)?,
        })
    }

    /// The largest inner packet.
    pub fn mtu(&self, external: &External) -> u32 {
        self.mtu.unwrap_or(external.link.mtu).saturating_sub(OVERHEAD)
    }

    /// Where the lease of a peer says that it is, and its key; none if it is no peer of this kind.
    fn peer(&self, lease: &Lease) -> Option<(SocketAddrV4, PublicKey)> {
        let data: Value = serde_json::from_str(lease.backend.data.v4.as_ref()?).ok()?;
        let map = data.as_object().filter(|_| lease.backend.kind == TYPE)?;
        let key = get(map, "PublicKey")?.as_str()?.parse().ok()?;
        // Older flannels say no port.
        let port = match get(map, "Port").and_then(Value::as_u64) {
            None | Some(0) => self.port,
            Some(port) => u16::try_from(port).ok()?,
        };
        Some((SocketAddrV4::new(lease.public.ipv4()?, port), key))
    }
}

/// A peer as its lease describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Described {
    subnet: Ipv4Network,
    at: SocketAddrV4,
    key: PublicKey,
}

/// The peers by the leases, and the leases that say what another contradicts. A key is one node's, wherever its leases say that it is: it is
/// where it was heard last. An address is one node's, too: if leases name several keys for one, the newest counts. Pure.
fn peers<'a>(
    options: &Options,
    own: PublicKey,
    before: &[Described],
    leases: impl Iterator<Item = &'a Lease>,
) -> (Vec<Described>, Vec<Described>) {
    let mut all: Vec<_> = leases
        .filter_map(|lease| {
            let (at, key) = options.peer(lease)?;
            Some(Described { subnet: lease.subnets.ipv4()?, at, key })
        })
        .collect();
    // What was not there before is newer.
    all.sort_by_key(|peer| (before.contains(peer), peer.subnet.network(), peer.subnet.prefix()));
    let (mut known, mut odd) = (Vec::<Described>::new(), Vec::new());
    for peer in all {
        let at = known.iter().find(|other| other.key == peer.key).map_or(peer.at, |other| other.at);
        if at != peer.at
            || peer.key == own
            || known.iter().any(|other| other.at == at && other.key != peer.key)
        {
            odd.push(peer);
        }
        if peer.key != own && known.iter().all(|other| other.at != at || other.key == peer.key) {
            known.push(Described { at, ..peer });
        }
    }
    (known, odd)
}

/// This node among the others.
pub struct Node {
    options: Options,
    /// Keys and peers, as the data path has them.
    pub wireguard: Arc<Wireguard>,
    /// The peers of the last time.
    peers: Vec<Described>,
    /// The leases that contradict others, of which it was told.
    told: Vec<Described>,
}

impl Node {
    /// Reads the own key, or makes one.
    pub fn new(options: Options) -> Result<Node> {
        let identity = keyfile::identity(&keyfile::path())?;
        tracing::info!(key = %identity.public(), "this node's public key");
        let wireguard = Arc::new(Wireguard::new(identity, options.preshared.clone(), options.keepalive));
        Ok(Node { options, wireguard, peers: Vec::new(), told: Vec::new() })
    }

    /// The largest inner packet.
    pub fn mtu(&self, external: &External) -> u32 {
        self.options.mtu(external)
    }

    /// What the own lease says.
    pub fn advert(&self) -> Advert {
        let data = format!(r#"{{"PublicKey":"{}","Port":{}}}"#, self.wireguard.public(), self.options.port);
        Advert { kind: TYPE.to_owned(), data: Dual::only_v4(data), ..Advert::default() }
    }

    /// Hands the peers to the data path; the next hop to each subnet.
    pub fn publish<'a>(
        &mut self,
        others: impl Iterator<Item = &'a Lease>,
    ) -> Vec<(Ipv4Network, SocketAddrV4)> {
        let (peers, odd) = peers(&self.options, self.wireguard.public(), &self.peers, others);
        for peer in odd.iter().filter(|peer| !self.told.contains(peer)) {
            tracing::error!(
                subnet = %peer.subnet, at = %peer.at, key = %peer.key,
                "another lease has this key or this address. If both nodes live, give one of them a key of its own: remove its key file"
            );
        }
        self.wireguard.publish(peers.iter().map(|peer| (peer.at, peer.key)));
        let hops = peers.iter().map(|peer| (peer.subnet, peer.at)).collect();
        (self.peers, self.told) = (peers, odd);
        hops
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::wireguard::Identity;
    use serde_json::json;

    fn options(value: &Value) -> Result<Options, BadNetwork> {
        Options::parse(value.as_object().unwrap())
    }

    fn key(n: u8) -> PublicKey {
        Identity::from_bytes([n; 32]).public()
    }

    fn lease(n: u8, last: u8, data: &str) -> Lease {
        let backend = Advert { kind: TYPE.into(), data: Dual::only_v4(data.into()), ..Advert::default() };
        Lease {
            subnets: Dual::only_v4(format!("10.5.{n}.0/24").parse().unwrap()),
            public: Dual::only_v4([192, 0, 2, last].into()),
            backend,
        }
    }

    fn with_key(n: u8, last: u8, k: u8) -> Lease {
        lease(n, last, &format!(r#"{{"PublicKey":"{}","Port":51820}}"#, key(k)))
    }

    #[test]
    fn options_have_flannels_defaults() {
        let plain = options(&json!({ "Type": "wireguard" })).unwrap();
        assert_eq!((plain.port, plain.keepalive, &plain.preshared), (51820, 0, &None));
        let set = json!({
            "listenport": 7000, "MTU": 9000, "PersistentKeepaliveInterval": 25, "Mode": "auto",
            "PSK": key(1).to_string(),
        });
        let set = options(&set).unwrap();
        assert_eq!((set.port, set.mtu, set.keepalive, set.preshared.is_some()), (7000, Some(9000), 25, true));
        assert!(!format!("{set:?}").contains(&key(1).to_string()), "the PSK is not shown");
        for wrong in [
            json!({ "ListenPort": 0 }),
            json!({ "ListenPort": 70000 }),
            json!({ "PSK": "secret" }),
            json!({ "Mode": "ipv6" }),
            json!({ "Mode": "both" }),
            json!({ "PersistentKeepaliveInterval": "25s" }),
        ] {
            assert!(options(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn leases_of_flannel_are_peers() {
        let options = options(&json!({})).unwrap();
        let at = |lease: &Lease| options.peer(lease).map(|(at, _)| at.port());
        assert_eq!(at(&lease(1, 1, &format!(r#"{{"PublicKey":"{}","Port":7}}"#, key(1)))), Some(7));
        assert_eq!(
            at(&lease(1, 1, &format!(r#"{{"publickey":"{}"}}"#, key(1)))),
            Some(51820),
            "an older one"
        );
        for data in ["", "null", "{}", r#"{"PublicKey":"short","Port":1}"#] {
            assert_eq!(at(&lease(1, 1, data)), None, "{data}");
        }
        let vxlan = Lease {
            backend: Advert { kind: "vxlan".into(), ..with_key(1, 1, 1).backend },
            ..lease(1, 1, "")
        };
        assert_eq!(options.peer(&vxlan), None);
    }

    #[test]
    fn no_key_and_no_address_are_two_nodes() {
        let options = options(&json!({})).unwrap();
        let of = |before: &[Described], leases: &[Lease]| {
            let (peers, odd) = peers(&options, key(9), before, leases.iter());
            let subnet = |peer: &Described| peer.subnet.network().octets()[2];
            let hops: Vec<_> = peers.iter().map(|peer| (subnet(peer), peer.at.ip().octets()[3])).collect();
            (peers.clone(), hops, odd.iter().map(subnet).collect::<Vec<_>>())
        };
        let told = |before: &[Described], leases: &[Lease]| {
            let (_, hops, odd) = of(before, leases);
            (hops, odd)
        };
        let (two, hops, odd) = of(&[], &[with_key(1, 1, 1), with_key(2, 2, 2)]);
        assert_eq!((hops, odd), (vec![(1, 1), (2, 2)], vec![]));
        assert_eq!(
            told(&[], &[with_key(1, 1, 1), with_key(2, 1, 1)]),
            (vec![(1, 1), (2, 1)], vec![]),
            "two subnets"
        );
        assert_eq!(told(&[], &[with_key(1, 1, 9)]), (vec![], vec![1]), "our own key");
        let moved = [with_key(1, 1, 1), with_key(2, 2, 2), with_key(3, 7, 1)];
        assert_eq!(told(&two, &moved), (vec![(3, 7), (1, 7), (2, 2)], vec![1]), "a node that moved");
        let renewed = [with_key(1, 1, 1), with_key(2, 2, 2), with_key(3, 1, 7)];
        assert_eq!(told(&two, &renewed), (vec![(3, 1), (2, 2)], vec![1]), "a node that has another key");
    }
}
