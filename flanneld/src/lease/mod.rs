//! Who owns which subnet: leases as keys in etcd, taken and kept by compare, or Kubernetes' nodes, to which they are given.
//!
//! - [`key`]: keys and values, byte for byte as flannel writes them.
//! - [`features`]: what a node can take beyond what every flannel can.
//! - [`allocate`]: which subnet to try (pure). [`follow`]: what the others have (pure).
//! - [`keeper`]: takes the own lease, renews it, takes a new one when it is lost.
//! - [`kube`]: nodes in place of leases, told as the same records.
//! - [`store`]: what the keeper needs of etcd, as a trait; [`etcd`] and [`memory`] are it, and one suite tests both; [`observed`] notes how it
//!   answers.

pub mod allocate;
#[cfg(test)]
mod conformance;
pub mod etcd;
pub mod features;
pub mod follow;
pub mod holder;
pub mod keeper;
pub mod key;
pub mod kube;
pub mod memory;
pub mod observed;
pub mod store;

pub use key::Lease;
