//! What the other nodes have. Pure: a listing or events in, the picture and the news out.
//!
//! A listing replaces the picture by set difference: what is gone goes, what changed is told again. A damaged record costs
//! itself and nothing else.

use std::collections::BTreeMap;

use ipnetwork::Ipv4Network;

use super::key::{BadLease, Lease, decode_key};
use super::store::{Event, Record};
use crate::config::network::NetworkConfig;

/// The picture of all leases of the network, the own one among them.
#[derive(Debug)]
pub struct Follower {
    config: NetworkConfig,
    leases: BTreeMap<String, Lease>,
    bad: BTreeMap<String, BadLease>,
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
        let listed: std::collections::BTreeSet<&str> = records.iter().map(|r| r.key.as_str()).collect();
        let known: Vec<String> = self.leases.keys().chain(self.bad.keys()).cloned().collect();
        let gone = known.into_iter().filter(|key| !listed.contains(key.as_str()));
        let mut news: Vec<News> =
            gone.collect::<Vec<_>>().iter().filter_map(|key| self.delete(key)).collect();
        news.extend(records.iter().flat_map(|record| self.put(record)));
        news
    }

    /// Takes over one change.
    pub fn apply(&mut self, event: &Event) -> Vec<News> {
        match event {
            Event::Put(record) => self.put(record),
            Event::Delete(key) => self.delete(key).into_iter().collect(),
        }
    }

    /// All leases.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// How many records are damaged at the moment.
    pub fn bad_count(&self) -> usize {
        self.bad.len()
    }

    fn put(&mut self, record: &Record) -> Vec<News> {
        match self.check(record) {
            Ok(lease) => {
                self.bad.remove(&record.key);
                let before = self.leases.insert(record.key.clone(), lease.clone());
                if before.as_ref() == Some(&lease) { Vec::new() } else { vec![News::Set(lease)] }
            }
            Err(error) => {
                // What was good and is damaged now counts as gone: where it leads is not known any more.
                let gone = self.leases.remove(&record.key).map(News::Gone);
                let told = self.bad.insert(record.key.clone(), error.clone()).as_ref() == Some(&error);
                let bad = (!told).then(|| News::Bad(record.key.clone(), error));
                gone.into_iter().chain(bad).collect()
            }
        }
    }

    fn delete(&mut self, key: &str) -> Option<News> {
        self.bad.remove(key);
        self.leases.remove(key).map(News::Gone)
    }

    /// A lease counts only if its subnet is one that this network hands out: a record can't swallow others' subnets.
    fn check(&self, record: &Record) -> Result<Lease, BadLease> {
        let lease = Lease::decode(&record.key, &record.value)?;
        let inside = self.config.network.contains(lease.subnet.network());
        if inside && lease.subnet.prefix() == self.config.subnet_len {
            Ok(lease)
        } else {
            Err(BadLease::Foreign)
        }
    }
}

/// The subnets that are taken, by records of any kind: damaged ones and reservations too, as long as their key says which.
pub fn taken(records: &[Record]) -> std::collections::BTreeSet<Ipv4Network> {
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
    fn reservations_and_damaged_leases_keep_their_subnet() {
        let records = [
            record("10.5.1.0-24", "192.0.2.1"),
            Record { value: b"?".to_vec(), ..record("10.5.2.0-24", "") },
            record("foo", ""),
        ];
        assert_eq!(taken(&records).len(), 2);
    }
}
