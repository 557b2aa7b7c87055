//! Changes of nodes, for as long as the API server remembers them. A watch that ends, breaks or says nothing is opened again where it was:
//! only where the server has forgotten what came since ([`StoreError::Compacted`]) all nodes must be listed anew.

use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use kube::core::WatchEvent;
use kube::core::params::WatchParams;
use tokio::time::{Instant, sleep_until, timeout};

use super::book::Book;
use super::node::Node;
use super::{Nodes, REQUEST, problem};
use crate::chance;
use crate::lease::store::{Event, Events, StoreError};

/// After so long the server ends a watch by itself, in seconds.
const LASTS: u32 = 290;
/// The server sends a bookmark each minute. One that says nothing for so long is deaf.
const SILENCE: Duration = Duration::from_secs(150);
/// Between two openings, at the least, and at the most while the server is away: many nodes come back together.
const PACE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(16));

type Lines = BoxStream<'static, kube::Result<WatchEvent<Node>>>;

/// See the module.
pub(super) fn changes(nodes: Nodes, book: Book, version: String) -> Events {
    let watch =
        Watch { nodes, book, version, lines: None, next_try: Instant::now(), failures: 0, begun: false };
    let next = |watch: Option<Watch>| async move {
        let mut watch = watch?;
        match watch.next().await {
            Ok(events) => Some((Ok((events, i64::MAX)), Some(watch))),
            Err(error) => Some((Err(error), None)),
        }
    };
    futures::stream::unfold(Some(watch), next).boxed()
}

struct Watch {
    nodes: Nodes,
    book: Book,
    /// All up to here is known.
    version: String,
    lines: Option<Lines>,
    next_try: Instant,
    failures: u32,
    /// Whether it was open once: that its time was over and it is opened again where it was is nothing to be told.
    begun: bool,
}

impl Watch {
    /// The next changes: one, and those that are there already.
    async fn next(&mut self) -> Result<Vec<Event>, StoreError> {
        loop {
            let Some(lines) = &mut self.lines else {
                self.open().await?;
                continue;
            };
            let Ok(mut line) = timeout(SILENCE, lines.next()).await else {
                self.broken(&"it says nothing any more");
                continue;
            };
            let mut events = Vec::new();
            loop {
                events.extend(self.take(line)?);
                let more = self.lines.as_mut().filter(|_| events.len() < self.nodes.0.access.batch);
                match more.and_then(|lines| lines.next().now_or_never()) {
                    Some(next) => line = next,
                    None => break,
                }
            }
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }

    /// Takes over one line, or that there are no more.
    fn take(&mut self, line: Option<kube::Result<WatchEvent<Node>>>) -> Result<Vec<Event>, StoreError> {
        if let Some(Ok(_)) = &line {
            self.nodes.0.health.answered();
        }
        match line {
            Some(Ok(WatchEvent::Added(node) | WatchEvent::Modified(node))) => {
                self.version.clone_from(&node.metadata.resource_version);
                Ok(self.book.put(&node))
            }
            Some(Ok(WatchEvent::Deleted(node))) => {
                self.version = node.metadata.resource_version;
                Ok(self.book.delete(&node.metadata.name))
            }
            Some(Ok(WatchEvent::Bookmark(bookmark))) => {
                self.version = bookmark.metadata.resource_version;
                Ok(Vec::new())
            }
            Some(Ok(WatchEvent::Error(status))) if status.code == 410 => Err(StoreError::Compacted),
            Some(Ok(WatchEvent::Error(status))) => {
                self.broken(&status.message);
                Ok(Vec::new())
            }
            Some(Err(error)) => {
                self.broken(&error);
                Ok(Vec::new())
            }
            // Its time was over.
            None => {
                self.lines = None;
                Ok(Vec::new())
            }
        }
    }

    async fn open(&mut self) -> Result<(), StoreError> {
        sleep_until(self.next_try).await;
        let pause = PACE.0.saturating_mul(1 << self.failures.min(10)).min(PACE.1);
        self.next_try = Instant::now() + pause.mul_f64(chance::factor(0.5..1.0));
        let params = WatchParams { timeout: Some(LASTS), bookmarks: true, ..WatchParams::default() };
        let request = super::nodes().watch(&params, &self.version).map_err(|error| problem(&error))?;
        match timeout(REQUEST, self.nodes.0.client.request_events::<Node>(request)).await {
            Ok(Ok(lines)) => {
                let health = &self.nodes.0.health;
                health.answered();
                if self.failures > 0 {
                    tracing::info!("the nodes are watched again");
                }
                if self.failures > 0 || !self.begun {
                    health.watching();
                }
                (self.failures, self.begun) = (0, true);
                self.lines = Some(lines.boxed());
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 410 => return Err(StoreError::Compacted),
            Ok(Err(error)) => self.broken(&error),
            Err(_) => self.broken(&"the API server does not answer"),
        }
        Ok(())
    }

    /// Told once; the routes stay as they are.
    fn broken(&mut self, why: &dyn std::fmt::Display) {
        self.nodes.0.health.failed(format!("the watch of the nodes: {why}"));
        if self.failures == 0 {
            tracing::warn!("the watch of the nodes broke ({why}); it is opened again and again");
        }
        self.failures = self.failures.saturating_add(1);
        self.lines = None;
    }
}
