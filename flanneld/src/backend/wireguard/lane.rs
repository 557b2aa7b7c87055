//! One device with its socket: which packets go through it, and who its peers are.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use ipnetwork::IpNetwork;
use serde_json::Value;

use super::TYPE;
use crate::config::network::get;
use crate::datapath::wireguard::PublicKey;
use crate::family::{Dual, Family};
use crate::iface::External;
use crate::lease::key::Lease;

/// See the module.
#[derive(Debug, Clone)]
pub struct Lane {
    /// The device's name, by the number of the host's network.
    pub device: fn(usize) -> String,
    /// The family of the pods' packets in it; none: both.
    pub inner: Option<Family>,
    /// The family of the hosts' addresses that it goes between; none: whichever is likelier to be reached.
    outer: Option<Family>,
    /// The outer UDP port.
    pub port: u16,
    /// The peers of the last time.
    peers: Vec<Described>,
}

/// A subnet of a peer, as the lease describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Described {
    /// The subnet.
    pub subnet: IpNetwork,
    /// Where the peer listens.
    pub at: SocketAddr,
    /// By which it is known.
    pub key: PublicKey,
}

/// What a lease says of one family.
struct Data {
    key: PublicKey,
    /// Older flannels say none.
    port: Option<u16>,
}

impl Data {
    fn read(lease: &Lease, family: Family) -> Option<Data> {
        let data: Value = serde_json::from_str(lease.backend.data.get(family)?).ok()?;
        let map = data.as_object()?;
        let key = get(map, "PublicKey")?.as_str()?.parse().ok()?;
        let port = match get(map, "Port").and_then(Value::as_u64) {
            None | Some(0) => None,
            Some(port) => Some(u16::try_from(port).ok()?),
        };
        Some(Data { key, port })
    }
}

impl Lane {
    pub(super) fn new(
        device: fn(usize) -> String,
        inner: Option<Family>,
        outer: Option<Family>,
        port: u16,
    ) -> Lane {
        Lane { device, inner, outer, port, peers: Vec::new() }
    }

    /// Whether it carries the pods' packets of a family.
    pub fn carries(&self, family: Family) -> bool {
        self.inner.is_none_or(|inner| inner == family)
    }

    /// Where its socket listens: at the address of its family, or at all if it has both.
    pub fn listen(&self, external: &External) -> Result<SocketAddr> {
        let ip = match (self.outer, external.address) {
            (None, Dual { v4: Some(_), v6: Some(_) }) => Ipv6Addr::UNSPECIFIED.into(),
            (None, Dual { v4, v6 }) => v4.or(v6).context("the interface has no address")?,
            (Some(family), addresses) => *addresses.get(family).with_context(|| {
                format!(
                    "{} sends over {family}, of which {} has no address that is used: change the Backend's Mode, or enable {family} for the network",
                    (self.device)(0), external.link.name
                )
            })?,
        };
        Ok(SocketAddr::new(ip, self.port))
    }

    /// Over which family a peer is to be reached, as flannel chooses it: IPv4 if the peer's address of it is no private one, then IPv6 if
    /// neither side's is, else IPv4.
    fn outer_to(&self, peer: &Dual<IpAddr>, here: &Dual<IpAddr>) -> Option<Family> {
        let both = |family: &Family| peer.get(*family).is_some() && here.get(*family).is_some();
        if self.outer.is_some() {
            return self.outer.filter(both);
        }
        if !Family::BOTH.iter().all(both) {
            return Family::BOTH.into_iter().find(both);
        }
        let v4_is_private = peer.ipv4().is_some_and(|ip| ip.is_private());
        let v6_is_private =
            [peer, here].iter().any(|node| node.ipv6().is_some_and(|ip| ip.is_unique_local()));
        Some(if v4_is_private && !v6_is_private { Family::V6 } else { Family::V4 })
    }

    /// Where the lease of a peer says that it is, and its key; none if it is no peer of this lane. `here` are the own node's addresses.
    fn peer(&self, lease: &Lease, here: &Dual<IpAddr>) -> Option<(SocketAddr, PublicKey)> {
        let outer = self.outer_to(&lease.public, here).filter(|_| lease.backend.kind == TYPE)?;
        let mut families = [Family::V6, Family::V4].into_iter().filter(|family| self.carries(*family));
        let key = families.find_map(|family| Data::read(lease, family))?.key;
        let port = Data::read(lease, outer).and_then(|data| data.port).unwrap_or(self.port);
        Some((SocketAddr::new(*lease.public.get(outer)?, port), key))
    }

    /// Takes over the leases of the others: the peers, and the leases that say what another contradicts.
    pub(super) fn publish(
        &mut self,
        own: PublicKey,
        here: &Dual<IpAddr>,
        leases: &[&Lease],
    ) -> (&[Described], Vec<Described>) {
        let described = leases.iter().filter_map(|lease| Some((lease, self.peer(lease, here)?)));
        let all = described.flat_map(|(lease, (at, key))| {
            let subnets = lease.subnets.iter().filter(|(family, _)| self.carries(*family));
            subnets.map(move |(_, subnet)| Described { subnet: *subnet, at, key })
        });
        let (peers, odd) = consistent(own, &self.peers, all.collect());
        self.peers = peers;
        (&self.peers, odd)
    }
}

