//! What can go wrong, in etcd's own words where a client looks for them.

use std::path::PathBuf;

use crate::types::{LeaseId, Revision};

/// Why a request was refused, or why the store cannot serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The revision lies below the last compaction.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted {
        /// What was asked for.
        requested: Revision,
        /// The oldest revision that can be read.
        oldest: Revision,
    },
    /// The revision has not happened yet.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision {
        /// What was asked for.
        requested: Revision,
        /// The current revision.
        current: Revision,
    },
    /// No such lease, or it has ended.
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound(LeaseId),
    /// A lease with this number exists.
    #[error("etcdserver: lease already exists")]
    LeaseExists(LeaseId),
    /// More seconds than a lease may have.
    #[error("etcdserver: too large lease TTL")]
    LeaseTtlTooLarge(i64),
    /// The key is empty.
    #[error("etcdserver: key is not provided")]
    EmptyKey,
    /// The put wants to keep a value that is not there.
    #[error("etcdserver: key not found")]
    KeyNotFound,
    /// `ignore_value` together with a value.
    #[error("etcdserver: value is provided")]
    ValueProvided,
    /// `ignore_lease` together with a lease.
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    /// One transaction would write a key twice.
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    /// More operations than one transaction may have.
    #[error("etcdserver: too many operations in txn request")]
    TooManyOperations,
    /// The request is longer than the log takes.
    #[error("etcdserver: request is too large")]
    TooLarge,
    /// The disk is full: reads go on, writes are refused until there is room.
    #[error("etcdserver: mvcc: database space exceeded: {0}")]
    NoSpace(String),
    /// A write or sync of the log failed for good; nothing is acknowledged any more.
    #[error("etcdserver: the store stopped: {0}")]
    Stopped(String),
    /// The store was closed.
    #[error("etcdserver: server stopped")]
    Closed,
    /// Another process has the data directory.
    #[error(
        "the data directory {} is in use by another process: end it first, or choose another directory",
        .0.display()
    )]
    InUse(PathBuf),
    /// A file of the store is damaged.
    #[error("{} is damaged at byte {offset}: {reason}. {}", file.display(), DAMAGE_ADVICE)]
    Damaged {
        /// Which file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What does not add up.
        reason: String,
    },
    /// A file operation failed.
    #[error("{action} {}: {reason}", file.display())]
    Io {
        /// What was tried, e.g. `cannot create`.
        action: &'static str,
        /// On which file.
        file: PathBuf,
        /// The system's words.
        reason: String,
    },
}

/// What an operator does about a damaged file.
const DAMAGE_ADVICE: &str = "Nothing was changed. Restore the data directory from a backup, or move it away and start \
                             with an empty one; look at the disk (dmesg, smartctl) before you trust it again";

impl Error {
    /// Wraps a failed file operation.
    pub(crate) fn io(action: &'static str, file: &std::path::Path, error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::StorageFull {
            return Error::NoSpace(format!("{action} {}: {error}", file.display()));
        }
        Error::Io { action, file: file.to_owned(), reason: error.to_string() }
    }
}
