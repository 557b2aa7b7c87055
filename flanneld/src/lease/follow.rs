//! What the other nodes have. Pure: a listing or events in, the picture and the news out.
//!
//! A listing replaces the picture by set difference: what is gone goes, what changed is told again. A damaged record costs
//! itself and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::Ipv4Network;

use super::holder::Holding;
use super::key::{BadLease, Lease, decode_key};
use super::store::{Event, Record};
use crate::config::network::NetworkConfig;

/// The picture of all leases of the network, the own one among them.
#[derive(Debug)]
pub struct Follower {
    config: NetworkConfig,
    leases: BTreeMap<Ipv4Network, Held>,
    bad: BTreeMap<String, Left>,
}

/// A lease, and of its record what is not the lease's.
#[derive(Debug)]
struct Held {
    key: String,
    lease: Lease,
    holding: Holding,
    revision: i64,
}

/// A record that is left out.
#[derive(Debug, PartialEq)]
struct Left {
    why: BadLease,
    /// What it would be, if another record did not have its subnet.
    waiting: Option<Lease>,
}

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A lease is new, or its owner is reached elsewhere now.
    Set(Lease),
    /// A lease is gone.
    Gone(Lease),
    /// A record is damaged; told once.
    Bad(String, BadLease),
}

impl Follower {
    /// Knows nothing yet.
    pub fn new(config: NetworkConfig) -> Follower {
        Follower { config, leases: BTreeMap::new(), bad: BTreeMap::new() }
    }

    /// Takes over a whole listing.
    pub fn replace(&mut self, records: &[Record]) -> Vec<News> {
        let listed: BTreeSet<&str> = records.iter().map(|r| r.key.as_str()).collect();
        let known = self.leases.values().map(|held| &held.key).chain(self.bad.keys());
        let gone: Vec<String> = known.filter(|key| !listed.contains(key.as_str())).cloned().collect();
        let mut news: Vec<News> = gone.iter().flat_map(|key| self.delete(key)).collect();
        news.extend(records.iter().flat_map(|record| self.put(record)));
        news
    }

    /// Takes over one change.
    pub fn apply(&mut self, event: &Event) -> Vec<News> {
        match event {
            Event::Put(record) => self.put(record),
            Event::Delete(key) => self.delete(key),
        }
    }

    /// All leases.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values().map(|held| &held.lease)
    }

    /// The lease of a subnet.
    pub fn lease(&self, subnet: Ipv4Network) -> Option<&Lease> {
        self.leases.get(&subnet).map(|held| &held.lease)
    }

    /// Which host holds the lease of a subnet, and the revision at which its record says so.
    pub fn holding(&self, subnet: Ipv4Network) -> Option<(&Holding, i64)> {
        self.leases.get(&subnet).map(|held| (&held.holding, held.revision))
    }

    /// How many records are damaged at the moment.
    pub fn bad_count(&self) -> usize {
        self.bad.len()
    }

    fn put(&mut self, record: &Record) -> Vec<News> {
        let lease = match self.check(record) {
            Ok(lease) => lease,
            Err(why) => return self.leave_out(&record.key, Left { why, waiting: None }),
        };
        // Whoever has a subnet keeps it: a second record of the same subnet takes nothing away.
        if self.leases.get(&lease.subnet).is_some_and(|held| held.key != record.key) {
            return self.leave_out(&record.key, Left { why: BadLease::Taken, waiting: Some(lease) });
        }
        self.bad.remove(&record.key);
        let (holding, revision) = (Holding::of(&record.value), record.mod_revision);
        self.hold(Held { key: record.key.clone(), lease, holding, revision })
    }

    fn hold(&mut self, held: Held) -> Vec<News> {
        let lease = held.lease.clone();
        let before = self.leases.insert(lease.subnet, held);
        if before.is_some_and(|held| held.lease == lease) { Vec::new() } else { vec![News::Set(lease)] }
    }

    fn leave_out(&mut self, key: &str, left: Left) -> Vec<News> {
        // What was good and is damaged now counts as gone: where it leads is not known any more.
        let mut news = self.release(key);
        let why = left.why.clone();
        if self.bad.insert(key.to_owned(), left).is_none_or(|before| before.why != why) {
            news.push(News::Bad(key.to_owned(), why));
        }
        news
    }

    fn delete(&mut self, key: &str) -> Vec<News> {
        self.bad.remove(key);
        self.release(key)
    }

    /// Takes the lease of a record away; one that waited for the subnet gets it.
    fn release(&mut self, key: &str) -> Vec<News> {
        let Ok(subnet) = decode_key(key) else { return Vec::new() };
        if self.leases.get(&subnet).is_none_or(|held| held.key != key) {
            return Vec::new();
        }
        let mut news: Vec<News> =
            self.leases.remove(&subnet).map(|held| News::Gone(held.lease)).into_iter().collect();
        let waits = |left: &Left| left.waiting.as_ref().is_some_and(|lease| lease.subnet == subnet);
        let next = self.bad.iter().find(|(_, left)| waits(left)).map(|(key, _)| key.clone());
        if let Some((key, lease)) = next.and_then(|key| Some((key.clone(), self.bad.remove(&key)?.waiting?)))
        {
            // Whose it is is told by its next renewal.
            news.extend(self.hold(Held { key, lease, holding: Holding::default(), revision: 0 }));
        }
        news
    }

    /// A lease counts only if its subnet is one that this network hands out: a record can't swallow others' subnets. And its owner
    /// must be outside of the pods' network: packets to it would go into the tunnel again and again.
    fn check(&self, record: &Record) -> Result<Lease, BadLease> {
        let lease = Lease::decode(&record.key, &record.value)?;
        let inside = self.config.network.contains(lease.subnet.network());
        if !inside || lease.subnet.prefix() != self.config.subnet_len {
            return Err(BadLease::Foreign);
        }
        if self.config.network.contains(lease.public_ip) {
            return Err(BadLease::PublicIp);
        }
        Ok(lease)
    }
}

