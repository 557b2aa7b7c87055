//! Leases: a time to live that keys can hang on. Pure: the time is an argument.
//!
//! Which keys hang on a lease is kept here as well as in the keys themselves; [`crate::state`] changes both together.
//! After a restart every lease begins its whole time to live anew: a server that was down must not take the keys of
//! clients that had no chance to renew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::error::Error;
use crate::types::LeaseId;

/// The longest time to live, in seconds: etcd's limit.
pub const MAX_TTL: i64 = 9_000_000_000;

/// What a client sees of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseInfo {
    /// The time to live that was granted, in seconds.
    pub granted: i64,
    /// Seconds that are left, rounded down.
    pub remaining: i64,
    /// The keys that hang on it, in order.
    pub keys: Vec<Bytes>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Lease {
    ttl: i64,
    ends: Instant,
    keys: BTreeSet<Bytes>,
}

/// All leases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Leases {
    leases: HashMap<LeaseId, Lease>,
    /// The same leases by their end: the next one to end stands first.
    ends: BTreeSet<(Instant, LeaseId)>,
}

impl Leases {
    /// Checks that a lease with these parameters can be granted.
    pub(crate) fn may_grant(&self, id: LeaseId, ttl: i64) -> Result<(), Error> {
        match ttl {
            ttl if ttl > MAX_TTL => Err(Error::LeaseTtlTooLarge(ttl)),
            _ if self.leases.contains_key(&id) => Err(Error::LeaseExists(id)),
            _ => Ok(()),
        }
    }

    /// Adds a lease that begins now.
    pub(crate) fn grant(&mut self, id: LeaseId, ttl: i64, now: Instant) {
        let ends = end(now, ttl);
        self.leases.insert(id, Lease { ttl, ends, keys: BTreeSet::new() });
        self.ends.insert((ends, id));
    }

    /// Removes a lease; its keys are the caller's matter.
    pub(crate) fn remove(&mut self, id: LeaseId) -> BTreeSet<Bytes> {
        let Some(lease) = self.leases.remove(&id) else { return BTreeSet::new() };
        self.ends.remove(&(lease.ends, id));
        lease.keys
    }

    /// Begins the time to live anew; the granted seconds.
    pub(crate) fn keep_alive(&mut self, id: LeaseId, now: Instant) -> Result<i64, Error> {
        let lease = self.leases.get_mut(&id).filter(|lease| lease.ends > now);
        let lease = lease.ok_or(Error::LeaseNotFound(id))?;
        self.ends.remove(&(lease.ends, id));
        lease.ends = end(now, lease.ttl);
        self.ends.insert((lease.ends, id));
        Ok(lease.ttl)
    }

    /// Hangs `key` on `to` instead of `from` (0: none).
    pub(crate) fn move_key(&mut self, key: &Bytes, from: LeaseId, to: LeaseId) {
        if from == to {
            return;
        }
        if let Some(lease) = self.leases.get_mut(&from) {
            lease.keys.remove(key);
        }
        if let Some(lease) = self.leases.get_mut(&to) {
            lease.keys.insert(key.clone());
        }
    }

    /// Forgets which keys hang on which lease.
    pub(crate) fn detach_all(&mut self) {
        self.leases.values_mut().for_each(|lease| lease.keys.clear());
    }

    pub(crate) fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    /// The granted time to live.
    pub(crate) fn ttl(&self, id: LeaseId) -> Option<i64> {
        self.leases.get(&id).map(|lease| lease.ttl)
    }

    /// What a client may know of a lease.
    pub(crate) fn info(&self, id: LeaseId, now: Instant) -> Option<LeaseInfo> {
        let lease = self.leases.get(&id)?;
        let remaining = lease.ends.saturating_duration_since(now).as_secs();
        Some(LeaseInfo {
            granted: lease.ttl,
            remaining: i64::try_from(remaining).unwrap_or(i64::MAX),
            keys: lease.keys.iter().cloned().collect(),
        })
    }

    /// All leases with their granted time to live, by their number.
    pub(crate) fn all(&self) -> BTreeMap<LeaseId, i64> {
        self.leases.iter().map(|(&id, lease)| (id, lease.ttl)).collect()
    }

    /// When the next lease ends.
    pub(crate) fn next_end(&self) -> Option<Instant> {
        self.ends.first().map(|&(ends, _)| ends)
    }

    /// The first lease that has ended.
    pub(crate) fn ended(&self, now: Instant) -> Option<LeaseId> {
        self.ends.first().filter(|&&(ends, _)| ends <= now).map(|&(_, id)| id)
    }
}

/// A time to live below a second counts as one, as an answer of 0 seconds means "ended" to clients.
fn end(now: Instant, ttl: i64) -> Instant {
    now + Duration::from_secs(u64::try_from(ttl).unwrap_or(0).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_unless_it_is_kept_alive() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut leases = Leases::default();
        leases.grant(7, 10, start);
        leases.grant(8, 5, start);
        assert_eq!(leases.next_end(), Some(start + second * 5));
        assert_eq!(leases.ended(start + second * 4), None);
        assert_eq!(leases.keep_alive(8, start + second * 4), Ok(5));
        assert_eq!(leases.ended(start + second * 8), None);
        assert_eq!(leases.ended(start + second * 9), Some(8));
        assert_eq!(leases.keep_alive(8, start + second * 9), Err(Error::LeaseNotFound(8)));
        assert_eq!(leases.info(7, start + second * 3).unwrap().remaining, 7);
    }

    #[test]
    fn a_key_hangs_on_one_lease() {
        let mut leases = Leases::default();
        let now = Instant::now();
        leases.grant(1, 10, now);
        leases.grant(2, 10, now);
        let key = Bytes::from("k");
        leases.move_key(&key, 0, 1);
        leases.move_key(&key, 1, 2);
        assert!(leases.remove(1).is_empty());
        assert_eq!(leases.remove(2).len(), 1);
        assert_eq!(leases.next_end(), None);
    }
}
