//! What the other nodes have. Pure: a listing or events in, the picture and the news out.
//!
//! A listing replaces the picture by set difference: what is gone goes, what changed is told again. A damaged record costs
//! itself and nothing else.
//!
//! With two families two keys can name one subnet, and a key that is there doesn't keep another away. Of the records that name a subnet
//! the oldest has it, by the store's own count of when they came to be, so that all nodes see the same; the keeper goes by the same rule.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;

use super::allocate::overlap;
use super::holder::Holding;
use super::key::{BadLease, Lease, decode_key};
use super::store::{Event, Record};
use crate::config::network::NetworkConfig;
use crate::family::{Dual, Family};

/// The picture of all leases of the network, the own one among them.
#[derive(Debug)]
pub struct Follower {
    config: NetworkConfig,
    /// By key; those too whose subnet an older record has.
    known: BTreeMap<String, Known>,
    /// The keys that name a subnet, the oldest first.
    claims: BTreeMap<IpNetwork, BTreeSet<(i64, String)>>,
    damaged: BTreeMap<String, BadLease>,
}

/// A record that is well-formed.
#[derive(Debug)]
struct Known {
    created: i64,
    /// Of its last change.
    revision: i64,
    lease: Lease,
    holding: Holding,
    /// Whether it is the oldest of each of its subnets.
    counts: bool,
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
        Follower { config, known: BTreeMap::new(), claims: BTreeMap::new(), damaged: BTreeMap::new() }
    }

    /// Takes over a whole listing.
    pub fn replace(&mut self, records: &[Record]) -> Vec<News> {
        let listed: BTreeSet<&str> = records.iter().map(|r| r.key.as_str()).collect();
        let known = self.known.keys().chain(self.damaged.keys());
        let gone: Vec<String> = known.filter(|key| !listed.contains(key.as_str())).cloned().collect();
        let mut news: Vec<News> = gone.iter().flat_map(|key| self.delete(key)).collect();
        let mut records: Vec<&Record> = records.iter().collect();
        records.sort_by_key(|record| record.create_revision);
        news.extend(records.into_iter().flat_map(|record| self.put(record)));
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
        self.known.values().filter(|known| known.counts).map(|known| &known.lease)
    }

    /// The lease of a key.
    pub fn lease(&self, key: &str) -> Option<&Lease> {
        self.known.get(key).filter(|known| known.counts).map(|known| &known.lease)
    }

    /// Which host holds the lease of a key, and the revision at which its record says so.
    pub fn holding(&self, key: &str) -> Option<(&Holding, i64)> {
        self.known.get(key).map(|known| (&known.holding, known.revision))
    }

    /// How many records are left out at the moment: damaged, or of a subnet that an older one has.
    pub fn bad_count(&self) -> usize {
        self.damaged.len() + self.known.values().filter(|known| !known.counts).count()
    }

    fn put(&mut self, record: &Record) -> Vec<News> {
        let (key, created) = (&record.key, record.create_revision);
        match self.check(record) {
            Ok(lease) => {
                self.damaged.remove(key);
                let (revision, holding) = (record.mod_revision, Holding::of(&record.value));
                self.set(key, Some(Known { created, revision, lease, holding, counts: false }))
            }
            // What was good and is damaged now counts as gone: where it leads is not known any more.
            Err(why) => {
                let mut news = self.set(key, None);
                if self.damaged.insert(key.clone(), why.clone()).as_ref() != Some(&why) {
                    news.push(News::Bad(key.clone(), why));
                }
                news
            }
        }
    }

    fn delete(&mut self, key: &str) -> Vec<News> {
        self.damaged.remove(key);
        self.set(key, None)
    }

    /// Sets what a key says (none: nothing any more), and tells what that means for it and for those that name the same subnets.
    fn set(&mut self, key: &str, new: Option<Known>) -> Vec<News> {
        let old = self.known.remove(key);
        let mut subnets = BTreeSet::new();
        subnets.extend(old.iter().flat_map(|known| self.release(key, known)));
        subnets.extend(new.iter().flat_map(|known| self.claim(key, known)));
        if let Some(new) = new {
            self.known.insert(key.to_owned(), new);
        }
        let was_there = old.is_some();
        let mut news = self.tell(key, was_there, old.filter(|old| old.counts).map(|old| old.lease));
        let rivals = subnets.iter().filter_map(|subnet| self.claims.get(subnet)).flatten();
        let rivals: BTreeSet<String> =
            rivals.map(|(_, rival)| rival.clone()).filter(|rival| rival != key).collect();
        news.extend(rivals.iter().flat_map(|rival| self.weigh(rival)));
        news
    }

    /// What a record means now, that `had` this lease before if it counted.
    fn tell(&mut self, key: &str, was_there: bool, had: Option<Lease>) -> Vec<News> {
        let counts = self.known.get(key).is_some_and(|known| self.is_oldest(key, known));
        let Some(known) = self.known.get_mut(key) else { return had.map(News::Gone).into_iter().collect() };
        known.counts = counts;
        match (counts, had) {
            (true, Some(had)) if had == known.lease => Vec::new(),
            (true, _) => vec![News::Set(known.lease.clone())],
            (false, Some(had)) => vec![News::Gone(had), News::Bad(key.to_owned(), BadLease::Taken)],
            (false, None) if !was_there => vec![News::Bad(key.to_owned(), BadLease::Taken)],
            (false, None) => Vec::new(),
        }
    }

    fn claim(&mut self, key: &str, known: &Known) -> Vec<IpNetwork> {
        let subnets: Vec<IpNetwork> = known.lease.subnets.values().copied().collect();
        for subnet in &subnets {
            self.claims.entry(*subnet).or_default().insert((known.created, key.to_owned()));
        }
        subnets
    }

    fn release(&mut self, key: &str, known: &Known) -> Vec<IpNetwork> {
        let claim = (known.created, key.to_owned());
        let subnets: Vec<IpNetwork> = known.lease.subnets.values().copied().collect();
        for subnet in &subnets {
            if let Some(claims) = self.claims.get_mut(subnet) {
                claims.remove(&claim);
                if claims.is_empty() {
                    self.claims.remove(subnet);
                }
            }
        }
        subnets
    }

    /// Looks whether a record counts now, after another one of the same subnet came or went.
    fn weigh(&mut self, key: &str) -> Vec<News> {
        let Some(counts) = self.known.get(key).map(|known| self.is_oldest(key, known)) else {
            return Vec::new();
        };
        let Some(known) = self.known.get_mut(key).filter(|known| known.counts != counts) else {
            return Vec::new();
        };
        known.counts = counts;
        let lease = known.lease.clone();
        match counts {
            true => vec![News::Set(lease)],
            false => vec![News::Gone(lease), News::Bad(key.to_owned(), BadLease::Taken)],
        }
    }

    fn is_oldest(&self, key: &str, known: &Known) -> bool {
        let first = |subnet| self.claims.get(subnet).and_then(BTreeSet::first);
        known.lease.subnets.values().all(|subnet| {
            first(subnet).is_some_and(|(created, oldest)| (*created, oldest.as_str()) == (known.created, key))
        })
    }

    /// A lease counts only if its subnets are such as this network hands out: a record can't swallow others' subnets. And its owner
    /// must be outside of the pods' network: packets to it would go into the tunnel again and again.
    fn check(&self, record: &Record) -> Result<Lease, BadLease> {
        let lease = Lease::decode(&record.key, &record.value)?;
        let pools = &self.config.pools;
        // What it says of a family that the network hasn't concerns nobody.
        let subnets = Dual::of(|family| pools.get(family).and(lease.subnets.get(family).copied()));
        let public = Dual::of(|family| pools.get(family).and(lease.public.get(family).copied()));
        let fits = |(family, subnet): (Family, &IpNetwork)| self.config.could_be(family, *subnet);
        if subnets.is_empty() || !subnets.iter().all(fits) {
            return Err(BadLease::Foreign);
        }
        if public.iter().any(|(family, ip)| pools.get(family).is_some_and(|pool| pool.network.contains(*ip)))
        {
            return Err(BadLease::PublicIp);
        }
        Ok(Lease { subnets, public, backend: lease.backend })
    }
}

