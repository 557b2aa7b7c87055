//! The lab: hosts as network namespaces on one machine, a kubelite cluster on them, and probes for the scenarios in `tests/`.
//!
//! What doesn't live here: anything that the product needs to run. The lab may call the machine's own tools.

pub mod archive;
pub mod capture;
pub mod cgroup;
pub mod datastore;
pub mod host;
pub mod images;
pub mod lab;
pub mod measure;
pub mod network;
pub mod probe;
pub mod run;
pub mod tour;
