//! The watch cache: all objects as bytes that were encoded once, and the last changes of each resource in a bounded ring.
//!
//! ```text
//!  store: list /registry/, then ONE watch ─► by prefix ─► Cache(pods), Cache(nodes), … ─► list: bytes; watch: a cursor over the ring
//! ```
//!
//! A cursor that falls behind the ring gets [`TooOld`], which the client sees as 410 Gone, and no other watcher notices. When
//! the store's watch breaks, everything is listed again and the difference is told as changes.

mod caches;
mod entry;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use tokio::sync::watch;

pub use caches::Caches;
pub use entry::Entry;

use crate::resources::Resource;
use crate::storage::{Event, KeyValue, Revision};

/// How many changes of one resource can be looked back on,
const RING: usize = 4096;
/// and how much memory they may take, since an idle cluster's heartbeats fill any ring.
const RING_BYTES: usize = 4 << 20;
/// What an object in the ring takes beside its bytes: names, labels, fields, the entry itself; roughly.
const ENTRY_BYTES: usize = 512;

/// A change of one object.
#[derive(Debug)]
pub struct Change {
    /// In which it happened.
    pub revision: Revision,
    /// What it was before; none if it was created.
    pub before: Option<Arc<Entry>>,
    /// What it is now; for a deletion its last state, with the deletion's revision as resourceVersion.
    pub now: Arc<Entry>,
    /// Whether it was deleted.
    pub deleted: bool,
}

/// The cursor stands before the oldest change that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooOld {
    /// The oldest revision from which changes can be told.
    pub oldest: Revision,
}

/// The objects of one resource.
pub struct Cache {
    resource: &'static Resource,
    state: RwLock<State>,
    changed: watch::Sender<Revision>,
    closed: AtomicBool,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Arc<Entry>>,
    ring: VecDeque<Arc<Change>>,
    /// What the ring's objects take.
    ring_bytes: usize,
    /// All changes behind this revision are in the ring.
    complete_after: Revision,
}

impl Cache {
    fn new(resource: &'static Resource) -> Cache {
        let closed = AtomicBool::new(false);
        Cache { resource, state: RwLock::default(), changed: watch::Sender::new(0), closed }
    }

    /// Whether the kind is not served any more, or by another cache: watches end.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.changed.send_modify(|_| {});
    }

    /// One object.
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.state.read().objects.get(key).cloned()
    }

    /// The objects whose key begins with `prefix`, in order.
    pub fn list(&self, prefix: &str) -> Vec<Arc<Entry>> {
        let state = self.state.read();
        let from = state.objects.range(prefix.to_owned()..);
        from.take_while(|(key, _)| key.starts_with(prefix)).map(|(_, entry)| entry.clone()).collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The changes behind `cursor`, oldest first: about `limit` of them, as no revision is split. If it is fewer than `limit`,
    /// there are no more.
    pub fn changes_after(&self, cursor: Revision, limit: usize) -> Result<Vec<Arc<Change>>, TooOld> {
        let told = *self.changed.borrow();
        let state = self.state.read();
        if cursor < state.complete_after {
            return Err(TooOld { oldest: state.complete_after });
        }
        let start = state.ring.partition_point(|change| change.revision <= cursor);
        let mut changes: Vec<Arc<Change>> = Vec::new();
        for change in state.ring.range(start..).take_while(|change| change.revision <= told) {
            if changes.len() >= limit && changes.last().is_some_and(|last| last.revision != change.revision) {
                break;
            }
            changes.push(change.clone());
        }
        Ok(changes)
    }

    /// Tells the revision of each change of this resource.
    pub fn subscribe(&self) -> watch::Receiver<Revision> {
        self.changed.subscribe()
    }

    fn apply(&self, event: &Event) {
        let (key, kv, revision, deleted) = match event {
            Event::Put { current, .. } => (&current.key, Some(current), current.mod_revision, false),
            Event::Delete { key, revision, previous } => (key, previous.as_ref(), *revision, true),
        };
        let mut state = self.state.write();
        let before = if deleted { state.objects.remove(key) } else { state.objects.get(key).cloned() };
        // The last state of what is gone comes from the store or, if it no longer knows, from here.
        let last = before.as_ref().map(|b| last_state(key, b));
        let now = kv.and_then(|kv| Entry::new(self.resource, kv, revision));
        let now = now.or_else(|| Entry::new(self.resource, &last?, revision)).map(Arc::new);
        let Some(now) = now else {
            tracing::error!(key, "an object in the store is damaged and is left out");
            return;
        };
        if !deleted {
            state.objects.insert(key.clone(), now.clone());
        }
        push(&mut state, Change { revision, before, now, deleted });
    }

    /// Wakes the watchers, once all changes of a revision are here: a cursor must not pass a revision of which it saw a part.
    fn tell(&self) {
        if let Some(newest) = self.state.read().ring.back().map(|change| change.revision) {
            self.changed.send_if_modified(|told| {
                let news = newest > *told;
                *told = newest;
                news
            });
        }
    }

    /// Takes over the first listing: what is there was never news.
    fn fill(&self, listed: &[KeyValue], revision: Revision) {
        let mut state = self.state.write();
        state.complete_after = revision;
        for kv in listed {
            match Entry::read(self.resource, kv) {
                Some(entry) => drop(state.objects.insert(kv.key.clone(), Arc::new(entry))),
                None => tracing::error!(key = kv.key, "an object in the store is damaged and is left out"),
            }
        }
    }

    /// Takes over a later listing; the differences become changes, in the order of their revisions, as cursors need it.
    fn replace(&self, listed: &[KeyValue], revision: Revision) {
        let mut gone: BTreeSet<String> = self.state.read().objects.keys().cloned().collect();
        let mut changed = Vec::new();
        for kv in listed {
            gone.remove(&kv.key);
            if self.get(&kv.key).is_none_or(|entry| entry.revision != kv.mod_revision) {
                changed.push(kv);
            }
        }
        changed.sort_by_key(|kv| kv.mod_revision);
        for kv in changed {
            self.apply(&Event::Put { current: kv.clone(), previous: None });
        }
        for key in gone {
            self.apply(&Event::Delete { key, revision, previous: None });
        }
    }
}

fn last_state(key: &str, entry: &Entry) -> KeyValue {
    let revision = entry.revision;
    KeyValue {
        key: key.to_owned(),
        value: entry.bytes.clone(),
        create_revision: revision,
        mod_revision: revision,
    }
}

/// Adds to the ring; what no longer fits is forgotten, oldest first, but never the newest.
fn push(state: &mut State, change: Change) {
    state.ring_bytes += cost(&change);
    state.ring.push_back(Arc::new(change));
    while state.ring.len() > RING || (state.ring_bytes > RING_BYTES && state.ring.len() > 1) {
        let Some(dropped) = state.ring.pop_front() else { return };
        state.ring_bytes -= cost(&dropped);
        state.complete_after = dropped.revision;
    }
}

/// What a change keeps in memory; what was before is the `now` of another one, or soon will not be kept.
fn cost(change: &Change) -> usize {
    change.now.bytes.len() + ENTRY_BYTES
}
