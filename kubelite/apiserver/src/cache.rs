//! The watch cache: all objects as bytes that were encoded once, and the last changes of each resource in a bounded ring.
//!
//! ```text
//!  store: list /registry/, then ONE watch ─► by prefix ─► Cache(pods), Cache(nodes), … ─► list: bytes; watch: a cursor over the ring
//! ```
//!
//! A cursor that falls behind the ring gets [`TooOld`], which the client sees as 410 Gone, and no other watcher notices. When
//! the store's watch breaks, everything is listed again and the difference is told as changes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use kubelite_api::object;
use parking_lot::RwLock;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::resources::{RESOURCES, Resource};
use crate::storage::{Event, KeyValue, ListOptions, Revision, StorageError, StorageHandle, WatchItem};

/// How many changes of one resource can be looked back on.
const RING: usize = 4096;
/// Keys read at once when everything is listed.
const PAGE: i64 = 1000;
const REGISTRY: &str = "/registry/";
/// Pause before the store is asked again after it failed.
const RETRY: Duration = Duration::from_millis(500);

/// One object, as it was at one revision.
#[derive(Debug)]
pub struct Entry {
    /// Its key in the store.
    pub key: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its resourceVersion.
    pub revision: Revision,
    /// The whole object as JSON, resourceVersion included.
    pub bytes: Bytes,
    /// Its labels, for selectors.
    pub labels: BTreeMap<String, String>,
    /// The values of the resource's selectable fields, in the order of the row.
    pub fields: Vec<String>,
    parsed: OnceLock<Arc<Value>>,
}

impl Entry {
    /// An object as the store has it; none if it is damaged.
    pub fn read(resource: &Resource, kv: &KeyValue) -> Option<Entry> {
        Entry::new(resource, kv, kv.mod_revision)
    }

    fn new(resource: &Resource, kv: &KeyValue, revision: Revision) -> Option<Entry> {
        let mut value: Value = serde_json::from_slice(&kv.value).ok()?;
        object::set_resource_version(&mut value, &revision.to_string());
        let labels = object::labels(&value).into_iter().flatten();
        let labels = labels.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect();
        let fields = resource.fields.iter().map(|path| resource.strategy.field(&value, path)).collect();
        Some(Entry {
            key: kv.key.clone(),
            namespace: object::namespace(&value).to_owned(),
            name: object::name(&value).to_owned(),
            revision,
            bytes: serde_json::to_vec(&value).ok()?.into(),
            labels,
            fields,
            parsed: OnceLock::new(),
        })
    }

    /// The same object under the resourceVersion of a later change: how a watcher sees it leave its selection.
    pub fn at_revision(&self, revision: Revision) -> Entry {
        let mut value: Value = serde_json::from_slice(&self.bytes).unwrap_or_default();
        object::set_resource_version(&mut value, &revision.to_string());
        Entry {
            key: self.key.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            revision,
            bytes: serde_json::to_vec(&value).unwrap_or_default().into(),
            labels: self.labels.clone(),
            fields: self.fields.clone(),
            parsed: OnceLock::new(),
        }
    }

    /// The object as a tree. Kept once it was asked for: only what the server itself reasons about is.
    pub fn value(&self) -> Arc<Value> {
        self.parsed.get_or_init(|| Arc::new(serde_json::from_slice(&self.bytes).unwrap_or_default())).clone()
    }

