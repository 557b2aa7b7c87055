//! Watch: a cursor over the ring of a resource's changes, as a stream of JSON lines.
//!
//! Hardly anything is queued per watcher: changes are taken from the ring by the handful and written as the client reads them. One
//! that reads slowly leaves its cursor behind, and if the ring has passed it by then it is told 410 and lists again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use http::header::{CONTENT_TYPE, HeaderValue};
use kubelite_api::status::ApiError;
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep_until};

use super::negotiate::View;
use super::{Asked, Front, read, respond};
use crate::cache::{Cache, Caches, Change, Entry};
use crate::registry::{ListQuery, parse_version};
use crate::resources::Resource;
use crate::storage::Revision;

/// How long a watch lasts if the client does not say; some clients more or less, so that they don't come back at once.
const DEFAULT_SECONDS: u64 = 1800;
/// Between two bookmarks.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// Changes that a watcher takes from the ring at once.
const BATCH: usize = 64;
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Starts a watch.
pub(super) async fn watch(
    front: &Arc<Front>,
    asked: &Asked,
    resource: &'static Resource,
) -> Result<Response, ApiError> {
    let (view, _) = asked.form()?;
    let query = read::query(asked, resource)?;
    let requested =
        asked.query.number("timeoutSeconds")?.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
    let seconds = requested.unwrap_or_else(|| DEFAULT_SECONDS + u64::from(rand::random::<u16>() % 1800));
    let version = parse_version(asked.query.get("resourceVersion"))?;
    let streamed_list = asked.query.is_true("sendInitialEvents");
    if streamed_list {
        front.registry.reach(version).await?;
    }
    let caches = front.registry.caches.clone();
    let cache = caches.of(resource);
    let mut watcher = Watcher {
        resource,
        view,
        namespace: asked.info.namespace.clone(),
        bookmarks: asked.query.is_true("allowWatchBookmarks"),
        changed: cache.subscribe(),
        end: Instant::now() + Duration::from_secs(seconds),
        next_bookmark: Instant::now() + BOOKMARKS,
        cursor: 0,
        ready: VecDeque::new(),
        over: false,
        query,
        cache,
        caches,
    };
    match (asked.query.get("sendInitialEvents"), version) {
        _ if streamed_list => watcher.begin_with_all(true),
        ("", 0) => watcher.begin_with_all(false),
        (_, 0) => watcher.cursor = watcher.caches.revision(),
        _ => watcher.cursor = version,
    }
    let lines = stream::unfold(watcher, |mut watcher| async move {
        let line = watcher.next().await?;
        Some((Ok::<_, std::convert::Infallible>(line), watcher))
    });
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// What is to be told next; it becomes bytes when the client is ready for it.
enum Told {
    Present(Arc<Entry>),
    Change(Arc<Change>),
    Line(Bytes),
}

struct Watcher {
    resource: &'static Resource,
    view: View,
    namespace: String,
    query: ListQuery,
    bookmarks: bool,
    cache: Arc<Cache>,
    caches: Arc<Caches>,
    changed: Receiver<Revision>,
    /// All changes up to here were told.
    cursor: Revision,
    ready: VecDeque<Told>,
    end: Instant,
    next_bookmark: Instant,
    over: bool,
}

impl Watcher {
    /// Begins with all that is there, and a bookmark behind it if the client wants to know where the present ends.
    fn begin_with_all(&mut self, bookmark: bool) {
        self.cursor = self.caches.revision();
        let entries = self.cache.list(&self.resource.key_prefix());
        for entry in entries {
            if self.selects(&entry) {
                // What is newer than the cursor is told here, and must not be told again.
                self.cursor = self.cursor.max(entry.revision);
                self.ready.push_back(Told::Present(entry));
            }
        }
        if bookmark && self.bookmarks {
            self.ready.push_back(Told::Line(self.bookmark(true)));
        }
    }

    /// The next line; none when the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            while let Some(told) = self.ready.pop_front() {
                if let Some(line) = self.line_for(told) {
                    return Some(line);
                }
            }
            if self.over || self.cache.is_closed() {
                return None;
            }
            self.changed.borrow_and_update();
            if self.collect() {
                continue;
            }
            let wake = if self.bookmarks { self.next_bookmark.min(self.end) } else { self.end };
            tokio::select! {
                changed = self.changed.changed() => self.over = changed.is_err(),
                () = sleep_until(wake) => self.rest(),
            }
        }
    }

    /// A quiet time is over: say how far things are, and end if it is time.
    fn rest(&mut self) {
        self.over = Instant::now() >= self.end;
        self.next_bookmark = Instant::now() + BOOKMARKS;
        self.collect();
        if self.bookmarks {
            self.ready.push_back(Told::Line(self.bookmark(false)));
        }
    }

    /// Takes the next changes from the ring; whether there were any.
    fn collect(&mut self) -> bool {
        // Read first: what the ring then holds is complete up to here.
        let seen = self.caches.revision();
        match self.cache.changes_after(self.cursor, BATCH) {
            Ok(changes) => {
                let last = changes.last().map_or(self.cursor, |change| change.revision);
                self.cursor = if changes.len() < BATCH { last.max(seen) } else { last };
                self.ready.extend(changes.into_iter().map(Told::Change));
            }
            Err(too_old) => {
                let text = format!("too old resource version: {} ({})", self.cursor, too_old.oldest);
                let status = ApiError::expired(text).to_status().to_string();
                self.ready.push_back(Told::Line(line_of("ERROR", &status.into())));
                (self.over, self.bookmarks) = (true, false);
            }
        }
        !self.ready.is_empty()
    }

    fn line_for(&self, told: Told) -> Option<Bytes> {
        match told {
            Told::Present(entry) => Some(self.line("ADDED", &entry)),
            Told::Change(change) => self.told(&change),
            Told::Line(line) => Some(line),
        }
    }

    /// How a change looks through the selectors: what begins or ceases to match is added or deleted.
    fn told(&self, change: &Change) -> Option<Bytes> {
        let before = change.before.as_deref().is_some_and(|entry| self.selects(entry));
        let now = !change.deleted && self.selects(&change.now);
        match (before, now) {
            (false, false) => None,
            (false, true) => Some(self.line("ADDED", &change.now)),
            (true, true) => Some(self.line("MODIFIED", &change.now)),
            (true, false) if change.deleted => Some(self.line("DELETED", &change.now)),
            (true, false) => {
                let last = change.before.as_deref().map(|b| b.at_revision(change.revision));
                last.map(|last| line_of("DELETED", &respond::entry_bytes(self.resource, &last, self.view)))
            }
        }
    }

    fn selects(&self, entry: &Entry) -> bool {
        (self.namespace.is_empty() || !self.resource.namespaced || entry.namespace == self.namespace)
            && self.query.selects(self.resource.stored(), entry)
    }

    fn line(&self, kind: &str, entry: &Entry) -> Bytes {
        line_of(kind, &respond::entry_bytes(self.resource, entry, self.view))
    }

    fn bookmark(&self, initial_end: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": self.cursor.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        let object = json!({"kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": metadata});
        let shown: Value = respond::shown(self.resource, object, self.view);
        line_of("BOOKMARK", &shown.to_string().into())
    }
}

fn line_of(kind: &str, object: &Bytes) -> Bytes {
    let head = format!(r#"{{"type":"{kind}","object":"#);
    [head.as_bytes(), object, b"}\n"].concat().into()
}
