//! The controllers: loops that move the cluster from what is towards what was asked for.
//!
//! One file (or folder) per controller. Each has a pure `plan`, from observed objects to actions, and a short
//! `reconcile` that carries the actions out. None knows why it was called, and all share one set of caches, so that
//! each kind is watched once. Everything goes through the Kubernetes API.

mod caches;
mod claim;
mod context;
mod cronjob;
mod daemonset;
mod deployment;
mod disruption;
mod endpoints;
mod garbage;
mod hash;
mod history;
mod job;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod per_namespace;
mod pods;
mod protection;
mod replicaset;
mod run;
mod slow_start;
mod statefulset;

pub use node_ipam::NodeCidrs;
pub use run::{Config, run};
