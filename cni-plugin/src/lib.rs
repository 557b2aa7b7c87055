//! The CNI plugin: connects a container to the node's part of the overlay.
//!
//! ```text
//!  env + stdin ─► request ─► config + subnet_env ─► plan (pure) ─► apply (undoes in reverse on failure) ─► result ─► stdout
//! ```

pub mod apply;
pub mod check;
pub mod config;
pub mod delegate;
pub mod error;
pub mod files;
pub mod host;
pub mod ipam;
pub mod json;
pub mod loopback;
pub mod nat;
pub mod plan;
pub mod record;
pub mod request;
pub mod result;
pub mod run;
pub mod sandbox;
pub mod subnet_env;
pub mod version;
