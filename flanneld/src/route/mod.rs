//! Where each subnet lives: an immutable table, and the one pointer by which control hands it to the data path.

pub mod traffic;
pub mod way;

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use ipnetwork::Ipv4Network;

use traffic::{Ledger, Traffic};
use way::Way;

/// A next hop, as the data path hands it on: where it is, and its place in the table that told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// The other flanneld.
    pub at: SocketAddrV4,
    place: u32,
}

impl Hop {
    /// The same peer, reached elsewhere than its lease says.
    pub fn found_at(self, at: SocketAddrV4) -> Hop {
        Hop { at, ..self }
    }
}

impl From<SocketAddrV4> for Hop {
    /// One that no table told; nothing is counted for it.
    fn from(at: SocketAddrV4) -> Hop {
        Hop { at, place: u32::MAX }
    }
}

/// Next hops by network. Every packet is looked up here, and none of its making decides what is in it: a hash of a few
/// instructions does.
type NextHops = HashMap<u32, Hop, RandomState>;

/// Subnets and their next hops; never changed, only replaced.
#[derive(Debug, Clone, Default)]
pub struct Table {
    own: Option<Ipv4Network>,
    /// By prefix length, the longest first: the cost of a lookup depends on how many lengths there are (as a rule one).
    by_length: Vec<(u8, NextHops)>,
    /// By [`Hop`]'s place.
    traffic: Vec<Arc<Traffic>>,
    /// Until when the own subnet is certainly the own; none: for ever.
    until: Option<Instant>,
}

impl Table {
    /// A table from the own subnet (none: no lease, nothing is forwarded) and those of the peers.
    pub fn new(
        own: Option<Ipv4Network>,
        peers: impl IntoIterator<Item = (Ipv4Network, SocketAddrV4)>,
    ) -> Table {
        Table::counted(own, peers, &Ledger::default())
    }

    /// The same; what goes to and comes from each peer is counted in the ledger, which forgets all others.
    pub fn counted(
        own: Option<Ipv4Network>,
        peers: impl IntoIterator<Item = (Ipv4Network, SocketAddrV4)>,
        ledger: &Ledger,
    ) -> Table {
        let mut table = Table { own, ..Table::default() };
        let mut hops: HashMap<SocketAddrV4, Hop> = HashMap::new();
        for (subnet, at) in peers {
            let network = u32::from(subnet.network());
            let next_hop = *hops.entry(at).or_insert_with(|| {
                table.traffic.push(ledger.of(*at.ip()));
                Hop { at, place: u32::try_from(table.traffic.len() - 1).unwrap_or(u32::MAX) }
            });
            match table.by_length.iter_mut().find(|(length, _)| *length == subnet.prefix()) {
                Some((_, subnets)) => drop(subnets.insert(network, next_hop)),
                None => table.by_length.push((subnet.prefix(), NextHops::from_iter([(network, next_hop)]))),
            }
        }
        ledger.keep(&hops.keys().map(|at| *at.ip()).collect::<BTreeSet<_>>());
        table.by_length.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        table
    }

    /// The same, but only until then.
    pub fn valid_until(self, until: Option<Instant>) -> Table {
        Table { until, ..self }
    }

    /// The own subnet.
    pub fn own(&self) -> Option<Ipv4Network> {
        self.own
    }

    /// The next hop to an address: that of the longest prefix that covers it.
    pub fn lookup(&self, ip: Ipv4Addr) -> Option<Hop> {
        let ip = u32::from(ip);
        self.by_length.iter().find_map(|(length, subnets)| subnets.get(&(ip & mask(*length))).copied())
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
    pub fn peers(&self) -> impl Iterator<Item = (Ipv4Network, Hop)> {
        self.by_length.iter().flat_map(|(length, subnets)| {
            let net = |network: &u32| Ipv4Network::new(Ipv4Addr::from(*network), *length).ok();
            subnets.iter().filter_map(move |(network, hop)| Some((net(network)?, *hop)))
        })
    }

    /// How many subnets it has.
    pub fn len(&self) -> usize {
        self.by_length.iter().map(|(_, subnets)| subnets.len()).sum()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn mask(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
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

    #[test]
    fn the_longest_prefix_wins() {
        let hop = |last: u8| SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, last), 8285);
        let peers = [("10.5.0.0/16", 1), ("10.5.2.0/24", 2), ("10.5.2.128/25", 3), ("0.0.0.0/0", 4)];
        let table = Table::new(None, peers.map(|(net, last)| (net.parse().unwrap(), hop(last))));
        for (ip, last) in [("10.5.9.9", 1), ("10.5.2.1", 2), ("10.5.2.200", 3), ("8.8.8.8", 4)] {
            assert_eq!(table.lookup(ip.parse().unwrap()).map(|next| next.at), Some(hop(last)), "{ip}");
        }
        assert_eq!(table.len(), 4);
        assert_eq!(Table::default().lookup(Ipv4Addr::LOCALHOST), None);
    }

    #[test]
    fn a_table_that_has_run_out_forwards_nothing() {
        let (now, second) = (Instant::now(), std::time::Duration::from_secs(1));
        let own = "10.5.1.0/24".parse().ok();
        let peer = ("10.5.2.0/24".parse().unwrap(), "192.0.2.2:8285".parse().unwrap());
        let handle = Handle::default();
        handle.publish(Table::new(own, [peer]).valid_until(Some(now + second)));
        assert_eq!((handle.at(now).own(), handle.at(now).len()), (own, 1));
        assert_eq!((handle.at(now + second).own(), handle.at(now + second).len()), (None, 0));
        assert_eq!(handle.at(now).own(), None, "and it does not come back");
        handle.publish(Table::new(own, [peer]).valid_until(None));
        assert_eq!(handle.at(now + second * 1_000_000).own(), own);
    }
}
