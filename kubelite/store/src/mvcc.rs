//! Keys with their history: what stood where at which revision. Pure; it knows nothing of leases, logs and clocks.
//!
//! ```text
//!  keys:    "/a" → [ (rev 2, v1) (rev 5, v2) (rev 9, deleted) ]      commits:  2: ["/a"]
//!           "/b" → [ (rev 5, v1) ]                                             5: ["/a", "/b"]   …
//! ```
//!
//! A compaction at revision R forgets what was overwritten or deleted before R; R itself can still be read and
//! watched.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::error::Error;
use crate::types::{Change, Event, KeyRange, KeyValue, LeaseId, Revision};

/// What a key held from one revision on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) mod_revision: Revision,
    pub(crate) create_revision: Revision,
    pub(crate) version: i64,
    pub(crate) lease: LeaseId,
    /// None: the key was deleted here.
    pub(crate) value: Option<Bytes>,
}

/// All keys with their versions since the last compaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mvcc {
    pub(crate) keys: BTreeMap<Bytes, Vec<Version>>,
    /// The keys that each revision changed, in the order of the changes; the last one belongs to `revision`.
    pub(crate) commits: VecDeque<Vec<Bytes>>,
    pub(crate) revision: Revision,
    pub(crate) compacted: Revision,
}

impl Mvcc {
    /// Nothing, at revision 1 as in etcd.
    pub(crate) fn new() -> Self {
        Mvcc { keys: BTreeMap::new(), commits: VecDeque::new(), revision: 1, compacted: 0 }
    }

    /// The revision that the next change makes. Versions of a transaction in progress carry it already.
    pub(crate) fn next_revision(&self) -> Revision {
        self.revision + 1
    }

    /// The key as of `revision`.
    pub(crate) fn get(&self, key: &[u8], revision: Revision) -> Option<KeyValue> {
        let (key, versions) = self.keys.get_key_value(key)?;
        as_of(versions, revision).map(|version| version.to_kv(key))
    }

    /// The keys of `range` as of `revision`, in order.
    pub(crate) fn range<'a>(
        &'a self,
        range: &'a KeyRange,
        revision: Revision,
    ) -> impl Iterator<Item = (&'a Bytes, &'a Version)> {
        range
            .bounds()
            .into_iter()
            .flat_map(|bounds| self.keys.range::<[u8], _>(bounds))
            .filter_map(move |(key, versions)| as_of(versions, revision).map(|version| (key, version)))
    }

    /// Checks that `requested` (0: now) can be read when `current` is the newest revision, and names it.
    pub(crate) fn readable(&self, requested: Revision, current: Revision) -> Result<Revision, Error> {
        match requested {
            ..=0 => Ok(current),
            _ if requested > current => Err(Error::FutureRevision { requested, current }),
            _ if requested < self.compacted => Err(Error::Compacted { requested, oldest: self.compacted }),
            _ => Ok(requested),
        }
    }

    /// Writes one change as part of the next revision, and says what it replaced. [`Mvcc::finish`] ends the revision.
    pub(crate) fn change(&mut self, change: &Change) -> Option<KeyValue> {
        let mod_revision = self.next_revision();
        let previous = self.get(change.key(), mod_revision);
        let version = match (change, &previous) {
            (Change::Delete { .. }, None) => return None,
            (Change::Delete { .. }, Some(_)) => {
                Version { mod_revision, create_revision: 0, version: 0, lease: 0, value: None }
            }
            (Change::Put { value, lease, .. }, before) => Version {
                mod_revision,
                create_revision: before.as_ref().map_or(mod_revision, |kv| kv.create_revision),
                version: before.as_ref().map_or(1, |kv| kv.version + 1),
                lease: *lease,
                value: Some(value.clone()),
            },
        };
        match self.keys.get_mut(change.key()) {
            Some(versions) => versions.push(version),
            None => {
                self.keys.insert(change.key().clone(), vec![version]);
            }
        }
        previous
    }

    /// Ends a revision in which these keys were changed.
    pub(crate) fn finish(&mut self, keys: Vec<Bytes>) {
        self.revision += 1;
        self.commits.push_back(keys);
    }

    /// Takes back every revision above `revision`, as if they had never been.
    pub(crate) fn rollback(&mut self, revision: Revision) {
        while self.revision > revision {
            for key in self.commits.pop_back().unwrap_or_default() {
                let Some(versions) = self.keys.get_mut(&key) else { continue };
                versions.pop();
                if versions.is_empty() {
                    self.keys.remove(&key);
                }
            }
            self.revision -= 1;
        }
    }

    /// The keys that `revision` changed; empty if the history does not reach there.
    pub(crate) fn keys_of(&self, revision: Revision) -> &[Bytes] {
        let age = usize::try_from(self.revision - revision).unwrap_or(usize::MAX);
        let index = self.commits.len().checked_sub(age.saturating_add(1));
        index.and_then(|index| self.commits.get(index)).map_or(&[], Vec::as_slice)
    }

    /// The events of `revision` on keys of `range`.
    pub(crate) fn events(&self, revision: Revision, range: &KeyRange) -> Vec<Event> {
        let keys = self.keys_of(revision).iter().filter(|key| range.contains(key));
        keys.filter_map(|key| self.event(key, revision)).collect()
    }

    fn event(&self, key: &Bytes, revision: Revision) -> Option<Event> {
        let versions = self.keys.get(key)?;
        let index = versions.binary_search_by_key(&revision, |version| version.mod_revision).ok()?;
        let previous = index.checked_sub(1).and_then(|before| versions.get(before));
        let version = versions.get(index)?;
        Some(Event {
            kv: version.to_kv(key),
            deleted: version.value.is_none(),
            previous: previous
                .filter(|previous| previous.value.is_some())
                .map(|previous| previous.to_kv(key)),
        })
    }

    /// The bytes of all keys and values that are remembered.
    pub(crate) fn bytes(&self) -> u64 {
        let values = |versions: &[Version]| -> usize {
            versions.iter().filter_map(|version| version.value.as_ref()).map(Bytes::len).sum()
        };
        self.keys.iter().map(|(key, versions)| (key.len() + values(versions)) as u64).sum()
    }

    /// A checksum over the keys, values and revisions that stand at `revision`.
    pub(crate) fn hash(&self, revision: Revision) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        for (key, version) in self.range(&KeyRange::prefix(""), revision) {
            for part in [key, version.value.as_ref().unwrap_or(&Bytes::new())] {
                hasher.update(&part.len().to_le_bytes());
                hasher.update(part);
            }
            for number in [version.mod_revision, version.create_revision, version.version, version.lease] {
                hasher.update(&number.to_le_bytes());
            }
        }
        hasher.finalize()
    }

    /// Forgets the history below `revision`.
    pub(crate) fn compact(&mut self, revision: Revision) {
        self.keys.retain(|_, versions| {
            let newest = versions.partition_point(|version| version.mod_revision <= revision);
            versions.drain(..newest.saturating_sub(1));
            let gone = |version: &Version| version.value.is_none() && version.mod_revision < revision;
            if versions.first().is_some_and(gone) {
                versions.remove(0);
            }
            versions.shrink_to_fit();
            !versions.is_empty()
        });
        let kept = usize::try_from(self.revision - revision + 1).unwrap_or(0);
        self.commits.drain(..self.commits.len().saturating_sub(kept));
        self.commits.shrink_to_fit();
        self.compacted = revision;
    }
}