/// The subnets that are taken, by records of any kind: damaged ones and reservations too, as long as their key says which.
pub fn taken(records: &[Record]) -> BTreeSet<Ipv4Network> {
    records.iter().filter_map(|record| decode_key(&record.key).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, ip: &str) -> Record {
        let value = format!(r#"{{"PublicIP":"{ip}","PublicIPv6":null}}"#).into_bytes();
        Record { key: key.to_owned(), value, mod_revision: 1, lease_id: 1 }
    }

    fn follower() -> Follower {
        Follower::new(NetworkConfig::parse(r#"{"Network":"10.5.0.0/16"}"#).unwrap())
    }

    fn told(news: &[News]) -> Vec<String> {
        let line = |news: &News| match news {
            News::Set(lease) => format!("+{} {}", lease.subnet, lease.public_ip),
            News::Gone(lease) => format!("-{}", lease.subnet),
            News::Bad(key, _) => format!("!{key}"),
        };
        news.iter().map(line).collect()
    }

    #[test]
    fn a_listing_tells_the_difference() {
        let mut follower = follower();
        let first = [record("10.5.1.0-24", "192.0.2.1"), record("10.5.2.0-24", "192.0.2.2")];
        assert_eq!(told(&follower.replace(&first)), ["+10.5.1.0/24 192.0.2.1", "+10.5.2.0/24 192.0.2.2"]);
        assert!(follower.replace(&first).is_empty());
        // One went, one is reached elsewhere now, as after a gap in the watch.
        let second = [record("10.5.2.0-24", "192.0.2.9")];
        assert_eq!(told(&follower.replace(&second)), ["-10.5.1.0/24", "+10.5.2.0/24 192.0.2.9"]);
        assert_eq!(told(&follower.apply(&Event::Delete("10.5.2.0-24".into()))), ["-10.5.2.0/24"]);
        assert_eq!(follower.leases().count(), 0);
    }

    #[test]
    fn a_damaged_record_costs_itself_and_is_told_once() {
        let mut follower = follower();
        follower.replace(&[record("10.5.1.0-24", "192.0.2.1"), record("10.5.2.0-24", "192.0.2.2")]);
        for key in ["foo", "10.5.0.0-1", "10.6.1.0-24", "10.5.3.0-25"] {
            let bad = Event::Put(record(key, "192.0.2.7"));
            assert_eq!(told(&follower.apply(&bad)), [format!("!{key}")]);
            assert!(follower.apply(&bad).is_empty(), "told once");
        }
        assert_eq!((follower.leases().count(), follower.bad_count()), (2, 4));
        let broken = Record { value: b"{".to_vec(), ..record("10.5.1.0-24", "") };
        assert_eq!(told(&follower.apply(&Event::Put(broken))), ["-10.5.1.0/24", "!10.5.1.0-24"]);
        let mended = record("10.5.1.0-24", "192.0.2.1");
        assert_eq!(told(&follower.apply(&Event::Put(mended))), ["+10.5.1.0/24 192.0.2.1"]);
        assert_eq!(follower.bad_count(), 4);
    }

    #[test]
    fn a_subnet_has_one_owner_whatever_else_is_written() {
        let mut follower = follower();
        let (first, second) =
            (record("10.5.2.0-24", "192.0.2.2"), record("10.5.2.0-24&fc00::-64", "192.0.2.66"));
        follower.replace(&[first.clone(), record("10.5.3.0-24", "192.0.2.3")]);
        assert_eq!(told(&follower.apply(&Event::Put(second.clone()))), ["!10.5.2.0-24&fc00::-64"]);
        assert!(follower.apply(&Event::Put(second.clone())).is_empty(), "told once");
        assert_eq!((follower.leases().count(), follower.bad_count()), (2, 1));
        let renewed = record("10.5.2.0-24", "192.0.2.2");
        assert!(follower.apply(&Event::Put(renewed)).is_empty(), "the owner's own renewal is no news");
        let news = follower.apply(&Event::Delete("10.5.2.0-24".into()));
        assert_eq!(told(&news), ["-10.5.2.0/24", "+10.5.2.0/24 192.0.2.66"], "the second waited");
        assert_eq!(follower.bad_count(), 0);
        assert_eq!(told(&follower.apply(&Event::Put(first))), ["!10.5.2.0-24"], "and keeps it");
        assert_eq!(told(&follower.replace(&[second])), ["-10.5.3.0/24"]);
        assert_eq!((follower.leases().count(), follower.bad_count()), (1, 0));
    }

    #[test]
    fn an_owner_inside_of_the_tunnel_is_none() {
        let news = follower().apply(&Event::Put(record("10.5.2.0-24", "10.5.9.9")));
        assert_eq!(told(&news), ["!10.5.2.0-24"]);
    }

    #[test]
    fn reservations_and_damaged_leases_keep_their_subnet() {
        let records = [
            record("10.5.1.0-24", "192.0.2.1"),
            Record { value: b"?".to_vec(), ..record("10.5.2.0-24", "") },
            record("foo", ""),
        ];
        assert_eq!(taken(&records).len(), 2);
    }
}
