//! Keys that wait to be reconciled.
//!
//! A key is in the queue at most once and is reconciled by one worker at a time; what comes in meanwhile makes it run
//! once more. A failure brings it back after a delay that doubles up to [`LONGEST_RETRY`]. Nothing here polls: with no
//! key due the queue sleeps until the next one is.

use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Display;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const FIRST_RETRY: Duration = Duration::from_millis(20);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

struct State<K> {
    ready: VecDeque<K>,
    waiting: HashSet<K>,
    running: HashSet<K>,
    /// When a key is due, the earliest moment only.
    due: HashMap<K, Instant>,
    timers: BTreeMap<Instant, BTreeSet<K>>,
    failures: HashMap<K, u32>,
}

/// A queue of keys. Its size is bounded by the number of objects that exist, since a key is in it once.
pub struct Queue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

impl<K: Clone + Ord + Hash + Display + Send + 'static> Queue<K> {
    /// An empty queue, shared by its handlers and its workers.
    pub fn new() -> Arc<Queue<K>> {
        let state = State {
            ready: VecDeque::new(),
            waiting: HashSet::new(),
            running: HashSet::new(),
            due: HashMap::new(),
            timers: BTreeMap::new(),
            failures: HashMap::new(),
        };
        Arc::new(Queue { state: Mutex::new(state), wake: Notify::new() })
    }

    /// Reconcile `key` soon.
    pub fn add(&self, key: K) {
        self.state.lock().enqueue(key);
        self.wake.notify_one();
    }

    /// Reconcile `key` after `delay` at the latest.
    pub fn add_after(&self, key: K, delay: Duration) {
        self.state.lock().set_timer(key, Instant::now() + delay);
        self.wake.notify_one();
    }

    /// Runs `reconcile` for each key, up to `workers` at a time, until `shutdown`. `Ok(Some(delay))` asks for another
    /// look after that time; an error is logged and tried again.
    pub async fn run<F, Fut, E>(self: Arc<Self>, workers: usize, shutdown: CancellationToken, reconcile: F)
    where
        F: Fn(K) -> Fut,
        Fut: Future<Output = Result<Option<Duration>, E>>,
        E: Display,
    {
        let work = self.keys().take_until(shutdown.cancelled_owned()).for_each_concurrent(workers, |key| {
            let outcome = reconcile(key.clone());
            let queue = &self;
            async move { queue.finish(key, outcome.await) }
        });
        work.await;
    }

    fn keys(&self) -> impl Stream<Item = K> {
        futures::stream::unfold(self, |queue| async move { Some((queue.next().await, queue)) })
    }

    async fn next(&self) -> K {
        loop {
            let notified = self.wake.notified();
            let timer = {
                let mut state = self.state.lock();
                state.fire_timers(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.waiting.remove(&key);
                    state.running.insert(key.clone());
                    return key;
                }
                state.timers.keys().next().copied()
            };
            match timer {
                Some(at) => _ = tokio::time::timeout_at(at, notified).await,
                None => notified.await,
            }
        }
    }

    fn finish<E: Display>(&self, key: K, outcome: Result<Option<Duration>, E>) {
        let mut state = self.state.lock();
        state.running.remove(&key);
        match outcome {
            Ok(again) => {
                state.failures.remove(&key);
                if let Some(delay) = again {
                    state.set_timer(key.clone(), Instant::now() + delay);
                }
            }
            Err(error) => {
                let failures = state.failures.entry(key.clone()).or_insert(0);
                *failures = failures.saturating_add(1);
                let delay = retry_delay(*failures);
                tracing::debug!(%key, %error, ?delay, "reconcile failed, will be tried again");
                state.set_timer(key.clone(), Instant::now() + delay);
            }
        }
        if state.waiting.contains(&key) {
            state.ready.push_back(key);
        }
        drop(state);
        self.wake.notify_one();
    }
}

impl<K: Clone + Ord + Hash> State<K> {
    fn enqueue(&mut self, key: K) {
        if self.waiting.insert(key.clone()) && !self.running.contains(&key) {
            self.ready.push_back(key);
        }
    }

    fn set_timer(&mut self, key: K, at: Instant) {
        if let Some(earlier) = self.due.get(&key).copied() {
            if earlier <= at {
                return;
            }
            self.clear_timer(&key, earlier);
        }
        self.due.insert(key.clone(), at);
        self.timers.entry(at).or_default().insert(key);
    }

    fn clear_timer(&mut self, key: &K, at: Instant) {
        if let Some(keys) = self.timers.get_mut(&at) {
            keys.remove(key);
            if keys.is_empty() {
                self.timers.remove(&at);
            }
        }
    }

    fn fire_timers(&mut self, now: Instant) {
        while let Some(entry) = self.timers.first_entry().filter(|entry| *entry.key() <= now) {
            for key in entry.remove() {
                self.due.remove(&key);
                self.enqueue(key);
            }
        }
    }
}

fn retry_delay(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn failure_delays_grow_and_a_key_runs_once_at_a_time() {
        assert_eq!(retry_delay(1), FIRST_RETRY);
        assert_eq!(retry_delay(3), FIRST_RETRY * 4);
        assert_eq!(retry_delay(1000), LONGEST_RETRY);
        let queue = Queue::<String>::new();
        queue.add("a".into());
        queue.add("a".into());
        assert_eq!(queue.next().await, "a");
        queue.add("a".into());
        assert!(queue.state.lock().ready.is_empty(), "a running key isn't handed out twice");
        queue.finish("a".into(), Err("broken"));
        assert_eq!(queue.next().await, "a");
        queue.finish("a".into(), Ok::<_, String>(None));
        let before = Instant::now();
        assert_eq!(queue.next().await, "a");
        assert!(before.elapsed() < Duration::from_secs(30));
    }

    #[tokio::test]
    async fn the_earlier_of_two_timers_counts() {
        let queue = Queue::<String>::new();
        queue.add_after("a".into(), Duration::from_secs(60));
        queue.add_after("a".into(), Duration::from_millis(5));
        queue.add_after("a".into(), Duration::from_secs(90));
        let before = Instant::now();
        assert_eq!(queue.next().await, "a");
        assert!(before.elapsed() < Duration::from_secs(30));
        assert!(queue.state.lock().timers.is_empty());
    }
}
