//! What every client that reconciles needs: a cache that a watch fills, a queue of keys, and events.
//!
//! - [`Informer`]: one watch per kind and process part, shared by all who are interested in the kind.
//! - [`Queue`]: which keys are to be reconciled, each at most once at a time, with a growing delay after a failure.
//! - [`Recorder`]: events for users, counted instead of repeated.
//!
//! No kind's meaning lives here, and nothing decides anything.

mod cache;
mod events;
mod key;
mod queue;

pub use cache::{Change, Informer, version_of};
pub use events::{EventType, Recorder};
pub use key::Key;
pub use queue::Queue;
