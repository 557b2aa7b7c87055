//! The controllers of workloads against the real API server, in one process.

mod cluster;
mod job;
mod stateful_set;
