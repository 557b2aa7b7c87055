//! News of the leases: a listing, then changes, and from the beginning if that breaks. While etcd is away it is asked again and again.

use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep_until, timeout};

use super::told::Told;
use super::{PATIENCE, RETRY, jittered};
use crate::lease::store::{Event, Events, LeaseStore, Snapshot, StoreError};

/// The news, without an end.
pub(super) struct Feed {
    store: Arc<dyn LeaseStore>,
    state: State,
    /// The revision up to which all is known.
    seen: i64,
    told: Told,
}

enum State {
    /// etcd was away; it is asked again at this moment.
    Pausing(Instant),
    /// Listing, and subscribing to what comes behind the list.
    Asking(BoxFuture<'static, Result<(Snapshot, Events), StoreError>>),
    /// Subscribed.
    Watching(Events),
}

/// One piece of news.
pub(super) enum Item {
    /// All there is; what was known before and is not in it is gone.
    All(Snapshot),
    /// The same, but of an earlier moment: the store was restored from a backup, and what was written since is lost.
    Back(Snapshot),
    /// Changes since.
    Some(Vec<Event>),
}

impl Feed {
    /// Begins with a listing, which cannot be older than what was written at this revision.
    pub(super) fn new(store: Arc<dyn LeaseStore>, seen: i64) -> Feed {
        let state = State::Asking(ask(store.clone()));
        Feed { store, state, seen, told: Told::default() }
    }

    /// The next piece. It may be dropped half-way and called again: nothing is lost.
    pub(super) async fn next(&mut self) -> Item {
        loop {
            match &mut self.state {
                State::Pausing(until) => {
                    sleep_until(*until).await;
                    self.state = State::Asking(ask(self.store.clone()));
                }
                State::Asking(answer) => match answer.await {
                    Ok((snapshot, events)) => {
                        self.told.over();
                        self.state = State::Watching(events);
                        let before = std::mem::replace(&mut self.seen, snapshot.revision);
                        let back = snapshot.revision < before;
                        return if back { Item::Back(snapshot) } else { Item::All(snapshot) };
                    }
                    Err(error) => {
                        self.told.once(&error, |error| tracing::warn!("cannot list the leases: {error}"));
                        self.pause();
                    }
                },
                State::Watching(events) => match events.next().await {
                    Some(Ok((changes, revision))) => {
                        self.seen = self.seen.max(revision);
                        return Item::Some(changes);
                    }
                    Some(Err(error)) => {
                        tracing::warn!("the watch ended ({error}); listing again");
                        self.pause();
                    }
                    None => {
                        tracing::warn!("the watch ended; listing again");
                        self.pause();
                    }
                },
            }
        }
    }

    fn pause(&mut self) {
        self.state = State::Pausing(Instant::now() + jittered(RETRY));
    }
}

fn ask(store: Arc<dyn LeaseStore>) -> BoxFuture<'static, Result<(Snapshot, Events), StoreError>> {
    Box::pin(async move {
        let both = async {
            let snapshot = store.list().await?;
            let events = store.watch(snapshot.revision).await?;
            Ok((snapshot, events))
        };
        let silent = |_| Err(StoreError::Unavailable("it does not answer".to_owned()));
        timeout(PATIENCE, both).await.unwrap_or_else(silent)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::memory::Memory;

    fn count(item: &Item) -> (&str, usize) {
        match item {
            Item::All(snapshot) => ("all", snapshot.records.len()),
            Item::Back(snapshot) => ("back", snapshot.records.len()),
            Item::Some(changes) => ("some", changes.len()),
        }
    }

    #[tokio::test]
    async fn first_all_then_changes_and_all_again_after_an_outage() {
        let store = Memory::default();
        let mut feed = Feed::new(Arc::new(store.clone()), 0);
        store.create("10.5.1.0-24", "{}", 60).await.unwrap().unwrap();
        assert_eq!(count(&feed.next().await), ("all", 1));
        store.create("10.5.2.0-24", "{}", 60).await.unwrap().unwrap();
        assert_eq!(count(&feed.next().await), ("some", 1));

        store.set_down(true);
        let mut feed = Feed::new(Arc::new(store.clone()), 0);
        assert!(timeout(RETRY, feed.next()).await.is_err(), "nothing to tell while etcd is away");
        store.set_down(false);
        assert_eq!(
            count(&timeout(RETRY * 2, feed.next()).await.unwrap()),
            ("all", 2),
            "soon after it is back"
        );
        let mut feed = Feed::new(Arc::new(store.clone()), 3);
        assert_eq!(count(&feed.next().await), ("back", 2), "revision 2, where there was a third");
    }
}
