//! What flanneld needs of etcd, in etcd's words.

use async_trait::async_trait;
use futures::stream::BoxStream;

/// A key under `<prefix>/subnets/`, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The last part of the key, e.g. `10.5.89.0-24`.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// The revision at which it came to be; of two records of one subnet the older has it.
    pub create_revision: i64,
    /// The revision of its last change.
    pub mod_revision: i64,
    /// The etcd lease it hangs on; 0: none, which makes it a reservation.
    pub lease_id: i64,
}

/// All records at one revision.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// In the order of their keys.
    pub records: Vec<Record>,
    /// Watch from the next one on.
    pub revision: i64,
}

/// A change of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It was written.
    Put(Record),
    /// It is gone; the last part of its key.
    Delete(String),
}

/// What a record is held by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The revision at which it was written by us.
    pub mod_revision: i64,
    /// The etcd lease that it hangs on.
    pub lease_id: i64,
}

/// What can go wrong.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The watch cannot go on from there: list again.
    #[error("the history was compacted")]
    Compacted,
    /// It does not answer, or refuses.
    #[error("{0}")]
    Unavailable(String),
}

/// Changes in the order of their revisions, with the revision up to which they are complete.
pub type Events = BoxStream<'static, Result<(Vec<Event>, i64), StoreError>>;

/// The records of one network.
#[async_trait]
pub trait LeaseStore: Send + Sync + 'static {
    /// The network's configuration, if there is one.
    async fn config(&self) -> Result<Option<String>, StoreError>;

    /// All records.
    async fn list(&self) -> Result<Snapshot, StoreError>;

    /// Changes behind a revision.
    async fn watch(&self, behind: i64) -> Result<Events, StoreError>;

    /// Creates a record that ends after `ttl` seconds; none if the key is there already (compare: version == 0).
    async fn create(&self, key: &str, value: &str, ttl: i64) -> Result<Option<Held>, StoreError>;

    /// Writes a record anew for `ttl` seconds; none if it is not as it was at revision `seen` (compare: mod_revision).
    /// `ttl` 0 writes it without an end.
    async fn renew(&self, key: &str, value: &str, seen: i64, ttl: i64) -> Result<Option<Held>, StoreError>;

    /// Puts a record in place of another, which is deleted in the same step; none if the other is not as it was at revision `seen`,
    /// or the new key is there already. `ttl` 0 writes it without an end.
    async fn replace(
        &self,
        (old, seen): (&str, i64),
        key: &str,
        value: &str,
        ttl: i64,
    ) -> Result<Option<Held>, StoreError>;

    /// Writes a record anew and leaves its end as it is; the new revision, or none if it is not as it was at revision `seen`.
    /// A store in which no two nodes can have one record, as that of nodes in the Kubernetes API, needs none of it.
    async fn mark(&self, key: &str, _value: &str, _seen: i64) -> Result<Option<i64>, StoreError> {
        Err(StoreError::Unavailable(format!("{key} cannot be claimed in this store")))
    }

    /// Gives back an etcd lease: one that an own record hung on before it was renewed, or, with its record, one that is not wanted.
    async fn forget(&self, lease_id: i64);

    /// This host is reached elsewhere now: connections from its old address would be silent. What is asked from now on is asked anew.
    async fn reconnect(&self) {}
}
