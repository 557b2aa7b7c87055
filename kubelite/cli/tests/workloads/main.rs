//! The controllers of workloads against the real API server, in one process.

mod cluster;
mod stateful_set;