/// The subnets that are taken, by records of any kind: damaged ones and reservations too, as long as their key says which.
pub fn taken<'a>(records: impl IntoIterator<Item = &'a Record>) -> BTreeSet<IpNetwork> {
    let subnets = records.into_iter().filter_map(|record| decode_key(&record.key).ok());
    subnets.flat_map(|subnets| [subnets.v4, subnets.v6]).flatten().collect()
}

/// The key of an older record that has a subnet of this one, or a part of it.
pub fn older_owner<'a>(records: &'a [Record], record: &Record) -> Option<&'a str> {
    let mine = decode_key(&record.key).ok()?;
    let age = |record: &Record| (record.create_revision, record.key.clone());
    let shares = |other: &&Record| {
        let theirs = decode_key(&other.key).unwrap_or_default();
        mine.values().any(|mine| theirs.values().any(|theirs| overlap(*mine, *theirs)))
    };
    let older = records.iter().filter(|other| age(other) < age(record));
    older.filter(shares).map(|other| other.key.as_str()).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, ip: &str) -> Record {
        let value = format!(r#"{{"PublicIP":"{ip}","PublicIPv6":null}}"#).into_bytes();
        Record { key: key.to_owned(), value, create_revision: 1, mod_revision: 1, lease_id: 1 }
    }

    /// The same, but later.
    fn at(create_revision: i64, record: Record) -> Record {
        Record { create_revision, ..record }
    }

    fn follower() -> Follower {
        Follower::new(NetworkConfig::parse(r#"{"Network":"10.5.0.0/16"}"#).unwrap())
    }

    fn told(news: &[News]) -> Vec<String> {
        let line = |news: &News| match news {
            News::Set(lease) => format!("+{} {}", lease.subnets, lease.public),
            News::Gone(lease) => format!("-{}", lease.subnets),
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
        let first = record("10.5.2.0-24", "192.0.2.2");
        let second = at(2, record("10.5.2.0-24&fc00::-64", "192.0.2.66"));
        follower.replace(&[first.clone(), record("10.5.3.0-24", "192.0.2.3")]);
        assert_eq!(told(&follower.apply(&Event::Put(second.clone()))), ["!10.5.2.0-24&fc00::-64"]);
        assert!(follower.apply(&Event::Put(second.clone())).is_empty(), "told once");
        assert_eq!((follower.leases().count(), follower.bad_count()), (2, 1));
        let renewed = record("10.5.2.0-24", "192.0.2.2");
        assert!(follower.apply(&Event::Put(renewed)).is_empty(), "the owner's own renewal is no news");
        let news = follower.apply(&Event::Delete("10.5.2.0-24".into()));
        assert_eq!(told(&news), ["-10.5.2.0/24", "+10.5.2.0/24 192.0.2.66"], "the second waited");
        assert_eq!(follower.bad_count(), 0);
        assert_eq!(told(&follower.apply(&Event::Put(at(3, first)))), ["!10.5.2.0-24"], "and keeps it");
        assert_eq!(told(&follower.replace(&[second])), ["-10.5.3.0/24"]);
        assert_eq!((follower.leases().count(), follower.bad_count()), (1, 0));
    }

    fn dual() -> Follower {
        let text = r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{"Type":"vxlan"}}"#;
        Follower::new(NetworkConfig::parse(text).unwrap())
    }

    /// Two keys, one IPv6 subnet: as two nodes write that choose at the same moment. In whichever order they are heard of, the older
    /// record has it, on every node.
    #[test]
    fn of_two_keys_with_a_subnet_in_common_the_older_counts() {
        let older = at(5, record("10.5.9.0-24&fc00:0:0:7::-64", "192.0.2.9"));
        let younger = at(6, record("10.5.1.0-24&fc00:0:0:7::-64", "192.0.2.1"));
        let records = [younger.clone(), older.clone()];
        let mut listed = dual();
        assert_eq!(
            told(&listed.replace(&records)),
            ["+10.5.9.0/24 and fc00:0:0:7::/64 192.0.2.9", "!10.5.1.0-24&fc00:0:0:7::-64"]
        );
        assert!(listed.replace(&records).is_empty());
        let mut heard = dual();
        heard.apply(&Event::Put(younger.clone()));
        let news = told(&heard.apply(&Event::Put(older.clone())));
        assert_eq!(
            news,
            [
                "+10.5.9.0/24 and fc00:0:0:7::/64 192.0.2.9",
                "-10.5.1.0/24 and fc00:0:0:7::/64",
                "!10.5.1.0-24&fc00:0:0:7::-64"
            ]
        );
        assert!(listed.leases().eq(heard.leases()));
        assert_eq!(heard.bad_count(), 1);
        assert_eq!(older_owner(&records, &younger), Some(older.key.as_str()));
        assert_eq!(older_owner(&records, &older), None);
        // A part of a subnet is in common as well.
        let part = at(7, record("10.5.8.0-24&fc00:0:0:7::-65", "192.0.2.8"));
        assert_eq!(older_owner(&[older.clone(), part.clone()], &part), Some(older.key.as_str()));
        let news = told(&heard.apply(&Event::Delete(older.key)));
        assert_eq!(news, ["-10.5.9.0/24 and fc00:0:0:7::/64", "+10.5.1.0/24 and fc00:0:0:7::/64 192.0.2.1"]);
    }

    #[test]
    fn families_that_the_network_lacks_concern_nobody() {
        let both = Record {
            value: br#"{"PublicIP":"192.0.2.2","PublicIPv6":"fd00::2"}"#.to_vec(),
            ..record("10.5.2.0-24&fc00:0:0:2::-64", "")
        };
        let put = Event::Put(both.clone());
        assert_eq!(told(&follower().apply(&put)), ["+10.5.2.0/24 192.0.2.2"]);
        assert_eq!(told(&dual().apply(&put)), ["+10.5.2.0/24 and fc00:0:0:2::/64 192.0.2.2 and fd00::2"]);
        let old = Event::Put(record("10.5.2.0-24", "192.0.2.2"));
        assert_eq!(
            told(&dual().apply(&old)),
            ["+10.5.2.0/24 192.0.2.2"],
            "a node from before there was IPv6"
        );
        for key in ["10.5.2.0-24&fc01:0:0:2::-64", "10.5.2.0-24&fc00:0:0:2::-65"] {
            assert_eq!(
                told(&dual().apply(&Event::Put(Record { key: key.into(), ..both.clone() }))),
                [format!("!{key}")]
            );
        }
        let inside = br#"{"PublicIP":"192.0.2.2","PublicIPv6":"fc00::7"}"#.to_vec();
        let news = dual().apply(&Event::Put(Record { value: inside, ..both.clone() }));
        assert_eq!(told(&news), [format!("!{}", both.key)], "its owner would be inside of the tunnel");
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
            record("10.5.3.0-24&fc00:0:0:3::-64", "192.0.2.3"),
        ];
        assert_eq!(taken(&records).len(), 4);
    }
}
