//! The kubelet: it makes the pods that are bound to this node run, and tells the API server how they are.
//!
//! ```text
//!  watch pods ──► queue of UIDs ──► worker: observe ► step (pure) ► act ► status (pure) ► PATCH pods/status
//!                      ▲                       │                   │
//!        relist ───────┤                       └──── trait Runtime ┘──► CRI ──► containerd
//!        probes ───────┘
//! ```
//!
//! - [`runtime`]: what runs containers, as a small trait; the CRI client and an in-memory twin.
//! - `pod`: decisions (pure) and the worker that carries them out.
//! - `volumes`, `env`: what a container finds in its file system and environment.
//! - `probes`: liveness, readiness and startup.
//! - `server`, `logs`: the kubelet's own API: logs, and streams into containers.
//! - `node`: this machine as a Node object, and its lease.
//!
//! Invariant: nothing is remembered that can't be read back from the runtime. A kubelet that is started anew adopts
//! what runs, and a silent API server stops nothing.

mod config;
mod context;
mod credentials;
mod downward;
mod env;
mod images;
mod logs;
mod node;
mod pod;
mod probes;
mod relist;
mod rotate;
mod run;
pub mod runtime;
mod server;
mod volumes;
mod writer;

pub use config::Config;
pub use run::{run, run_with};