    /// A selectable field's value; empty if the resource has no such field.
    pub fn field(&self, resource: &Resource, path: &str) -> String {
        match path {
            "metadata.name" => self.name.clone(),
            "metadata.namespace" => self.namespace.clone(),
            _ => {
                let position = resource.fields.iter().position(|f| *f == path);
                position.and_then(|i| self.fields.get(i)).cloned().unwrap_or_default()
            }
        }
    }
}

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

    /// The changes behind `cursor`, oldest first.
    pub fn changes_after(&self, cursor: Revision) -> Result<Vec<Arc<Change>>, TooOld> {
        let told = *self.changed.borrow();
        let state = self.state.read();
        if cursor < state.complete_after {
            return Err(TooOld { oldest: state.complete_after });
        }
        let start = state.ring.partition_point(|change| change.revision <= cursor);
        Ok(state.ring.range(start..).take_while(|change| change.revision <= told).cloned().collect())
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

    /// Takes over a full listing; the differences become changes.
    fn replace(&self, listed: &[KeyValue], revision: Revision) {
        let known: BTreeSet<String> = self.state.read().objects.keys().cloned().collect();
        let first = known.is_empty();
        if first {
            self.state.write().complete_after = revision;
        }
        let mut gone = known;
        for kv in listed {
            gone.remove(&kv.key);
            let unchanged = self.get(&kv.key).is_some_and(|entry| entry.revision == kv.mod_revision);
            if first {
                self.insert(kv);
            } else if !unchanged {
                self.apply(&Event::Put { current: kv.clone(), previous: None });
            }
        }
        for key in gone {
            self.apply(&Event::Delete { key, revision, previous: None });
        }
    }

    fn insert(&self, kv: &KeyValue) {
        if let Some(entry) = Entry::read(self.resource, kv) {
            self.state.write().objects.insert(kv.key.clone(), Arc::new(entry));
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

fn push(state: &mut State, change: Change) {
    if state.ring.len() == RING
        && let Some(dropped) = state.ring.pop_front()
    {
        state.complete_after = dropped.revision;
    }
    state.ring.push_back(Arc::new(change));
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
        let revision = all.list(&storage).await?;
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

    async fn list(&self, storage: &StorageHandle) -> Result<Revision, StorageError> {
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
            cache.replace(listed, options.revision);
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
            match self.list(&storage).await {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn put(name: &str, revision: Revision) -> Event {
        let value = format!(r#"{{"kind":"ConfigMap","metadata":{{"name":"{name}","namespace":"n"}}}}"#);
        let key = format!("/registry/configmaps/n/{name}");
        let current =
            KeyValue { key, value: value.into(), create_revision: revision, mod_revision: revision };
        Event::Put { current, previous: None }
    }

    fn cache() -> Cache {
        Cache::new(crate::resources::by_plural("configmaps").unwrap())
    }

    #[test]
    fn a_cursor_that_the_ring_has_passed_is_too_old() {
        let cache = cache();
        let last = Revision::try_from(RING).unwrap() + 10;
        for revision in 1..=last {
            cache.apply(&put("m", revision));
        }
        cache.tell();
        assert_eq!(cache.changes_after(5).unwrap_err(), TooOld { oldest: 10 });
        assert_eq!(cache.changes_after(10).unwrap().len(), RING);
        assert_eq!(cache.changes_after(last).unwrap().len(), 0);
        assert_eq!(cache.list("/registry/configmaps/n/").len(), 1);
    }

    #[test]
    fn changes_of_a_revision_are_told_together() {
        let cache = cache();
        cache.apply(&put("a", 1));
        assert_eq!(cache.changes_after(0).unwrap().len(), 0, "the revision may not be complete");
        cache.apply(&put("b", 1));
        cache.tell();
        assert_eq!(cache.changes_after(0).unwrap().len(), 2);
    }

    #[test]
    fn a_new_listing_tells_the_difference() {
        let cache = cache();
        let listed = |names: &[(&str, Revision)]| -> Vec<KeyValue> {
            let put = names.iter().map(|(name, revision)| put(name, *revision));
            put.filter_map(|event| if let Event::Put { current, .. } = event { Some(current) } else { None })
                .collect()
        };
        cache.replace(&listed(&[("kept", 1), ("gone", 2), ("changed", 3)]), 3);
        cache.replace(&listed(&[("kept", 1), ("changed", 7), ("new", 8)]), 9);
        cache.tell();
        let told: Vec<(String, bool)> =
            cache.changes_after(3).unwrap().iter().map(|c| (c.now.name.clone(), c.deleted)).collect();
        assert_eq!(told, [("changed".into(), false), ("new".into(), false), ("gone".into(), true)]);
    }
}
