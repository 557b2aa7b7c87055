//! The watch cache: all objects as bytes that were encoded once, and the last changes of each resource in a bounded ring.
//!
//! ```text
//!  store: list /registry/, then ONE watch ─► by prefix ─► Cache(pods), Cache(nodes), … ─► list: bytes; watch: a cursor over the ring
//! ```
//!
//! A cursor that falls behind the ring gets [`TooOld`], which the client sees as 410 Gone, and no other watcher notices. When
//! the store's watch breaks, everything is listed again and the difference is told as changes.

mod entry;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use entry::Entry;

use crate::resources::{RESOURCES, Resource};
use crate::storage::{Event, KeyValue, ListOptions, Revision, StorageError, StorageHandle, WatchItem};

/// How many changes of one resource can be looked back on,
const RING: usize = 4096;
/// and how much memory they may take, since an idle cluster's heartbeats fill any ring.
const RING_BYTES: usize = 4 << 20;
/// What an object in the ring takes beside its bytes: names, labels, fields, the entry itself; roughly.
const ENTRY_BYTES: usize = 512;
/// Keys read at once when everything is listed.
const PAGE: i64 = 1000;
const REGISTRY: &str = "/registry/";
/// Pause before the store is asked again after it failed.
const RETRY: Duration = Duration::from_millis(500);

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
        Cache { resource, state: RwLock::default(), changed: watch::Sender::new(0) }
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

/// The caches of all resources, fed by one watch.
pub struct Caches {
    caches: Vec<Arc<Cache>>,
    revision: watch::Sender<Revision>,
}

impl Caches {
    /// Fills the caches from the store and keeps them up to date until `shutdown`.
    pub async fn start(
        storage: StorageHandle,
        shutdown: CancellationToken,
    ) -> Result<Arc<Caches>, StorageError> {
        let mut caches: Vec<Arc<Cache>> = Vec::new();
        for resource in RESOURCES {
            if caches.iter().all(|c| c.resource.prefix != resource.prefix) {
                caches.push(Arc::new(Cache::new(resource)));
            }
        }
        let all = Arc::new(Caches { caches, revision: watch::Sender::new(0) });
        let revision = all.list(&storage, Cache::fill).await?;
        let follower = all.clone();
        tokio::spawn(async move {
            tokio::select! { () = shutdown.cancelled() => {}, () = follower.follow(storage, revision) => {} }
        });
        Ok(all)
    }

    /// The cache in which a resource's objects are.
    pub fn of(&self, resource: &Resource) -> Arc<Cache> {
        // Every row's prefix got a cache in `start`.
        let found = self.caches.iter().find(|cache| cache.resource.prefix == resource.prefix);
        found.unwrap_or(&self.caches[0]).clone()
    }

    /// The newest revision that all caches have seen.
    pub fn revision(&self) -> Revision {
        *self.revision.borrow()
    }

    /// Tells [`Caches::revision`] when it grows.
    pub fn subscribe(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// Waits until a revision has arrived, at the most for `limit`; whether it has.
    pub async fn wait_for(&self, revision: Revision, limit: Duration) -> bool {
        let mut seen = self.revision.subscribe();
        tokio::time::timeout(limit, seen.wait_for(|r| *r >= revision)).await.is_ok()
    }

    /// Reads everything at one revision, and hands each cache its part.
    async fn list(
        &self,
        storage: &StorageHandle,
        take: fn(&Cache, &[KeyValue], Revision),
    ) -> Result<Revision, StorageError> {
        let mut options = ListOptions { limit: PAGE, ..ListOptions::default() };
        let mut listed: Vec<Vec<KeyValue>> = vec![Vec::new(); self.caches.len()];
        loop {
            let page = storage.list(REGISTRY, options.clone()).await?;
            options.revision = page.revision;
            options.after = page.items.last().map(|kv| kv.key.clone());
            for kv in page.items {
                if let Some(i) = self.position(&kv.key) {
                    listed[i].push(kv);
                }
            }
            if page.remaining == 0 {
                break;
            }
        }
        for (cache, listed) in self.caches.iter().zip(&listed) {
            take(cache, listed, options.revision);
            cache.tell();
        }
        self.advance(options.revision);
        Ok(options.revision)
    }

    async fn follow(&self, storage: StorageHandle, mut revision: Revision) {
        loop {
            let error = match storage.watch(REGISTRY, revision + 1).await {
                Ok(mut items) => loop {
                    match items.next().await {
                        Some(Ok(item)) => revision = self.take(item),
                        Some(Err(error)) => break Some(error),
                        None => break None,
                    }
                },
                Err(error) => Some(error),
            };
            if let Some(error) = error {
                tracing::warn!(%error, "the store's watch broke; listing again");
            }
            tokio::time::sleep(RETRY).await;
            match self.list(&storage, Cache::replace).await {
                Ok(listed) => revision = listed,
                Err(error) => tracing::warn!(%error, "the store cannot be listed; trying again"),
            }
        }
    }

    fn take(&self, item: WatchItem) -> Revision {
        let revision = match item {
            WatchItem::Progress(revision) => revision,
            WatchItem::Events(events) => {
                let mut touched = BTreeSet::new();
                for event in &events {
                    let key = match event {
                        Event::Put { current, .. } => &current.key,
                        Event::Delete { key, .. } => key,
                    };
                    if let Some(i) = self.position(key) {
                        self.caches[i].apply(event);
                        touched.insert(i);
                    }
                }
                touched.into_iter().for_each(|i| self.caches[i].tell());
                events.last().map_or(0, Event::revision)
            }
        };
        self.advance(revision)
    }

    fn advance(&self, revision: Revision) -> Revision {
        self.revision.send_if_modified(|seen| {
            let newer = revision > *seen;
            *seen = (*seen).max(revision);
            newer
        });
        self.revision()
    }

    fn position(&self, key: &str) -> Option<usize> {
        let rest = key.strip_prefix(REGISTRY)?;
        self.caches
            .iter()
            .position(|c| rest.strip_prefix(c.resource.prefix).is_some_and(|r| r.starts_with('/')))
    }
}
