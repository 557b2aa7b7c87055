//! The cache of one kind: a watch fills it, and the own writes of this process go into it at once.
//!
//! The second half is what keeps a level-triggered controller from acting twice on one observation: it creates a pod,
//! puts the answer into the cache ([`Informer::written`]), and counts it when it looks again, whether or not the watch
//! has brought it yet. Which of two states of an object is the newer one is decided by resourceVersion, which is
//! ordered within a kind (KEP-5504). No expectation counters, hence no time-outs of expectations.

use crate::Key;
use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Debug;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How many deleted UIDs are remembered while their last watch event is on its way.
const MAX_GONE: usize = 10_000;

/// What a handler is told: the state before and after, of which one may be missing.
pub struct Change<'a, K> {
    /// The state that the cache had; none for a new object.
    pub old: Option<&'a K>,
    /// The state that it has now; none for a deleted object.
    pub new: Option<&'a K>,
}

impl<'a, K> Change<'a, K> {
    /// The newest state that is known: the object itself or what was deleted.
    pub fn object(&self) -> Option<&'a K> {
        self.new.or(self.old)
    }
}

type Handler<K> = Box<dyn Fn(&Change<'_, K>) + Send + Sync>;

struct State<K> {
    objects: BTreeMap<Key, Arc<K>>,
    /// The highest resourceVersion that the watch brought: what is older and isn't here is gone.
    newest: u64,
    /// UIDs that this process deleted and whose DELETED event has not come yet.
    gone: HashSet<String>,
    /// Keys seen by a list in progress.
    listing: Option<BTreeSet<Key>>,
}

/// A cache of all the objects of one kind. Cheap to clone; all clones are the same cache.
pub struct Informer<K> {
    state: Arc<RwLock<State<K>>>,
    handlers: Arc<RwLock<Vec<Handler<K>>>>,
    synced: Arc<watch::Sender<bool>>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Informer { state: self.state.clone(), handlers: self.handlers.clone(), synced: self.synced.clone() }
    }
}

impl<K> Default for Informer<K> {
    fn default() -> Self {
        let state = State { objects: BTreeMap::new(), newest: 0, gone: HashSet::new(), listing: None };
        Informer {
            state: Arc::new(RwLock::new(state)),
            handlers: Arc::default(),
            synced: Arc::new(watch::channel(false).0),
        }
    }
}

/// The resourceVersion as the number that it is; 0 if it is none, which is older than everything.
pub fn version_of<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

impl<K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static> Informer<K> {
    /// Calls `handler` at every change from now on. It runs on the watch's task: it puts keys into queues, no more.
    pub fn on_change(&self, handler: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        self.handlers.write().push(Box::new(handler));
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.state.read().objects.get(key).cloned()
    }

    /// The objects of a namespace, ordered by name.
    pub fn list(&self, namespace: &str) -> Vec<Arc<K>> {
        let state = self.state.read();
        let from = Key::new(namespace, "");
        state
            .objects
            .range(from..)
            .take_while(|(k, _)| k.namespace == namespace)
            .map(|(_, o)| o.clone())
            .collect()
    }

