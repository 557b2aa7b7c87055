//! What went to and came from each peer. The data path adds to numbers that it finds in the route table, without a lock and without a
//! search; control keeps them beyond the table, so that a new table goes on where the old one was.
//!
//! Whoever carries packets past the engine (a program in the kernel, say) takes the same numbers from the [`Ledger`] and adds what it
//! has counted since it last did.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::way::Way;
use super::{Hop, Table};

/// Packets and bytes (inner ones, without outer headers).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The running sum of one direction. Each has a cache line for itself: one thread sends to a peer while another receives from it.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Sum {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Sum {
    /// Adds; orders nothing.
    pub fn add(&self, count: Count) {
        self.packets.fetch_add(count.packets, Relaxed);
        self.bytes.fetch_add(count.bytes, Relaxed);
    }

    /// As it is now.
    pub fn get(&self) -> Count {
        Count { packets: self.packets.load(Relaxed), bytes: self.bytes.load(Relaxed) }
    }
}

/// One peer's.
#[derive(Debug, Default)]
pub struct Traffic {
    /// What the kernel took for it.
    pub out: Sum,
    /// What came from it and passed all checks.
    pub into: Sum,
    /// Packets to it that the kernel did not take.
    pub lost: AtomicU64,
    /// What is known of the way there.
    pub way: Way,
}

/// The peers' numbers; cheap to clone. Its lock is control's: the data path holds what it needs in its table.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<BTreeMap<IpAddr, Arc<Traffic>>>>);

impl Ledger {
    /// A peer's numbers, from 0 on if it has none yet.
    pub fn of(&self, peer: IpAddr) -> Arc<Traffic> {
        self.lock().entry(peer).or_default().clone()
    }

    /// Forgets the peers that are not among these: there are never more than leases.
    pub fn keep(&self, peers: &BTreeSet<IpAddr>) {
        self.lock().retain(|peer, _| peers.contains(peer));
    }

    /// All of them, in the order of their addresses.
    pub fn all(&self) -> Vec<(IpAddr, Arc<Traffic>)> {
        self.lock().iter().map(|(peer, traffic)| (*peer, traffic.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, Arc<Traffic>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came from the peer of the last packet: packets come in trains, and a train is added once.
#[derive(Debug)]
pub struct Train<'a> {
    table: &'a Table,
    from: Option<Hop>,
    count: Count,
}

impl<'a> Train<'a> {
    /// Of peers of this table.
    pub fn new(table: &'a Table) -> Train<'a> {
        Train { table, from: None, count: Count::default() }
    }

    /// One more packet.
    pub fn packet(&mut self, from: Hop, bytes: usize) {
        self.packets(from, 1, bytes as u64);
    }

    /// So many more packets.
    pub fn packets(&mut self, from: Hop, packets: u64, bytes: u64) {
        if self.from != Some(from) {
            self.add();
            self.from = Some(from);
        }
        self.count.packets += packets;
        self.count.bytes += bytes;
    }

    fn add(&mut self) {
        let count = std::mem::take(&mut self.count);
        if let Some(traffic) = self.from.and_then(|from| self.table.traffic(from)) {
            traffic.into.add(count);
        }
    }
}

impl Drop for Train<'_> {
    fn drop(&mut self) {
        self.add();
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;
    use crate::family::Dual;

    fn table(ledger: &Ledger, peers: &[(&str, u8)]) -> Table {
        let hop = |last: u8| SocketAddr::new(Ipv4Addr::new(192, 0, 2, last).into(), 8285);
        let peers = peers.iter().map(|(net, last)| (net.parse().unwrap(), hop(*last)));
        let table = Table::counted(Dual::default(), peers, ledger);
        ledger.keep(&table.next_hops());
        table
    }

    fn receive(table: &Table, packets: &[(&str, usize)]) {
        let mut train = Train::new(table);
        for (ip, bytes) in packets {
            train.packet(table.lookup(ip.parse::<IpAddr>().unwrap()).unwrap(), *bytes);
        }
    }

    #[test]
    fn a_new_table_counts_on_where_the_old_one_was() {
        let ledger = Ledger::default();
        let old = table(&ledger, &[("10.5.2.0/24", 2), ("10.5.3.0/24", 3), ("10.5.4.0/24", 2)]);
        receive(&old, &[("10.5.2.9", 100), ("10.5.4.9", 50), ("10.5.3.9", 7), ("10.5.2.9", 1)]);
        let new = table(&ledger, &[("10.5.9.0/24", 2)]);
        receive(&new, &[("10.5.9.1", 1000)]);
        receive(&old, &[("10.5.2.9", 1)]);
        let told: Vec<_> = ledger.all().iter().map(|(ip, t)| (ip.to_string(), t.into.get())).collect();
        assert_eq!(
            told,
            [("192.0.2.2".to_owned(), Count { packets: 5, bytes: 1152 })],
            "the peer that is gone is forgotten"
        );
    }

    #[test]
    fn what_no_table_told_is_not_counted() {
        let table = table(&Ledger::default(), &[]);
        let stranger = Hop::from("192.0.2.9:8285".parse::<SocketAddr>().unwrap());
        Train::new(&table).packet(stranger, 9);
        assert!(table.traffic(stranger).is_none());
    }
}
