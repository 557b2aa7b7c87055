//! All caches, one a resource, fed by one watch; those of custom resources come and go with their definitions.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::StreamExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Cache;
use crate::custom::rows::Rows;
use crate::resources::{DEFINITIONS, RESOURCES, Resource};
use crate::storage::{Event, KeyValue, ListOptions, Revision, StorageError, StorageHandle, WatchItem};

/// Keys read at once when everything is listed.
const PAGE: i64 = 1000;
const REGISTRY: &str = "/registry/";
/// Pause before the store is asked again after it failed.
const RETRY: Duration = Duration::from_millis(500);

/// The caches of all resources, fed by one watch.
pub struct Caches {
    rows: Rows,
    caches: ArcSwap<Vec<Arc<Cache>>>,
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
        let all = Caches {
            rows: Rows::default(),
            caches: ArcSwap::from_pointee(caches),
            revision: watch::Sender::new(0),
        };
        // First of all the definitions: they say what else there is.
        if let Some(definitions) = all.caches.load().iter().find(|cache| cache.resource.prefix == DEFINITIONS)
        {
            fill_at(&storage, definitions, 0).await?;
        }
        all.add_custom();
        let revision = all.list(&storage, Cache::fill).await?;
        let all = Arc::new(all);
        let follower = all.clone();
        tokio::spawn(async move {
            tokio::select! { () = shutdown.cancelled() => {}, () = follower.follow(storage, revision) => {} }
        });
        Ok(all)
    }

    /// The cache in which a resource's objects are.
    pub fn of(&self, resource: &Resource) -> Arc<Cache> {
        let caches = self.caches.load();
        let found = caches.iter().find(|cache| cache.resource.prefix == resource.prefix);
        // Every row of the table got a cache in `start`; one whose definition has just gone has no objects.
        found.cloned().unwrap_or_else(|| Arc::new(Cache::new(resource.stored())))
    }

    /// The rows whose objects are here.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// Takes over what the definitions say; the caches that are new, and still empty.
    fn add_custom(&self) -> Vec<Arc<Cache>> {
        let caches = self.caches.load_full();
        let definitions = caches.iter().find(|cache| cache.resource.prefix == DEFINITIONS);
        let definitions = definitions.map(|cache| cache.list(REGISTRY)).unwrap_or_default();
        let rows = self.rows.follow(&definitions);
        let (mut kept, mut new): (Vec<Arc<Cache>>, Vec<Arc<Cache>>) = (Vec::new(), Vec::new());
        for cache in caches.iter() {
            let of = rows.iter().find(|row| row.prefix == cache.resource.prefix);
            if cache.resource.custom.is_none() || of.is_some_and(|row| row.fields == cache.resource.fields) {
                kept.push(cache.clone());
            } else {
                cache.close();
            }
        }
        for row in rows {
            if kept.iter().all(|cache| cache.resource.prefix != row.prefix) {
                new.push(Arc::new(Cache::new(row)));
            }
        }
        self.caches.store(Arc::new(kept.into_iter().chain(new.iter().cloned()).collect()));
        new
    }

    /// The same while changes come in: a cache that is new gets what was there at this revision, before it is told what came later.
    async fn follow_definitions(
        &self,
        storage: &StorageHandle,
        revision: Revision,
    ) -> Result<(), StorageError> {
        for cache in self.add_custom() {
            fill_at(storage, &cache, revision).await?;
        }
        Ok(())
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
        let caches = self.caches.load_full();
        let mut listed: Vec<Vec<KeyValue>> = vec![Vec::new(); caches.len()];
        loop {
            let page = storage.list(REGISTRY, options.clone()).await?;
            options.revision = page.revision;
            options.after = page.items.last().map(|kv| kv.key.clone());
            for kv in page.items {
                if let Some(i) = position(&caches, &kv.key) {
                    listed[i].push(kv);
                }
            }
            if page.remaining == 0 {
                break;
            }
        }
        for (cache, listed) in caches.iter().zip(&listed) {
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
                        Some(Ok(item)) => match self.take(&storage, item).await {
                            Ok(taken) => revision = taken,
                            Err(error) => break Some(error),
                        },
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
                Ok(listed) => match self.follow_definitions(&storage, listed).await {
                    Ok(()) => revision = listed,
                    Err(error) => {
                        tracing::warn!(%error, "the objects of a new definition cannot be listed; trying again");
                    }
                },
                Err(error) => tracing::warn!(%error, "the store cannot be listed; trying again"),
            }
        }
    }

    async fn take(&self, storage: &StorageHandle, item: WatchItem) -> Result<Revision, StorageError> {
        let caches = self.caches.load_full();
        let revision = match item {
            WatchItem::Progress(revision) => revision,
            WatchItem::Events(events) => {
                let (mut touched, mut defined) = (BTreeSet::new(), false);
                for event in &events {
                    let key = match event {
                        Event::Put { current, .. } => &current.key,
                        Event::Delete { key, .. } => key,
                    };
                    if let Some(i) = position(&caches, key) {
                        caches[i].apply(event);
                        touched.insert(i);
                        defined |= caches[i].resource.prefix == DEFINITIONS;
                    }
                }
                // First, so that whoever hears of a definition finds what it defines.
                let revision = events.last().map_or(0, Event::revision);
                if defined {
                    self.follow_definitions(storage, revision).await?;
                }
                touched.into_iter().for_each(|i| caches[i].tell());
                revision
            }
        };
        Ok(self.advance(revision))
    }

    fn advance(&self, revision: Revision) -> Revision {
        self.revision.send_if_modified(|seen| {
            let newer = revision > *seen;
            *seen = (*seen).max(revision);
            newer
        });
        self.revision()
    }
}

/// Fills a cache with what was there at a revision; 0 is the newest.
async fn fill_at(storage: &StorageHandle, cache: &Cache, revision: Revision) -> Result<(), StorageError> {
    let prefix = format!("{REGISTRY}{}/", cache.resource.prefix);
    let mut options = ListOptions { limit: PAGE, revision, after: None };
    loop {
        let page = storage.list(&prefix, options.clone()).await?;
        options.revision = page.revision;
        options.after = page.items.last().map(|kv| kv.key.clone());
        cache.fill(&page.items, page.revision);
        if page.remaining == 0 {
            return Ok(());
        }
    }
}

/// The cache in which a key's object belongs.
fn position(caches: &[Arc<Cache>], key: &str) -> Option<usize> {
    let rest = key.strip_prefix(REGISTRY)?;
    caches.iter().position(|c| rest.strip_prefix(c.resource.prefix).is_some_and(|r| r.starts_with('/')))
}