    /// All objects, ordered by namespace and name.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.state.read().objects.values().cloned().collect()
    }

    /// Waits until the first list is complete.
    pub async fn synced(&self) {
        // The sender lives as long as self, so waiting can't fail.
        let _ = self.synced.subscribe().wait_for(|done| *done).await;
    }

    /// Takes in what a write of this process returned, unless the watch has brought something newer.
    pub fn written(&self, object: K) {
        let known = version_of(&object) <= self.state.read().newest && self.get(&Key::of(&object)).is_none();
        if !known {
            self.apply(object);
        }
    }

    /// Takes out what this process deleted for good.
    pub fn removed(&self, object: &K) {
        {
            let mut state = self.state.write();
            let uid = object.uid().unwrap_or_default();
            let cached = state.objects.get(&Key::of(object)).and_then(|o| o.uid()).unwrap_or_default();
            if cached != uid || state.gone.len() >= MAX_GONE {
                return;
            }
            state.gone.insert(uid);
        }
        self.take_out(&Key::of(object));
    }

    /// Fills the cache until `shutdown`; reconnects and lists again by itself, slower after each failure.
    pub async fn run(self, api: Api<K>, config: watcher::Config, shutdown: CancellationToken) {
        let events = watcher(api, config).default_backoff();
        let mut events = std::pin::pin!(events.take_until(shutdown.cancelled_owned()));
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.event(event),
                // Without its first list this kind holds up those who wait for it, which an operator must see.
                Err(error) if !*self.synced.borrow() => {
                    tracing::warn!(%error, kind = %K::kind(&()), "first list failed, will be tried again");
                }
                Err(error) => tracing::debug!(%error, kind = %K::kind(&()), "watch was interrupted"),
            }
        }
    }

    fn event(&self, event: watcher::Event<K>) {
        match event {
            watcher::Event::Init => self.state.write().listing = Some(BTreeSet::new()),
            watcher::Event::InitApply(object) => {
                if let Some(listing) = self.state.write().listing.as_mut() {
                    listing.insert(Key::of(&object));
                }
                self.apply_from_watch(object);
            }
            watcher::Event::InitDone => self.end_of_list(),
            watcher::Event::Apply(object) => self.apply_from_watch(object),
            watcher::Event::Delete(object) => self.delete_from_watch(&object),
        }
    }

    fn apply_from_watch(&self, object: K) {
        {
            let mut state = self.state.write();
            state.newest = state.newest.max(version_of(&object));
            if object.meta().uid.as_ref().is_some_and(|uid| state.gone.contains(uid)) {
                return;
            }
        }
        self.apply(object);
    }

    fn delete_from_watch(&self, object: &K) {
        let key = Key::of(object);
        let newer = {
            let mut state = self.state.write();
            state.newest = state.newest.max(version_of(object));
            state.gone.remove(object.meta().uid.as_deref().unwrap_or_default());
            state.objects.get(&key).is_some_and(|cached| cached.uid() != object.uid())
        };
        if !newer {
            self.take_out(&key);
        }
    }

    /// What a list didn't bring is gone, except what was written after it.
    fn end_of_list(&self) {
        let absent: Vec<Key> = {
            let mut state = self.state.write();
            state.gone.clear();
            let listed = state.listing.take().unwrap_or_default();
            let newest = state.newest;
            let stale =
                |(key, object): &(&Key, &Arc<K>)| !listed.contains(*key) && version_of(&***object) <= newest;
            state.objects.iter().filter(stale).map(|(key, _)| key.clone()).collect()
        };
        absent.iter().for_each(|key| self.take_out(key));
        self.synced.send_replace(true);
    }

    fn apply(&self, mut object: K) {
        // Bookkeeping of field owners is most of an object's size, and no controller reads it.
        object.meta_mut().managed_fields = None;
        let object = Arc::new(object);
        let old = {
            let mut state = self.state.write();
            let key = Key::of(&*object);
            let cached = state.objects.get(&key).map_or(0, |cached| version_of(&**cached));
            if cached != 0 && cached >= version_of(&*object) {
                return;
            }
            state.objects.insert(key, object.clone())
        };
        self.tell(&Change { old: old.as_deref(), new: Some(&object) });
    }

    fn take_out(&self, key: &Key) {
        let old = self.state.write().objects.remove(key);
        if old.is_some() {
            self.tell(&Change { old: old.as_deref(), new: None });
        }
    }

    fn tell(&self, change: &Change<'_, K>) {
        self.handlers.read().iter().for_each(|handler| handler(change));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn object(name: &str, uid: &str, version: u64) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.into());
        object.metadata.namespace = Some("ns".into());
        object.metadata.uid = Some(uid.into());
        object.metadata.resource_version = Some(version.to_string());
        object
    }

    fn versions(informer: &Informer<ConfigMap>) -> Vec<u64> {
        informer.list("ns").iter().map(|o| version_of(&**o)).collect()
    }

    #[test]
    fn own_write_is_visible_at_once_and_its_echo_changes_nothing() {
        let informer = Informer::<ConfigMap>::default();
        let told = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = told.clone();
        informer.on_change(move |_| _ = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        informer.written(object("a", "1", 5));
        informer.event(watcher::Event::Apply(object("a", "1", 5)));
        assert_eq!(versions(&informer), [5]);
        assert_eq!(told.load(std::sync::atomic::Ordering::Relaxed), 1);
    }

    #[test]
    fn late_answer_does_not_resurrect_what_the_watch_deleted() {
        let informer = Informer::<ConfigMap>::default();
        informer.event(watcher::Event::Apply(object("a", "1", 5)));
        informer.event(watcher::Event::Delete(object("a", "1", 6)));
        informer.written(object("a", "1", 5));
        assert!(versions(&informer).is_empty());
    }

    #[test]
    fn own_delete_hides_events_that_are_under_way() {
        let informer = Informer::<ConfigMap>::default();
        informer.event(watcher::Event::Apply(object("a", "1", 5)));
        informer.removed(&object("a", "1", 5));
        informer.event(watcher::Event::Apply(object("a", "1", 6)));
        assert!(versions(&informer).is_empty());
        informer.event(watcher::Event::Delete(object("a", "1", 7)));
        informer.event(watcher::Event::Apply(object("a", "2", 8)));
        assert_eq!(versions(&informer), [8]);
    }

    #[test]
    fn a_list_removes_what_it_lacks_but_keeps_newer_own_writes() {
        let informer = Informer::<ConfigMap>::default();
        informer.event(watcher::Event::Apply(object("old", "1", 5)));
        informer.event(watcher::Event::Init);
        informer.event(watcher::Event::InitApply(object("b", "2", 7)));
        informer.written(object("c", "3", 9));
        informer.event(watcher::Event::InitDone);
        assert_eq!(versions(&informer), [7, 9]);
    }
}
