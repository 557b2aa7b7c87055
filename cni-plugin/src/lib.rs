//! The CNI plugin: connects a container to the node's part of the overlay.
//!
//! ```text
//!  env + stdin ─► request ─► config + subnet_env ─► plan (pure) ─► apply (undoes in reverse on failure) ─► result ─► stdout
//! ```
//!
//! One static binary, and no other plugin beside it: the bridge, host-local's address management, host ports and masquerading are built in.
//! A `delegate.type` other than `bridge`, or an `ipam.type` other than `host-local`, is run from CNI_PATH as flannel's plugin does it.
//!
//! - What an ADD will do is decided by pure functions ([`request`], [`config`], [`plan`], [`nat`]) before anything is touched.
//! - What a DEL needs is on disk ([`ipam`], [`record`]); it asks neither for the namespace nor for subnet.env.
//! - The NAT table is written as a whole from the records; no rule is ever searched for.
//!
//! What isn't here: netlink, namespaces and nftables themselves (crate `hostnet`), and the routes between nodes (flanneld).
//!
//! The specification is <https://github.com/containernetworking/cni/blob/main/SPEC.md>, version 1.1.0.

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