/// What is described without a contradiction, and what isn't. A key is one node's, wherever its leases say that it is: it is where it was
/// heard last. An address is one node's, too: if leases name several keys for one, the newest counts. Pure.
fn consistent(
    own: PublicKey,
    before: &[Described],
    mut all: Vec<Described>,
) -> (Vec<Described>, Vec<Described>) {
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

#[cfg(test)]
mod tests {
    use super::super::testing::{key, lease, options, with_key};
    use super::*;
    use crate::lease::key::Advert;
    use serde_json::json;

    /// The only device of a network of IPv4, or that of a mode.
    fn lane(mode: &str) -> Lane {
        options(&json!({ "Mode": mode })).unwrap().lanes(&Dual::only_v4(())).remove(0)
    }

    fn here() -> Dual<IpAddr> {
        Dual { v4: "192.0.2.9".parse().ok(), v6: "2001:db8::9".parse().ok() }
    }

    #[test]
    fn leases_of_flannel_are_peers() {
        let lane = lane("separate");
        let at = |lease: &Lease| lane.peer(lease, &here()).map(|(at, _)| at.port());
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
        assert_eq!(lane.peer(&vxlan, &here()), None);
    }

    /// A lease of both families, whose host has these addresses.
    fn dual(v4: &str, v6: &str) -> Lease {
        let data = |port| Some(format!(r#"{{"PublicKey":"{}","Port":{port}}}"#, key(1)));
        Lease {
            subnets: Dual { v4: "10.5.1.0/24".parse().ok(), v6: "fc00:0:0:1::/64".parse().ok() },
            public: Dual { v4: v4.parse().ok(), v6: v6.parse().ok() },
            backend: Advert { data: Dual { v4: data(4), v6: data(6) }, ..with_key(1, 1, 1).backend },
        }
    }

    #[test]
    fn each_family_goes_its_way() {
        let networks = Dual { v4: Some(()), v6: Some(()) };
        let of = |mode: &str, lease: &Lease| {
            let mut lanes = options(&json!({ "Mode": mode })).unwrap().lanes(&networks);
            let peers = lanes.iter_mut().flat_map(|lane| lane.publish(key(9), &here(), &[lease]).0.to_vec());
            peers.map(|peer| format!("{} {}", peer.subnet, peer.at)).collect::<Vec<_>>()
        };
        let lease = dual("192.0.2.1", "2001:db8::1");
        assert_eq!(of("separate", &lease), ["10.5.1.0/24 192.0.2.1:4", "fc00:0:0:1::/64 [2001:db8::1]:6"]);
        assert_eq!(of("ipv6", &lease), ["10.5.1.0/24 [2001:db8::1]:6", "fc00:0:0:1::/64 [2001:db8::1]:6"]);
        assert_eq!(of("auto", &lease), ["10.5.1.0/24 192.0.2.1:4", "fc00:0:0:1::/64 192.0.2.1:4"]);
        let only_v4 = Lease { public: Dual::only_v4([192, 0, 2, 1].into()), ..lease };
        assert_eq!(of("separate", &only_v4), ["10.5.1.0/24 192.0.2.1:4"]);
        assert_eq!(of("auto", &only_v4), ["10.5.1.0/24 192.0.2.1:4", "fc00:0:0:1::/64 192.0.2.1:4"]);
    }

    #[test]
    fn the_outer_family_is_chosen_as_in_flannel() {
        let lane = lane("auto");
        let to = |v4, v6, here: &Dual<IpAddr>| lane.outer_to(&dual(v4, v6).public, here);
        assert_eq!(to("192.0.2.1", "2001:db8::1", &here()), Some(Family::V4));
        assert_eq!(to("10.9.9.1", "2001:db8::1", &here()), Some(Family::V6), "it is behind a NAT, maybe");
        assert_eq!(to("10.9.9.1", "fd00::1", &here()), Some(Family::V4));
        let private = Dual { v6: "fd00::9".parse().ok(), ..here() };
        assert_eq!(to("10.9.9.1", "2001:db8::1", &private), Some(Family::V4));
        assert_eq!(to("-", "2001:db8::1", &here()), Some(Family::V6));
        assert_eq!(to("10.9.9.1", "2001:db8::1", &Dual { v6: None, ..here() }), Some(Family::V4));
    }

    #[test]
    fn no_key_and_no_address_are_two_nodes() {
        let of = |before: &[Described], leases: &[Lease]| {
            let mut lane = Lane { peers: before.to_vec(), ..lane("separate") };
            let (peers, odd) = lane.publish(key(9), &here(), &leases.iter().collect::<Vec<_>>());
            let octet = |ip: IpAddr, n: usize| if let IpAddr::V4(ip) = ip { ip.octets()[n] } else { 0 };
            let subnet = |peer: &Described| octet(peer.subnet.network(), 2);
            let hops: Vec<_> = peers.iter().map(|peer| (subnet(peer), octet(peer.at.ip(), 3))).collect();
            (peers.to_vec(), hops, odd.iter().map(subnet).collect::<Vec<_>>())
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
