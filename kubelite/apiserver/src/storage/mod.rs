//! Where the objects lie: the trait between the registry and a store that speaks etcd's words.
//!
//! What lives here: the trait, its types and its errors, and nothing that knows Kubernetes. What doesn't: keys (the
//! registry's matter), JSON, resourceVersion rules. Implementations stand in the modules below; one conformance
//! suite runs against all of them.

#[cfg(test)]
mod conformance;
pub mod embedded;
pub mod etcd;
mod etcd_watch;
pub mod memory;

use std::ops::Deref;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

/// A revision of the whole store, as in etcd: every change makes the next one. Kubernetes' resourceVersion.
pub type Revision = i64;

/// A lease as etcd numbers them; keys that carry one vanish with it (used for events' time to live).
pub type LeaseId = i64;

/// One key with its value and the revisions that etcd keeps of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The full key, e.g. `/registry/pods/default/web-0`.
    pub key: String,
    /// The value as it was stored.
    pub value: Bytes,
    /// The revision that created this incarnation of the key.
    pub create_revision: Revision,
    /// The revision of the last change.
    pub mod_revision: Revision,
}

/// One page of a range read.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The keys in ascending order.
    pub items: Vec<KeyValue>,
    /// The revision that the page is consistent with.
    pub revision: Revision,
    /// How many further keys stand behind this page.
    pub remaining: i64,
}

/// What to read of a prefix.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Read as of this revision; 0 means the current one.
    pub revision: Revision,
    /// At the most so many keys; 0 means all.
    pub limit: i64,
    /// Start behind this key (exclusive): where the last page ended.
    pub after: Option<String>,
}

/// A change of one key.
#[derive(Debug, Clone)]
pub enum Event {
    /// The key was created or changed; `previous` is what it held before, if the store still knows.
    Put {
        /// The key as it is now.
        current: KeyValue,
        /// The key as it was, if it was.
        previous: Option<KeyValue>,
    },
    /// The key was deleted in `revision`.
    Delete {
        /// The key.
        key: String,
        /// The revision that deleted it.
        revision: Revision,
        /// The last value, if the store still knows it.
        previous: Option<KeyValue>,
    },
}

impl Event {
    /// The revision in which the change happened.
    pub fn revision(&self) -> Revision {
        match self {
            Event::Put { current, .. } => current.mod_revision,
            Event::Delete { revision, .. } => *revision,
        }
    }
}

/// What a watch yields: all events of one or more whole revisions in order, or word that it is up to date.
#[derive(Debug, Clone)]
pub enum WatchItem {
    /// Changes, in the order of their revisions; a revision is never split over two items.
    Events(Vec<Event>),
    /// Nothing below or at this revision is outstanding.
    Progress(Revision),
}

/// A running watch; dropping it cancels it.
pub type Watch = BoxStream<'static, Result<WatchItem, StorageError>>;

/// What can go wrong, in variants that a caller acts on.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The key is there already (create).
    #[error("key {0} already exists")]
    Exists(String),
    /// The compare on `mod_revision` failed; `current` is what stands there now (none: deleted).
    #[error("key {key} was changed by somebody else")]
    Conflict {
        /// The key.
        key: String,
        /// What it holds now.
        current: Option<Box<KeyValue>>,
    },
    /// The revision was compacted away, or lies in the future: the client lists anew.
    #[error("revision {requested} is not available any more: the oldest is {oldest}")]
    Compacted {
        /// What was asked for.
        requested: Revision,
        /// The oldest revision that can still be read.
        oldest: Revision,
    },
    /// The store cannot be reached or refuses (disk full, shut down); the text says which and what to do.
    #[error("the store is not available: {0}")]
    Unavailable(String),
}

/// A revisioned key-value store in etcd's words. All methods are linearizable.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// One key (none if absent) and the store's revision at the time of the read.
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StorageError>;

    /// The keys with this prefix.
    async fn list(&self, prefix: &str, options: ListOptions) -> Result<Page, StorageError>;

    /// Creates a key if it is absent (compare: version == 0); the new revision, or [`StorageError::Exists`].
    async fn create(&self, key: &str, value: Bytes, lease: Option<LeaseId>)
    -> Result<Revision, StorageError>;

    /// Replaces a key if its `mod_revision` is `expected`; the new revision, or [`StorageError::Conflict`].
    /// The key keeps its lease.
    async fn update(&self, key: &str, value: Bytes, expected: Revision) -> Result<Revision, StorageError>;

    /// Deletes a key if its `mod_revision` is `expected`; the revision of the deletion.
    async fn delete(&self, key: &str, expected: Revision) -> Result<Revision, StorageError>;

    /// All changes of keys with this prefix from revision `from` on (inclusive; 0: from now on).
    /// [`StorageError::Compacted`], as the call's error or the stream's last item, means: list again.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StorageError>;

    /// A lease that ends `ttl` seconds from now.
    async fn grant(&self, ttl: i64) -> Result<LeaseId, StorageError>;

    /// Drops the history below `revision`.
    async fn compact(&self, revision: Revision) -> Result<(), StorageError>;
}

/// A shared handle on a storage, as the components of the apiserver hold it.
#[derive(Clone)]
pub struct StorageHandle(pub std::sync::Arc<dyn Storage>);

impl Deref for StorageHandle {
    type Target = dyn Storage;
    fn deref(&self) -> &Self::Target {
        self.0.as_ref()
    }
}

/// A key as text. The API server writes no other keys, but it may share the store with others.
fn utf8_key(key: Vec<u8>) -> Result<String, StorageError> {
    String::from_utf8(key).map_err(|error| {
        StorageError::Unavailable(format!(
            "the key {:?} is not UTF-8: somebody else wrote below the API server's prefix; delete it with etcdctl",
            String::from_utf8_lossy(error.as_bytes())
        ))
    })
}
