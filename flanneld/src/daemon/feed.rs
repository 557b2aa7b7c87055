//! News of the leases: a listing, then changes, and from the beginning if that breaks. While their source is away it is asked again and again.

use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep_until, timeout};

use super::told::Told;
use super::{PATIENCE, RETRY, jittered};
use crate::lease::store::{Event, Events, LeaseStore, Snapshot, StoreError};

/// How a listing is asked for, with what comes behind it.
pub(super) type Ask = Box<dyn Fn() -> Answer + Send>;
type Answer = BoxFuture<'static, Result<(Snapshot, Events), StoreError>>;

/// The news, without an end.
pub(super) struct Feed {
    ask: Ask,
    state: State,
    /// The revision up to which all is known, where revisions can be compared.
    seen: Option<i64>,
    told: Told,
}

enum State {
    /// It was away; it is asked again at this moment.
    Pausing(Instant),
    /// Listing, and subscribing to what comes behind the list.
    Asking(Answer),
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
        Feed { seen: Some(seen), ..Feed::of(Box::new(move || ask(store.clone()))) }
    }

    /// The same of another source, whose revisions are not compared.
    pub(super) fn of(ask: Ask) -> Feed {
        Feed { state: State::Asking(ask()), ask, seen: None, told: Told::default() }
    }

    /// The next piece. It may be dropped half-way and called again: nothing is lost.
    pub(super) async fn next(&mut self) -> Item {
        loop {
            match &mut self.state {
                State::Pausing(until) => {
                    sleep_until(*until).await;
                    self.state = State::Asking((self.ask)());
                }
                State::Asking(answer) => match answer.await {
                    Ok((snapshot, events)) => {
                        self.told.over();
                        self.state = State::Watching(events);
                        let back = self.seen.is_some_and(|seen| snapshot.revision < seen);
                        self.seen = self.seen.map(|_| snapshot.revision);
                        return if back { Item::Back(snapshot) } else { Item::All(snapshot) };
                    }
                    Err(error) => {
                        self.told.once(&error, |error| tracing::warn!("cannot list the leases: {error}"));
                        self.pause();
                    }
                },
                State::Watching(events) => match events.next().await {
                    Some(Ok((changes, revision))) => {
                        self.seen = self.seen.map(|seen| seen.max(revision));
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

fn ask(store: Arc<dyn LeaseStore>) -> Answer {
    Box::pin(async move {
        let both = async {
            let snapshot = store.list().await?;
            let events = store.watch(snapshot.revision).await?;
            Ok((snapshot, events))
        };
        let silent = |_| Err(StoreError::Unavailable("etcd does not answer".to_owned()));
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
