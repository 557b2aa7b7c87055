//! The scheduler: which node a pod runs on.
//!
//! ```text
//!  pod without node ─► queue ─► snapshot ─► filters (which nodes can) ─► scores (which is best) ─► assume ─► bind
//!                        ▲                       │ none
//!                        └── events ── parked ◄──┘
//! ```
//! - [`snapshot`]: the nodes with what their pods take. [`filters`] and [`scores`] are pure functions over it.
//! - [`run`](mod@run): the loop, the only place with I/O.
//!
//! Absent: volumes, dynamic resources, pre-emption, profiles other than `default-scheduler`.

mod cycle;
mod filters;
mod resources;
mod run;
mod scores;
mod snapshot;

pub use run::{Config, run};
