//! A store that is watched while it is used: whether it answers, since when not, and how often the watch began anew.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::StreamExt;
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use super::store::{Events, Held, LeaseStore, Snapshot, StoreError};
use crate::look::status::{Manager, ManagerState};

/// What is known of the store; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Health {
    kind: Manager,
    state: Arc<Mutex<State>>,
    /// How often the watch began anew.
    pub watch_restarts: Counter,
}

#[derive(Debug, Default)]
struct State {
    answered: Option<Instant>,
    error: Option<(String, Instant)>,
    watched: bool,
}

impl Health {
    /// Of this source, of which nothing is known yet.
    pub fn of(kind: Manager) -> Health {
        Health { kind, ..Health::default() }
    }

    /// As it is now.
    pub fn told(&self, now: Instant) -> ManagerState {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        ManagerState {
            kind: self.kind,
            last_answer: state.answered.map(|at| (now - at).as_secs_f64()),
            error: state.error.as_ref().map(|(text, _)| text.clone()),
            error_for: state.error.as_ref().map(|(_, since)| (now - *since).as_secs_f64()),
            watch_restarts: self.watch_restarts.get(),
        }
    }

    /// Notes what becomes of a question; one that is dropped counts as silence.
    pub(super) async fn note<T>(
        &self,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let mut silence = Silence(Some(self));
        let answer = answer.await;
        silence.0 = None;
        match &answer {
            Ok(_) => self.answered(),
            Err(error) => self.failed(error.to_string()),
        }
        answer
    }

    /// It answered, or told news.
    pub(super) fn answered(&self) {
        self.change(|state| {
            state.answered = Some(Instant::now());
            state.error = None;
        });
    }

    /// It is as old as the first error since the last answer.
    pub(super) fn failed(&self, text: String) {
        self.change(|state| {
            let since = state.error.take().map_or_else(Instant::now, |(_, since)| since);
            state.error = Some((text, since));
        });
    }

    /// A watch was begun; another one before is over.
    pub(super) fn watching(&self) {
        if self.change(|state| std::mem::replace(&mut state.watched, true)) {
            self.watch_restarts.inc();
        }
    }

    fn change<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Says that nothing came, unless something did: whoever asks gives up by dropping the question.
struct Silence<'a>(Option<&'a Health>);

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        if let Some(health) = self.0 {
            health.failed("it does not answer".to_owned());
        }
    }
}

/// A store and what is known of it.
pub struct Observed {
    store: Arc<dyn LeaseStore>,
    health: Health,
}

impl Observed {
    /// Notes everything that this store says.
    pub fn new(store: Arc<dyn LeaseStore>, health: Health) -> Observed {
        Observed { store, health }
    }
}

#[async_trait]
impl LeaseStore for Observed {
    async fn config(&self) -> Result<Option<String>, StoreError> {
        self.health.note(self.store.config()).await
    }

    async fn list(&self) -> Result<Snapshot, StoreError> {
        self.health.note(self.store.list()).await
    }

    async fn watch(&self, behind: i64) -> Result<Events, StoreError> {
        let events = self.health.note(self.store.watch(behind)).await?;
        self.health.watching();
        let health = self.health.clone();
        let noted = events.inspect(move |item| match item {
            Ok(_) => health.answered(),
            Err(error) => health.failed(error.to_string()),
        });
        Ok(noted.boxed())
    }

    async fn create(&self, key: &str, value: &str, ttl: i64) -> Result<Option<Held>, StoreError> {
        self.health.note(self.store.create(key, value, ttl)).await
    }

    async fn renew(&self, key: &str, value: &str, seen: i64, ttl: i64) -> Result<Option<Held>, StoreError> {
        self.health.note(self.store.renew(key, value, seen, ttl)).await
    }

    async fn replace(
        &self,
        (old, seen): (&str, i64),
        key: &str,
        value: &str,
        ttl: i64,
    ) -> Result<Option<Held>, StoreError> {
        self.health.note(self.store.replace((old, seen), key, value, ttl)).await
    }

    async fn mark(&self, key: &str, value: &str, seen: i64) -> Result<Option<i64>, StoreError> {
        self.health.note(self.store.mark(key, value, seen)).await
    }

    async fn forget(&self, lease_id: i64) {
        self.store.forget(lease_id).await;
    }

    async fn reconnect(&self) {
        self.store.reconnect().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::memory::Memory;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn errors_have_an_age_and_end_with_an_answer() {
        let (memory, health) = (Memory::default(), Health::default());
        let store = Observed::new(Arc::new(memory.clone()), health.clone());
        assert_eq!(health.told(Instant::now()).last_answer, None);
        store.list().await.unwrap();
        memory.set_down(true);
        for _ in 0..2 {
            store.list().await.unwrap_err();
            tokio::time::advance(Duration::from_secs(5)).await;
        }
        let told = health.told(Instant::now());
        assert_eq!((told.last_answer, told.error_for), (Some(10.0), Some(10.0)));
        assert!(told.error.unwrap().contains("etcd"));
        memory.set_down(false);
        store.list().await.unwrap();
        assert_eq!(health.told(Instant::now()).error, None);
    }

    #[tokio::test]
    async fn a_question_that_is_given_up_counts_as_silence_and_a_second_watch_as_a_restart() {
        let health = Health::default();
        let store = Observed::new(Arc::new(Memory::default()), health.clone());
        drop(store.watch(0).await.unwrap());
        assert_eq!(health.told(Instant::now()).watch_restarts, 0);
        drop(store.watch(0).await.unwrap());
        assert_eq!(health.told(Instant::now()).watch_restarts, 1);
        let hanging = health.note(std::future::pending::<Result<(), StoreError>>());
        let _ = tokio::time::timeout(Duration::from_millis(1), hanging).await;
        assert_eq!(health.told(Instant::now()).error.as_deref(), Some("it does not answer"));
    }
}
