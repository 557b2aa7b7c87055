//! Where each subnet lives: an immutable table, and the one pointer by which control hands it to the data path.

pub mod traffic;
pub mod way;

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use ipnetwork::{IpNetwork, Ipv4Network};

use traffic::{Ledger, Traffic};
use way::Way;

use crate::family::{Dual, Family, network};

/// A next hop, as the data path hands it on: where it is, and its place in the table that told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// The other flanneld.
    pub at: SocketAddr,
    place: u32,
}

impl Hop {
    /// The same peer, reached elsewhere than its lease says.
    pub fn found_at(self, at: SocketAddr) -> Hop {
        Hop { at, ..self }
    }
}

impl From<SocketAddr> for Hop {
    /// One that no table told; nothing is counted for it.
    fn from(at: SocketAddr) -> Hop {
        Hop { at, place: u32::MAX }
    }
}

/// Next hops by network. Every packet is looked up here, and none of its making decides what is in it: a hash of a few
/// instructions does.
type NextHops<Bits> = HashMap<Bits, Hop, RandomState>;

/// The subnets of one family, by prefix length, the longest first: the cost of a lookup depends on how many lengths there are (as a rule
/// one).
type ByLength<Bits> = Vec<(u8, NextHops<Bits>)>;

/// Subnets and their next hops; never changed, only replaced.
#[derive(Debug, Clone, Default)]
pub struct Table {
    own: Dual<IpNetwork>,
    v4: ByLength<u32>,
    v6: ByLength<u128>,
    /// By [`Hop`]'s place.
    traffic: Vec<Arc<Traffic>>,
    /// Until when the own subnet is certainly the own; none: for ever.
    until: Option<Instant>,
}

impl Table {
    /// A table of IPv4 from the own subnet (none: no lease, nothing is forwarded) and those of the peers.
    pub fn new(
        own: Option<Ipv4Network>,
        peers: impl IntoIterator<Item = (Ipv4Network, SocketAddrV4)>,
    ) -> Table {
        let own = Dual { v4: own.map(IpNetwork::V4), v6: None };
        let peers = peers.into_iter().map(|(subnet, at)| (IpNetwork::V4(subnet), SocketAddr::V4(at)));
        Table::counted(own, peers, &Ledger::default())
    }

    /// The same of both families; what goes to and comes from each peer is counted in the ledger.
    pub fn counted(
        own: Dual<IpNetwork>,
        peers: impl IntoIterator<Item = (IpNetwork, SocketAddr)>,
        ledger: &Ledger,
    ) -> Table {
        let mut table = Table { own, ..Table::default() };
        let mut hops: HashMap<SocketAddr, Hop> = HashMap::new();
        for (subnet, at) in peers {
            let next_hop = *hops.entry(at).or_insert_with(|| {
                table.traffic.push(ledger.of(at.ip()));
                Hop { at, place: u32::try_from(table.traffic.len() - 1).unwrap_or(u32::MAX) }
            });
            match subnet {
                IpNetwork::V4(net) => {
                    insert(&mut table.v4, subnet.prefix(), net.network().to_bits(), next_hop);
                }
                IpNetwork::V6(net) => {
                    insert(&mut table.v6, subnet.prefix(), net.network().to_bits(), next_hop);
                }
            }
        }
        table.v4.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        table.v6.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        table
    }

    /// The same, but only until then.
    pub fn valid_until(self, until: Option<Instant>) -> Table {
        Table { until, ..self }
    }

    /// The own subnet of each family.
    pub fn own(&self) -> &Dual<IpNetwork> {
        &self.own
    }

    /// The next hop to an address: that of the longest prefix that covers it.
    pub fn lookup(&self, ip: impl Into<IpAddr>) -> Option<Hop> {
        match ip.into() {
            IpAddr::V4(ip) => find(&self.v4, |length| ip.to_bits() & mask(length)),
            IpAddr::V6(ip) => find(&self.v6, |length| ip.to_bits() & mask_v6(length)),
        }
    }

    /// The numbers of a next hop that this table told.
    pub fn traffic(&self, hop: Hop) -> Option<&Traffic> {
        self.traffic.get(hop.place as usize).map(Arc::as_ref)
    }

    /// What is known of the way to a next hop that this table told.
    pub fn way(&self, hop: Hop) -> Option<&Way> {
        self.traffic(hop).map(|traffic| &traffic.way)
    }

    /// All subnets and their next hops, in no order.
    pub fn peers(&self) -> impl Iterator<Item = (IpNetwork, Hop)> {
        let v4 = all(&self.v4).map(|(length, bits, hop)| (Family::V4.address(bits.into()), length, hop));
        let v6 = all(&self.v6).map(|(length, bits, hop)| (Family::V6.address(bits), length, hop));
        v4.chain(v6).filter_map(|(ip, length, hop)| Some((network(ip, length)?, hop)))
    }

    /// Where all next hops are.
    pub fn next_hops(&self) -> BTreeSet<IpAddr> {
        self.peers().map(|(_, hop)| hop.at.ip()).collect()
    }

