//! The controllers of workloads against the real API server, in one process.

#![allow(clippy::unwrap_used)]

mod budget;
mod cluster;
mod cron_job;
mod job;
mod stateful_set;
