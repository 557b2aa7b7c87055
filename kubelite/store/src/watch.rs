//! Watches: each is a cursor over the history, and the hub only says whom to wake.
//!
//! There is no buffer per watcher that could overflow: the history is the buffer. A watcher that is slow reads on
//! where it stood; one that a compaction overtook is told so and ends; no other watcher notices either.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::error::Error;
use crate::store::Shared;
use crate::types::{Event, KeyRange, Revision};

/// How many events a batch has before it is handed out; a revision is never split, so it can have more.
const MAX_BATCH_EVENTS: usize = 512;
/// The same in bytes of keys and values.
const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// How many revisions are looked through under one hold of the lock.
const MAX_BATCH_REVISIONS: Revision = 4096;

/// What to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchRequest {
    /// Which keys.
    pub range: KeyRange,
    /// The first revision of interest; 0 means the next one.
    pub start: Revision,
}

/// What a watch yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchBatch {
    /// All events on the watched keys, of one or more whole revisions, in order.
    Events(Vec<Event>),
    /// There is nothing outstanding at this revision or below.
    UpToDate(Revision),
}

/// The watchers, and the newest revision that they may read.
#[derive(Debug)]
pub(crate) struct Hub {
    inner: Mutex<HubInner>,
}

#[derive(Debug, Default)]
struct HubInner {
    published: Revision,
    next_id: u64,
    watchers: HashMap<u64, Listener>,
}

#[derive(Debug)]
struct Listener {
    range: KeyRange,
    /// The first revision that the watcher has not looked at and that concerns it.
    pending: Option<Revision>,
    /// True if it wants to hear of every revision.
    progress: bool,
    wake: Arc<Notify>,
}

impl Hub {
    /// A hub without watchers, for a store at this revision.
    pub(crate) fn new(published: Revision) -> Self {
        Hub { inner: Mutex::new(HubInner { published, ..HubInner::default() }) }
    }

    /// Makes revisions up to `published` known; `changed` are those that touched keys.
    pub(crate) fn publish<'a>(
        &self,
        published: Revision,
        changed: impl Iterator<Item = (Revision, &'a [bytes::Bytes])>,
    ) {
        let mut inner = self.inner.lock();
        for (revision, keys) in changed {
            for listener in inner.watchers.values_mut() {
                if listener.pending.is_none() && keys.iter().any(|key| listener.range.contains(key)) {
                    listener.pending = Some(revision);
                }
            }
        }
        inner.published = published;
        let concerned =
            inner.watchers.values().filter(|listener| listener.progress || listener.pending.is_some());
        concerned.for_each(|listener| listener.wake.notify_one());
    }

    /// How many watches run.
    pub(crate) fn len(&self) -> usize {
        self.inner.lock().watchers.len()
    }

    /// Ends all waiting: the store is gone.
    pub(crate) fn wake_all(&self) {
        self.inner.lock().watchers.values().for_each(|listener| listener.wake.notify_one());
    }
}

/// A running watch; dropping it ends it.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    range: KeyRange,
    id: u64,
    /// The first revision that was not handed out yet.
    next: Revision,
    /// The revision that was last reported as complete.
    reported: Revision,
    wake: Arc<Notify>,
}

impl Watcher {
    /// With `progress` it is woken by revisions that do not concern it too, to report them as complete.
    pub(crate) fn new(shared: Arc<Shared>, request: WatchRequest, wake: Arc<Notify>, progress: bool) -> Self {
        let mut inner = shared.hub.inner.lock();
        let id = inner.next_id;
        inner.next_id += 1;
        let next = if request.start <= 0 { inner.published + 1 } else { request.start };
        // What lies in the past is read from the history first, whether it concerns the watcher or not.
        let pending = (next <= inner.published).then_some(next);
        let listener = Listener { range: request.range.clone(), pending, progress, wake: wake.clone() };
        inner.watchers.insert(id, listener);
        drop(inner);
        Watcher { shared, range: request.range, id, next, reported: 0, wake }
    }

    /// Waits for the next batch. [`Error::Compacted`] is the last word of a watch.
    ///
    /// Cancel safe: what was not returned comes with the next call.
    pub async fn next(&mut self) -> Result<WatchBatch, Error> {
        loop {
            if let Some(batch) = self.poll()? {
                return Ok(batch);
            }
            self.wake.clone().notified().await;
        }
    }

    /// The next batch if there is one already.
    pub fn poll(&mut self) -> Result<Option<WatchBatch>, Error> {
        loop {
            let (pending, published) = self.look();
            let Some(pending) = pending else {
                self.next = self.next.max(published + 1);
                if published > self.reported {
                    self.reported = published;
                    return Ok(Some(WatchBatch::UpToDate(published)));
                }
                return self.shared.alive().map(|()| None);
            };
            let events = self.read(pending.max(self.next), published)?;
            if !events.is_empty() {
                self.reported = self.reported.max(self.next - 1);
                return Ok(Some(WatchBatch::Events(events)));
            }
        }
    }

    /// The revision up to which everything was handed out.
    pub fn position(&self) -> Revision {
        match self.look() {
            (Some(pending), _) => pending - 1,
            (None, published) => published,
        }
    }

    fn look(&self) -> (Option<Revision>, Revision) {
        let inner = self.shared.hub.inner.lock();
        (inner.watchers.get(&self.id).and_then(|listener| listener.pending), inner.published)
    }

    /// Reads events from `from` on, and leaves the cursor behind the last revision that was read.
    fn read(&mut self, from: Revision, published: Revision) -> Result<Vec<Event>, Error> {
        let state = self.shared.state.read();
        if from < state.mvcc.compacted {
            return Err(Error::Compacted { requested: from, oldest: state.mvcc.compacted });
        }
        let last = published.min(from.saturating_add(MAX_BATCH_REVISIONS));
        let (mut events, mut bytes, mut revision) = (Vec::new(), 0, from);
        while revision <= last && events.len() < MAX_BATCH_EVENTS && bytes < MAX_BATCH_BYTES {
            let more = state.mvcc.events(revision, &self.range);
            bytes += more.iter().map(Event::weight).sum::<usize>();
            events.extend(more);
            revision += 1;
        }
        drop(state);
        self.advance(revision);
        Ok(events)
    }

    /// Everything below `next` was read; what was published meanwhile stays pending.
    fn advance(&mut self, next: Revision) {
        self.next = next;
        let mut inner = self.shared.hub.inner.lock();
        let published = inner.published;
        if let Some(listener) = inner.watchers.get_mut(&self.id) {
            listener.pending = (next <= published).then_some(next);
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.hub.inner.lock().watchers.remove(&self.id);
    }
}
