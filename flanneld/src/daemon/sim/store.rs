//! One node's way to the store: requests take time, get lost before or after they are applied, and outlive who asked.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::world::{Bug, TICKS, World};
use crate::chance;
use crate::daemon::PATIENCE;
use crate::lease::memory::Memory;
use crate::lease::store::{Events, Held, LeaseStore, Snapshot, StoreError};

/// Silence of a lost request: longer than anybody waits.
const SILENCE: Duration = Duration::from_secs(60);

/// The store as one node reaches it.
pub(super) struct Link {
    pub(super) world: Arc<World>,
    pub(super) node: usize,
    /// What was created last, for [`Bug::NoSecondLook`].
    created: Mutex<Option<String>>,
}

impl Link {
    pub(super) fn new(world: Arc<World>, node: usize) -> Link {
        Link { world, node, created: Mutex::default() }
    }

    /// What a careless keeper does not see when it lists.
    fn overlook(&self, snapshot: &mut Snapshot) {
        let created = self.created.lock().ok().and_then(|mut created| created.take());
        match (self.world.bug, created) {
            (Bug::NoSecondLook, Some(key)) => snapshot.records.retain(|record| record.key == key),
            (Bug::AgeIgnored, _) => snapshot.records.iter_mut().for_each(|record| record.create_revision = 0),
            _ => {}
        }
    }

    /// Asks. The request is on its way by itself: that the node stands still, is killed or gives up does not call it back.
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(Memory) -> BoxFuture<'static, Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let (world, node) = (self.world.clone(), self.node);
        tokio::spawn(async move {
            sleep(world.delay(node)).await;
            if world.is_cut(node) {
                return lose(answer).await;
            }
            let result = work(world.memory.clone()).await;
            world.check();
            sleep(world.delay(node)).await;
            if world.is_cut(node) || world.loses_answers(node) {
                return lose(answer).await;
            }
            let _ = answer.send(result);
        });
        let silent = |_| Err(StoreError::Unavailable("timed out".to_owned()));
        timeout(PATIENCE, answered).await.map_or_else(silent, |answer| answer.unwrap_or_else(|_| broken()))
    }
}

/// The asker hears that it failed, or nothing at all.
async fn lose<T>(answer: oneshot::Sender<Result<T, StoreError>>) {
    if chance::below(2) == 0 {
        let _ = answer.send(broken());
    } else {
        sleep(SILENCE).await;
        drop(answer);
    }
}

fn broken<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("connection reset".to_owned()))
}

/// What a careless client does: writes without looking.
fn plain_put(memory: &Memory, key: &str, value: &str, ttl: i64) -> Result<Option<Held>, StoreError> {
    let snapshot = memory.list().now_or_never().unwrap_or_else(broken)?;
    match snapshot.records.iter().find(|record| record.key == key) {
        Some(record) => memory.renew(key, value, record.mod_revision, ttl).now_or_never(),
        None => memory.create(key, value, ttl).now_or_never(),
    }
    .unwrap_or_else(broken)
}

#[async_trait]
impl LeaseStore for Link {
    async fn config(&self) -> Result<Option<String>, StoreError> {
        self.call(|memory| async move { memory.config().await }.boxed()).await
    }

    async fn list(&self) -> Result<Snapshot, StoreError> {
        let mut snapshot = self.call(|memory| async move { memory.list().await }.boxed()).await?;
        self.overlook(&mut snapshot);
        Ok(snapshot)
    }

    async fn watch(&self, behind: i64) -> Result<Events, StoreError> {
        let behind = if self.world.bug == Bug::WatchSkipsOne { behind + 1 } else { behind };
        let events = self.call(move |memory| async move { memory.watch(behind).await }.boxed()).await?;
        let (world, node) = (self.world.clone(), self.node);
        let breaks = world.breaks(node);
        Ok(futures::stream::unfold((events, breaks, world), move |(mut events, mut breaks, world)| async move {
            let item = tokio::select! {
                biased;
                changed = breaks.changed() => { changed.ok()?; return Some((Err(StoreError::Compacted), (events, breaks, world))); }
                item = events.next() => item?,
            };
            // What is under way while the line is cut arrives when it is mended: TCP sends it again.
            sleep(world.delay(node)).await;
            while world.is_cut(node) {
                sleep(Duration::from_millis(200)).await;
            }
            Some((item, (events, breaks, world)))
        })
        .boxed())
    }

    async fn create(&self, key: &str, value: &str, ttl: i64) -> Result<Option<Held>, StoreError> {
        let (key, value, ttl) = (key.to_owned(), value.to_owned(), ttl * TICKS);
        let plain = self.world.bug == Bug::PlainCreate;
        if let Ok(mut created) = self.created.lock() {
            *created = Some(key.clone());
        }
        self.call(move |memory| {
            async move {
                if plain {
                    plain_put(&memory, &key, &value, ttl)
                } else {
                    memory.create(&key, &value, ttl).await
                }
            }
            .boxed()
        })
        .await
    }

    async fn renew(&self, key: &str, value: &str, seen: i64, ttl: i64) -> Result<Option<Held>, StoreError> {
        let (key, value, ttl) = (key.to_owned(), value.to_owned(), ttl * TICKS);
        let plain = self.world.bug == Bug::PlainRenew;
        self.call(move |memory| {
            async move {
                if plain {
                    plain_put(&memory, &key, &value, ttl)
                } else {
                    memory.renew(&key, &value, seen, ttl).await
                }
            }
            .boxed()
        })
        .await
    }

    async fn replace(
        &self,
        (old, seen): (&str, i64),
        key: &str,
        value: &str,
        ttl: i64,
    ) -> Result<Option<Held>, StoreError> {
        let (old, key, value, ttl) = (old.to_owned(), key.to_owned(), value.to_owned(), ttl * TICKS);
        self.call(move |memory| async move { memory.replace((&old, seen), &key, &value, ttl).await }.boxed())
            .await
    }

    async fn mark(&self, key: &str, value: &str, seen: i64) -> Result<Option<i64>, StoreError> {
        let (key, value) = (key.to_owned(), value.to_owned());
        self.call(move |memory| async move { memory.mark(&key, &value, seen).await }.boxed()).await
    }

    async fn forget(&self, lease_id: i64) {
        let forget = move |memory: Memory| {
            async move {
                memory.forget(lease_id).await;
                Ok(())
            }
            .boxed()
        };
        let _ = self.call(forget).await;
    }
}