    /// How many subnets it has.
    pub fn len(&self) -> usize {
        all(&self.v4).count() + all(&self.v6).count()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn insert<Bits: Eq + Hash>(subnets: &mut ByLength<Bits>, length: u8, network: Bits, hop: Hop) {
    match subnets.iter_mut().find(|(there, _)| *there == length) {
        Some((_, hops)) => drop(hops.insert(network, hop)),
        None => subnets.push((length, NextHops::from_iter([(network, hop)]))),
    }
}

fn find<Bits: Eq + Hash>(subnets: &ByLength<Bits>, masked: impl Fn(u8) -> Bits) -> Option<Hop> {
    subnets.iter().find_map(|(length, hops)| hops.get(&masked(*length)).copied())
}

fn all<Bits: Copy>(subnets: &ByLength<Bits>) -> impl Iterator<Item = (u8, Bits, Hop)> {
    let with = |length: u8| move |(bits, hop): (&Bits, &Hop)| (length, *bits, *hop);
    subnets.iter().flat_map(move |(length, hops)| hops.iter().map(with(*length)))
}

fn mask(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

fn mask_v6(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

/// The only link from control to data. Reading it takes no lock and waits for nobody.
#[derive(Debug, Clone, Default)]
pub struct Handle(Arc<ArcSwap<Table>>);

impl Handle {
    /// Publishes a new table.
    pub fn publish(&self, table: Table) {
        self.0.store(Arc::new(table));
    }

    /// The table as it is at this moment. One that has run out is taken away here, by whoever comes first: a process that was
    /// paused beyond the end of its lease does not send one packet before control has found out.
    pub fn at(&self, now: Instant) -> arc_swap::Guard<Arc<Table>> {
        let table = self.0.load();
        if table.until.is_none_or(|until| now < until) {
            return table;
        }
        self.0.compare_and_swap(&table, Arc::default());
        self.0.load()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn the_longest_prefix_wins() {
        let hop = |last: u8| SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, last), 8285);
        let peers = [("10.5.0.0/16", 1), ("10.5.2.0/24", 2), ("10.5.2.128/25", 3), ("0.0.0.0/0", 4)];
        let table = Table::new(None, peers.map(|(net, last)| (net.parse().unwrap(), hop(last))));
        for (ip, last) in [("10.5.9.9", 1), ("10.5.2.1", 2), ("10.5.2.200", 3), ("8.8.8.8", 4)] {
            let next = table.lookup(ip.parse::<Ipv4Addr>().unwrap());
            assert_eq!(next.map(|next| next.at), Some(hop(last).into()), "{ip}");
        }
        assert_eq!(table.len(), 4);
        assert_eq!(Table::default().lookup(Ipv4Addr::LOCALHOST), None);
    }

    #[test]
    fn each_family_has_its_subnets() {
        let hop = |last: u8| SocketAddr::new(Ipv4Addr::new(192, 0, 2, last).into(), 51820);
        let peers = [
            ("10.5.2.0/24", 2),
            ("fc00:0:0:2::/64", 2),
            ("fc00:0:0:3::/64", 3),
            ("fc00::/48", 4),
            ("::/0", 5),
        ];
        let peers = peers.map(|(net, last)| (net.parse().unwrap(), hop(last)));
        let table = Table::counted(Dual::default(), peers, &Ledger::default());
        for (ip, last) in [
            ("10.5.2.1", 2),
            ("fc00:0:0:2::1", 2),
            ("fc00:0:0:3:9::", 3),
            ("fc00:0:0:9::", 4),
            ("fd00::1", 5),
        ] {
            let next = table.lookup(ip.parse::<IpAddr>().unwrap());
            assert_eq!(next.map(|next| next.at), Some(hop(last)), "{ip}");
        }
        assert_eq!(table.lookup(Ipv4Addr::new(10, 5, 3, 1)), None);
        assert_eq!((table.len(), table.traffic.len()), (5, 4), "one peer, two families, one number");
        let mut all: Vec<_> = table.peers().map(|(net, hop)| (net, hop.at)).collect();
        let mut expected = peers.to_vec();
        all.sort();
        expected.sort();
        assert_eq!(all, expected);
    }

    #[test]
    fn a_table_that_has_run_out_forwards_nothing() {
        let (now, second) = (Instant::now(), std::time::Duration::from_secs(1));
        let own = "10.5.1.0/24".parse().ok();
        let peer = ("10.5.2.0/24".parse().unwrap(), "192.0.2.2:8285".parse().unwrap());
        let handle = Handle::default();
        handle.publish(Table::new(own, [peer]).valid_until(Some(now + second)));
        let own = Dual { v4: own.map(IpNetwork::V4), v6: None };
        assert_eq!((*handle.at(now).own(), handle.at(now).len()), (own, 1));
        assert_eq!((*handle.at(now + second).own(), handle.at(now + second).len()), (Dual::default(), 0));
        assert!(handle.at(now).own().is_empty(), "and it does not come back");
        handle.publish(Table::new("10.5.1.0/24".parse().ok(), [peer]).valid_until(None));
        assert_eq!(*handle.at(now + second * 1_000_000).own(), own);
    }
}
