//! A watch on an etcd cluster that survives its connection.
//!
//! It remembers the next revision that it has to deliver. When the stream breaks it is opened again from there, so
//! that nothing is missed and nothing comes twice; only a compaction that went past that revision ends it.

use std::time::Duration;

use etcd_client::{EventType, WatchClient, WatchOptions, WatchResponse, WatchStream};

use super::etcd::{key_value, unavailable};
use super::{Event, Revision, StorageError, WatchItem};

/// How often the servers are asked how far the watch is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// The first and the longest pause before a broken stream is opened again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A running watch.
pub(super) struct EtcdWatch {
    client: WatchClient,
    prefix: String,
    end: Vec<u8>,
    /// The first revision that was not delivered yet.
    next: Revision,
    /// None while the connection is broken.
    stream: Option<WatchStream>,
    backoff: Duration,
    /// None if the servers' progress cannot be relied on.
    ticks: Option<tokio::time::Interval>,
}

impl EtcdWatch {
    /// Begins to watch the keys from `prefix` to `end`; when this returns, no later change is missed.
    pub(super) async fn start(
        client: WatchClient,
        prefix: &str,
        end: Vec<u8>,
        from: Revision,
        progress: bool,
    ) -> Result<Self, StorageError> {
        let mut watch = EtcdWatch {
            client,
            prefix: prefix.to_owned(),
            end,
            next: from,
            stream: None,
            backoff: BACKOFF.0,
            ticks: progress.then(|| tokio::time::interval(PROGRESS_INTERVAL)),
        };
        watch.open().await?;
        Ok(watch)
    }

    /// Opens the stream and waits until the server has the watch.
    async fn open(&mut self) -> Result<(), StorageError> {
        let options =
            WatchOptions::new().with_range(self.end.clone()).with_start_revision(self.next).with_prev_key();
        let opened = self.client.watch(self.prefix.as_str(), Some(options)).await;
        let mut stream = opened.map_err(|error| unavailable("watch", &error))?;
        let created = stream.message().await.map_err(|error| unavailable("watch", &error))?;
        let created = created.ok_or_else(|| broken("the stream ended"))?;
        if created.canceled() {
            return Err(self.canceled(&created));
        }
        if self.next == 0 {
            self.next = created.header().map_or(0, etcd_client::ResponseHeader::revision) + 1;
        }
        self.stream = Some(stream);
        self.backoff = BACKOFF.0;
        Ok(())
    }

    /// The next item. An error is the watch's last word.
    pub(super) async fn next(&mut self) -> Result<WatchItem, StorageError> {
        loop {
            let Some(stream) = &mut self.stream else {
                self.reopen().await?;
                continue;
            };
            let message = tokio::select! {
                message = stream.message() => message,
                () = tick(self.ticks.as_mut()) => {
                    if stream.request_progress().await.is_err() {
                        self.stream = None;
                    }
                    continue;
                }
            };
            match message {
                Ok(Some(response)) => {
                    if let Some(item) = self.item(&response)? {
                        return Ok(item);
                    }
                }
                Ok(None) => self.stream = None,
                Err(error) => {
                    tracing::debug!(%error, prefix = self.prefix, "the watch broke; it is opened again");
                    self.stream = None;
                }
            }
        }
    }

    async fn reopen(&mut self) -> Result<(), StorageError> {
        match self.open().await {
            Err(error @ StorageError::Compacted { .. }) => Err(error),
            Err(error) => {
                tracing::warn!(%error, prefix = self.prefix, "the watch cannot be opened; trying again");
                tokio::time::sleep(self.backoff).await;
                self.backoff = (self.backoff * 2).min(BACKOFF.1);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// What a message means. A message has whole revisions, as no fragments were asked for.
    fn item(&mut self, response: &WatchResponse) -> Result<Option<WatchItem>, StorageError> {
        if response.canceled() {
            return match self.canceled(response) {
                error @ StorageError::Compacted { .. } => Err(error),
                _ => {
                    self.stream = None;
                    Ok(None)
                }
            };
        }
        let header = response.header().map_or(0, etcd_client::ResponseHeader::revision);
        if response.events().is_empty() {
            let news = self.ticks.is_some() && header >= self.next;
            self.next = if news { header + 1 } else { self.next };
            return Ok(news.then_some(WatchItem::Progress(header)));
        }
        let events = response.events().iter().map(event).collect::<Result<Vec<_>, _>>()?;
        self.next = events.last().map_or(self.next, |event| event.revision() + 1);
        Ok(Some(WatchItem::Events(events)))
    }

    fn canceled(&self, response: &WatchResponse) -> StorageError {
        match response.compact_revision() {
            0 => broken(response.cancel_reason()),
            oldest => StorageError::Compacted { requested: self.next, oldest },
        }
    }
}

/// The next tick; never without an interval.
async fn tick(ticks: Option<&mut tokio::time::Interval>) {
    match ticks {
        Some(ticks) => drop(ticks.tick().await),
        None => std::future::pending().await,
    }
}

fn broken(reason: &str) -> StorageError {
    StorageError::Unavailable(format!("etcd ended the watch: {reason}"))
}

fn event(event: &etcd_client::Event) -> Result<Event, StorageError> {
    let missing = || broken("an event without a key");
    let current = key_value(event.kv().cloned().ok_or_else(missing)?)?;
    let previous = event.prev_kv().cloned().map(key_value).transpose()?;
    Ok(match event.event_type() {
        EventType::Put => Event::Put { current, previous },
        EventType::Delete => Event::Delete { key: current.key, revision: current.mod_revision, previous },
    })
}
