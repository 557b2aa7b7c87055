//! flanneld: a subnet per node from etcd, and pod packets carried in UDP as Go flannel carries them.
//!
//! ```text
//!  etcd ──► lease::follow ──► route::Table ──(one atomic pointer)──► datapath ──► flannel0 │ UDP 8285
//!  etcd ◄── lease::keeper (take, renew, take anew)
//! ```
//!
//! [`daemon`] wires it. The data path takes no lock and never waits for the control side; see [`datapath`].

pub mod backend;
pub mod chance;
pub mod config;
pub mod daemon;
pub mod datapath;
pub mod docker_opts;
pub mod family;
pub mod http;
pub mod iface;
pub mod lease;
pub mod logging;
pub mod look;
pub mod masquerade;
pub mod notify;
pub mod owner;
pub mod path_mtu;
pub mod route;
pub mod subnet_env;
