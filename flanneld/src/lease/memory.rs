//! The store in memory, for tests of the keeper: a moment can be made to pass, records can be taken away.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::StreamExt;
use tokio::sync::watch;

use super::store::{Event, Events, Held, LeaseStore, Record, Snapshot, StoreError};

/// Records with ends, and all that happened to them.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    changed: watch::Sender<i64>,
}

impl Default for Inner {
    fn default() -> Self {
        Inner { state: Mutex::default(), changed: watch::Sender::new(0) }
    }
}

#[derive(Debug, Default)]
struct State {
    config: Option<String>,
    revision: i64,
    now: i64,
    next_lease: i64,
    records: BTreeMap<String, (Record, Option<i64>)>,
    history: Vec<(i64, Event)>,
    compacted: i64,
    down: bool,
}

impl Memory {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let (answer, revision) = {
            let mut state = self.0.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            (work(&mut state), state.revision)
        };
        self.0.changed.send_if_modified(|seen| std::mem::replace(seen, revision) != revision);
        answer
    }

    fn reach<T>(&self, work: impl FnOnce(&mut State) -> T) -> Result<T, StoreError> {
        self.with(|state| {
            if state.down {
                Err(StoreError::Unavailable("etcd: it is down".to_owned()))
            } else {
                Ok(work(state))
            }
        })
    }

    /// Writes the network's configuration.
    pub fn set_config(&self, config: &str) {
        self.with(|state| state.config = Some(config.to_owned()));
    }

    /// Lets seconds pass: what has ended goes.
    pub fn pass(&self, seconds: i64) {
        self.with(|state| {
            state.now += seconds;
            let now = state.now;
            let ended = state.records.iter().filter(|(_, (_, end))| end.is_some_and(|end| end <= now));
            for key in ended.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
                state.delete(&key);
            }
        });
    }

    /// Makes it reachable or not.
    pub fn set_down(&self, down: bool) {
        self.with(|state| state.down = down);
    }

    /// Somebody else deletes a record.
    pub fn delete(&self, key: &str) {
        self.with(|state| state.delete(key));
    }

    /// Forgets the history so far.
    pub fn compact(&self) {
        self.with(|state| {
            state.compacted = state.revision;
            state.history.clear();
        });
    }
}

impl State {
    fn put(&mut self, key: &str, value: &str, ttl: i64) -> Held {
        self.revision += 1;
        let (lease_id, end) = if ttl > 0 {
            self.next_lease += 1;
            (self.next_lease, Some(self.now + ttl))
        } else {
            (0, None)
        };
        let before = self.records.get(key).map(|(record, _)| record.create_revision);
        let record = Record {
            key: key.to_owned(),
            value: value.into(),
            create_revision: before.unwrap_or(self.revision),
            mod_revision: self.revision,
            lease_id,
        };
        self.records.insert(key.to_owned(), (record.clone(), end));
        self.history.push((self.revision, Event::Put(record)));
        Held { mod_revision: self.revision, lease_id }
    }

    fn mark(&mut self, key: &str, value: &str, seen: i64) -> Option<i64> {
        let (record, _) = self.records.get_mut(key).filter(|(record, _)| record.mod_revision == seen)?;
        self.revision += 1;
        (record.value, record.mod_revision) = (value.into(), self.revision);
        self.history.push((self.revision, Event::Put(record.clone())));
        Some(self.revision)
    }

    fn delete(&mut self, key: &str) {
        if self.records.remove(key).is_some() {
            self.revision += 1;
            self.history.push((self.revision, Event::Delete(key.to_owned())));
        }
    }
}

#[async_trait]
impl LeaseStore for Memory {
    async fn config(&self) -> Result<Option<String>, StoreError> {
        self.reach(|state| state.config.clone())
    }

    async fn list(&self) -> Result<Snapshot, StoreError> {
        self.reach(|state| {
            let records = state.records.values().map(|(record, _)| record.clone()).collect();
            Snapshot { records, revision: state.revision }
        })
    }

    async fn watch(&self, behind: i64) -> Result<Events, StoreError> {
        if self.reach(|state| behind < state.compacted)? {
            return Err(StoreError::Compacted);
        }
        let (memory, changed) = (self.clone(), self.0.changed.subscribe());
        Ok(futures::stream::unfold((behind, memory, changed), |(behind, memory, mut changed)| async move {
            loop {
                changed.borrow_and_update();
                let (events, revision) = memory.with(|state| {
                    let new = state.history.iter().filter(|(revision, _)| *revision > behind);
                    (new.map(|(_, event)| event.clone()).collect::<Vec<_>>(), state.revision)
                });
                if !events.is_empty() {
                    return Some((Ok((events, revision)), (revision, memory, changed)));
                }
                changed.changed().await.ok()?;
            }
        })
        .boxed())
    }

    async fn create(&self, key: &str, value: &str, ttl: i64) -> Result<Option<Held>, StoreError> {
        self.reach(|state| (!state.records.contains_key(key)).then(|| state.put(key, value, ttl)))
    }

    async fn renew(&self, key: &str, value: &str, seen: i64, ttl: i64) -> Result<Option<Held>, StoreError> {
        self.reach(|state| {
            let mine = state.records.get(key).is_some_and(|(record, _)| record.mod_revision == seen);
            mine.then(|| state.put(key, value, ttl))
        })
    }

    async fn replace(
        &self,
        (old, seen): (&str, i64),
        key: &str,
        value: &str,
        ttl: i64,
    ) -> Result<Option<Held>, StoreError> {
        self.reach(|state| {
            let mine = state.records.get(old).is_some_and(|(record, _)| record.mod_revision == seen);
            (mine && !state.records.contains_key(key)).then(|| {
                state.delete(old);
                state.put(key, value, ttl)
            })
        })
    }

    async fn mark(&self, key: &str, value: &str, seen: i64) -> Result<Option<i64>, StoreError> {
        self.reach(|state| state.mark(key, value, seen))
    }

    async fn forget(&self, lease_id: i64) {
        // What it can't do now it does not do: the record ends by itself.
        let _ = self.reach(|state| {
            let held =
                state.records.values().filter(|(record, _)| lease_id != 0 && record.lease_id == lease_id);
            for key in held.map(|(record, _)| record.key.clone()).collect::<Vec<_>>() {
                state.delete(&key);
            }
        });
    }
}
