//! Requests and answers of the store: etcd's messages without the protobuf.

use bytes::Bytes;

use crate::types::{KeyRange, KeyValue, LeaseId, Revision};

/// A read of a range of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeRequest {
    /// Which keys.
    pub range: KeyRange,
    /// As of this revision; 0 means the current one.
    pub revision: Revision,
    /// At the most so many keys; 0 means all.
    pub limit: usize,
    /// The order of the answer, applied before the limit.
    pub sort: Option<(SortTarget, SortOrder)>,
    /// Leave the values out.
    pub keys_only: bool,
    /// Leave the keys out too: only [`RangeResponse::count`] is filled.
    pub count_only: bool,
    /// Only keys whose last change lies in these revisions (0: unbounded).
    pub mod_revisions: (Revision, Revision),
    /// Only keys whose creation lies in these revisions (0: unbounded).
    pub create_revisions: (Revision, Revision),
}

impl RangeRequest {
    /// All of `range`, now, in the order of the keys.
    pub fn new(range: KeyRange) -> Self {
        RangeRequest {
            range,
            revision: 0,
            limit: 0,
            sort: None,
            keys_only: false,
            count_only: false,
            mod_revisions: (0, 0),
            create_revisions: (0, 0),
        }
    }
}

/// By what an answer is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortTarget {
    /// The key.
    Key,
    /// The version.
    Version,
    /// The revision of the creation.
    Create,
    /// The revision of the last change.
    Mod,
    /// The value.
    Value,
}

/// In which direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortOrder {
    /// Lowest first.
    Ascending,
    /// Highest first.
    Descending,
}

/// The answer to a [`RangeRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RangeResponse {
    /// The keys.
    pub kvs: Vec<KeyValue>,
    /// True if the limit cut the answer short.
    pub more: bool,
    /// How many keys the range holds, whatever the limit.
    pub count: usize,
    /// The store's revision when the answer was made.
    pub revision: Revision,
}

/// A write of one key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PutRequest {
    /// The key.
    pub key: Bytes,
    /// The new value.
    pub value: Bytes,
    /// The lease to hang on; 0 if none.
    pub lease: LeaseId,
    /// Answer with what stood there before.
    pub prev_kv: bool,
    /// Keep the value that is there.
    pub ignore_value: bool,
    /// Keep the lease that is there.
    pub ignore_lease: bool,
}

/// A deletion of a range of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteRequest {
    /// Which keys.
    pub range: KeyRange,
    /// Answer with what stood there before.
    pub prev_kv: bool,
}

/// The answer to a [`DeleteRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeleteResponse {
    /// How many keys there were.
    pub deleted: usize,
    /// What they held, if it was asked for.
    pub previous: Vec<KeyValue>,
}

/// A condition on every key of a range. A key that is absent counts as version, revisions and lease 0, and as no
/// value at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// Which keys.
    pub range: KeyRange,
    /// What is compared, and with what.
    pub target: Target,
    /// How.
    pub comparison: Comparison,
}

/// The left side of a comparison, with the right side's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The number of writes since the creation.
    Version(i64),
    /// The revision of the creation.
    Create(Revision),
    /// The revision of the last change.
    Mod(Revision),
    /// The value.
    Value(Bytes),
    /// The lease.
    Lease(LeaseId),
}

/// The operator of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `>`
    Greater,
}

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Read.
    Range(RangeRequest),
    /// Write.
    Put(PutRequest),
    /// Delete.
    Delete(DeleteRequest),
    /// Decide once more.
    Txn(Box<TxnRequest>),
}

/// If all of `compare` hold, then `success`, else `failure`; everything that is changed is one revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TxnRequest {
    /// The conditions.
    pub compare: Vec<Compare>,
    /// What is done if they hold.
    pub success: Vec<Operation>,
    /// What is done otherwise.
    pub failure: Vec<Operation>,
}

/// The answer to one [`Operation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// What was read.
    Range(RangeResponse),
    /// What stood there before the put, if it was asked for.
    Put(Option<KeyValue>),
    /// What was deleted.
    Delete(DeleteResponse),
    /// What the inner transaction did.
    Txn(TxnResponse),
}

/// The answer to a [`TxnRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TxnResponse {
    /// True if the conditions held.
    pub succeeded: bool,
    /// An answer per operation.
    pub outcomes: Vec<Outcome>,
    /// The store's revision after the transaction.
    pub revision: Revision,
}

impl TxnRequest {
    /// These operations, unconditionally.
    pub fn of(operations: Vec<Operation>) -> Self {
        TxnRequest { compare: Vec::new(), success: operations, failure: Vec::new() }
    }

    /// True if no branch can change anything.
    pub fn is_read_only(&self) -> bool {
        self.success.iter().chain(&self.failure).all(|operation| match operation {
            Operation::Range(_) => true,
            Operation::Put(_) | Operation::Delete(_) => false,
            Operation::Txn(inner) => inner.is_read_only(),
        })
    }

    /// True if some branch writes.
    pub fn has_puts(&self) -> bool {
        self.success.iter().chain(&self.failure).any(|operation| match operation {
            Operation::Put(_) => true,
            Operation::Range(_) | Operation::Delete(_) => false,
            Operation::Txn(inner) => inner.has_puts(),
        })
    }
}
