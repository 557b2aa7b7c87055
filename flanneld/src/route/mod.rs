//! Where each subnet lives: an immutable table, and the one pointer by which control hands it to the data path.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use ipnetwork::Ipv4Network;

/// Next hops by network. Every packet is looked up here, and none of its making decides what is in it: a hash of a few
/// instructions does.
type NextHops = HashMap<u32, SocketAddrV4, RandomState>;

/// Subnets and their next hops; never changed, only replaced.
#[derive(Debug, Clone, Default)]
pub struct Table {
    own: Option<Ipv4Network>,
    /// By prefix length, the longest first: the cost of a lookup depends on how many lengths there are (as a rule one).
    by_length: Vec<(u8, NextHops)>,
    /// Until when the own subnet is certainly the own; none: for ever.
    until: Option<Instant>,
}

impl Table {
    /// A table from the own subnet (none: no lease, nothing is forwarded) and those of the peers.
    pub fn new(
        own: Option<Ipv4Network>,
        peers: impl IntoIterator<Item = (Ipv4Network, SocketAddrV4)>,
    ) -> Table {
        let mut table = Table { own, by_length: Vec::new(), until: None };
        for (subnet, next_hop) in peers {
            let network = u32::from(subnet.network());
            match table.by_length.iter_mut().find(|(length, _)| *length == subnet.prefix()) {
                Some((_, subnets)) => drop(subnets.insert(network, next_hop)),
                None => table.by_length.push((subnet.prefix(), NextHops::from_iter([(network, next_hop)]))),
            }
        }
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
    pub fn lookup(&self, ip: Ipv4Addr) -> Option<SocketAddrV4> {
        let ip = u32::from(ip);
        self.by_length.iter().find_map(|(length, subnets)| subnets.get(&(ip & mask(*length))).copied())
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
            assert_eq!(table.lookup(ip.parse().unwrap()), Some(hop(last)), "{ip}");
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
