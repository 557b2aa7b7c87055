//! The words that everything here shares: keys, ranges of keys, changes and events.

use std::ops::Bound;

use bytes::Bytes;

/// A revision of the whole store. An empty store is at revision 1; every transaction that changes something makes
/// the next one.
pub type Revision = i64;

/// The number of a lease; 0 means none.
pub type LeaseId = i64;

/// One key as it stood at some revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// Its value; empty in reads that asked for keys only.
    pub value: Bytes,
    /// The revision that created this incarnation of the key.
    pub create_revision: Revision,
    /// The revision of the last change.
    pub mod_revision: Revision,
    /// How often this incarnation was written, from 1 on.
    pub version: i64,
    /// The lease with which the key vanishes; 0 if none.
    pub lease: LeaseId,
}

/// The two ends of a lookup in an ordered map.
pub(crate) type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// What happened to one key in one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The key was written.
    Put {
        /// The key.
        key: Bytes,
        /// The new value.
        value: Bytes,
        /// The lease it hangs on from now on; 0 if none.
        lease: LeaseId,
    },
    /// The key was deleted.
    Delete {
        /// The key.
        key: Bytes,
    },
}

impl Change {
    /// The key that is changed.
    pub fn key(&self) -> &Bytes {
        match self {
            Change::Put { key, .. } | Change::Delete { key } => key,
        }
    }
}

/// A change as a watcher sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The key as it is now. A deleted one has only `key` and `mod_revision`, the revision that deleted it.
    pub kv: KeyValue,
    /// True if the key was deleted.
    pub deleted: bool,
    /// The key as it was before, if it was and the history still knows it.
    pub previous: Option<KeyValue>,
}

impl Event {
    /// The bytes of its keys and values.
    pub(crate) fn weight(&self) -> usize {
        let of = |kv: &KeyValue| kv.key.len() + kv.value.len();
        of(&self.kv) + self.previous.as_ref().map_or(0, of)
    }
}

/// Which keys a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    start: Bytes,
    end: End,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// Only the start key itself.
    Single,
    /// Up to this key, which is not included.
    Before(Bytes),
    /// Everything from the start key on.
    Open,
}

impl KeyRange {
    /// Exactly one key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        KeyRange { start: key.into(), end: End::Single }
    }

    /// All keys that begin with `prefix`; an empty prefix means every key.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let end = prefix_end(&start).map_or(End::Open, End::Before);
        KeyRange { start, end }
    }

    /// From `start` (included) to `end` (not included).
    pub fn span(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        KeyRange { start: start.into(), end: End::Before(end.into()) }
    }

    /// The pair as it stands in etcd's messages: no `range_end` means one key, `"\0"` everything from `key` on.
    pub fn from_wire(key: impl Into<Bytes>, range_end: impl Into<Bytes>) -> Self {
        let range_end = range_end.into();
        let end = match range_end.as_ref() {
            b"" => End::Single,
            b"\0" => End::Open,
            _ => End::Before(range_end),
        };
        KeyRange { start: key.into(), end }
    }

    /// The part of the range that lies behind `key`, without `key` itself.
    pub fn behind(&self, key: &[u8]) -> Self {
        // The successor of a key in byte order is the key with a zero byte behind it.
        let successor = Bytes::from([key, b"\0"].concat());
        match &self.end {
            _ if successor <= self.start => self.clone(),
            End::Single => KeyRange { start: successor.clone(), end: End::Before(successor) },
            end => KeyRange { start: successor, end: end.clone() },
        }
    }

    /// The first key.
    pub fn start(&self) -> &Bytes {
        &self.start
    }

    /// True for a range that names one key.
    pub fn is_single(&self) -> bool {
        self.end == End::Single
    }

    /// True if `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            End::Single => key == self.start,
            End::Before(end) => key >= self.start.as_ref() && key < end.as_ref(),
            End::Open => key >= self.start.as_ref(),
        }
    }

    /// True if every key of `other` lies in this range too.
    pub fn covers(&self, other: &KeyRange) -> bool {
        if other.is_empty() {
            return true;
        }
        let end_fits = match (&self.end, &other.end) {
            (End::Single, other_end) => *other_end == End::Single,
            (End::Open, _) => true,
            (End::Before(_), End::Open) => false,
            (End::Before(end), End::Single) => other.start < end,
            (End::Before(end), End::Before(other_end)) => other_end <= end,
        };
        self.contains(&other.start) && end_fits
    }

    /// True if the range can hold no key at all.
    pub fn is_empty(&self) -> bool {
        matches!(&self.end, End::Before(end) if *end <= self.start)
    }

    /// The bounds for a lookup in an ordered map; none for an empty range.
    pub(crate) fn bounds(&self) -> Option<Bounds<'_>> {
        if self.is_empty() {
            return None;
        }
        let end = match &self.end {
            End::Single => Bound::Included(self.start.as_ref()),
            End::Before(end) => Bound::Excluded(end.as_ref()),
            End::Open => Bound::Unbounded,
        };
        Some((Bound::Included(self.start.as_ref()), end))
    }
}

/// The first key behind all keys with this prefix; none if there is no such key.
fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|&byte| byte < u8::MAX)?;
    let mut end = prefix.get(..=last)?.to_vec();
    if let Some(byte) = end.last_mut() {
        *byte += 1;
    }
    Some(end.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_its_successor() {
        let range = KeyRange::prefix("/a/");
        assert!(range.contains(b"/a/") && range.contains(b"/a/\xff\xff") && !range.contains(b"/a0"));
        assert!(KeyRange::prefix("").contains(b"\xff\xff"));
        assert!(KeyRange::prefix(&b"\xff"[..]).contains(b"\xff\xff"));
        assert_eq!(KeyRange::prefix(&b"a\xff"[..]), KeyRange::span(&b"a\xff"[..], "b"));
    }

    #[test]
    fn the_wire_form_has_three_shapes() {
        assert_eq!(KeyRange::from_wire("a", ""), KeyRange::key("a"));
        assert_eq!(KeyRange::from_wire("a", "b"), KeyRange::span("a", "b"));
        assert!(KeyRange::from_wire("b", "\0").contains(b"zzz"));
        assert!(!KeyRange::from_wire("b", "\0").contains(b"a"));
    }

    #[test]
    fn a_reversed_range_is_empty() {
        let range = KeyRange::span("b", "a");
        assert!(range.is_empty() && range.bounds().is_none() && !range.contains(b"a"));
    }

    #[test]
    fn covering_is_containment() {
        let outer = KeyRange::prefix("/net/");
        assert!(outer.covers(&KeyRange::key("/net/config")));
        assert!(outer.covers(&KeyRange::prefix("/net/subnets/")));
        assert!(!outer.covers(&KeyRange::prefix("/ne")));
        assert!(!outer.covers(&KeyRange::from_wire("/net/a", "\0")));
        assert!(!KeyRange::key("a").covers(&KeyRange::span("a", "b")));
        assert!(KeyRange::prefix("").covers(&KeyRange::from_wire("a", "\0")));
    }
}
