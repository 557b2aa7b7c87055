//! The embedded etcd: a revisioned key-value store with transactions, leases and watches, durable on one node, and
//! the etcd v3 gRPC service over it.
//!
//! ```text
//!  Store::txn ─► queue ─► writer thread:  state.apply ─► log.append + fdatasync ─► publish ─► answer
//!                                            │ (pure)        one group commit         │
//!  Store::range ─── reads at the durable revision ◄──────────────────────────────────┤
//!  Store::watch ─── a cursor over the history, woken by the hub ◄────────────────────┘
//! ```
//!
//! The core is pure: `state` turns a command into an answer and log entries and knows neither files nor tasks nor
//! the clock. The shell is thin: the writer thread, the log's files and the gRPC service.
//!
//! What is absent: replication. Several servers share an external etcd cluster, which speaks the same API.

pub mod error;
pub mod grpc;
pub mod lease;
mod log;
mod mvcc;
pub mod request;
mod state;
pub mod store;
pub mod txn;
pub mod types;
pub mod watch;
mod writer;

pub use error::Error;
pub use request::{
    Compare, Comparison, DeleteRequest, DeleteResponse, Operation, Outcome, PutRequest, RangeRequest,
    RangeResponse, SortOrder, SortTarget, Target, TxnRequest, TxnResponse,
};
pub use store::{Options, Status, Store};
pub use types::{Event, KeyRange, KeyValue, LeaseId, Revision};
pub use watch::{WatchBatch, WatchRequest, Watcher};