impl Version {
    /// The version as readers get it.
    pub(crate) fn to_kv(&self, key: &Bytes) -> KeyValue {
        KeyValue {
            key: key.clone(),
            value: self.value.clone().unwrap_or_default(),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
            lease: self.lease,
        }
    }
}

/// The version that was in force at `revision`; none if the key was not there.
fn as_of(versions: &[Version], revision: Revision) -> Option<&Version> {
    let behind = versions.partition_point(|version| version.mod_revision <= revision);
    versions.get(behind.checked_sub(1)?).filter(|version| version.value.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(mvcc: &mut Mvcc, changes: &[Change]) {
        for change in changes {
            mvcc.change(change);
        }
        mvcc.finish(changes.iter().map(|change| change.key().clone()).collect());
    }

    fn put(key: &'static str, value: &'static str) -> Change {
        Change::Put { key: key.into(), value: value.into(), lease: 0 }
    }

    fn delete(key: &'static str) -> Change {
        Change::Delete { key: key.into() }
    }

    /// Revision 2 puts a and b, 3 changes a, 4 deletes a, 5 puts a anew.
    fn sample() -> Mvcc {
        let mut mvcc = Mvcc::new();
        commit(&mut mvcc, &[put("a", "1"), put("b", "1")]);
        commit(&mut mvcc, &[put("a", "2")]);
        commit(&mut mvcc, &[delete("a")]);
        commit(&mut mvcc, &[put("a", "3")]);
        mvcc
    }

    #[test]
    fn every_revision_can_be_read() {
        let mvcc = sample();
        let a = |revision| mvcc.get(b"a", revision).map(|kv| (kv.value, kv.create_revision, kv.version));
        assert_eq!(a(1), None);
        assert_eq!(a(2), Some(("1".into(), 2, 1)));
        assert_eq!(a(3), Some(("2".into(), 2, 2)));
        assert_eq!(a(4), None);
        assert_eq!(a(5), Some(("3".into(), 5, 1)));
    }

    #[test]
    fn events_know_what_was_before() {
        let mvcc = sample();
        let everything = KeyRange::prefix("");
        assert_eq!(mvcc.events(2, &everything).len(), 2);
        let deletion = mvcc.events(4, &everything);
        assert!(deletion[0].deleted && deletion[0].previous.as_ref().unwrap().value == "2");
        assert_eq!(mvcc.events(5, &everything)[0].previous, None);
        assert!(mvcc.events(5, &KeyRange::prefix("b")).is_empty());
        assert!(mvcc.events(6, &everything).is_empty() && mvcc.events(1, &everything).is_empty());
    }

    #[test]
    fn compaction_keeps_what_its_revision_shows() {
        let mut mvcc = sample();
        mvcc.compact(4);
        assert_eq!(mvcc.get(b"a", 4), None);
        assert_eq!(mvcc.get(b"b", 4).unwrap().value, "1");
        assert!(mvcc.events(4, &KeyRange::prefix(""))[0].deleted);
        assert!(matches!(mvcc.readable(3, 5), Err(Error::Compacted { requested: 3, oldest: 4 })));
        assert_eq!(mvcc.readable(4, 5), Ok(4));
        mvcc.compact(5);
        assert_eq!(mvcc.keys.values().map(Vec::len).sum::<usize>(), 2);
    }

    #[test]
    fn rollback_leaves_no_trace() {
        let before = sample();
        let mut mvcc = before.clone();
        commit(&mut mvcc, &[put("c", "1"), put("a", "4")]);
        commit(&mut mvcc, &[delete("c"), delete("b")]);
        mvcc.rollback(5);
        assert_eq!(mvcc, before);
    }
}
