//! One pod: what is there (`observed`), what to do (`step`, pure), how it is (`status`, pure), what the runtime is told
//! (`config`, pure), and the `worker` that carries it out.

mod admit;
pub(crate) mod backoff;
mod cgroups;
mod conditions;
pub(crate) mod config;
mod dns;
mod files;
pub(crate) mod finish;
mod hooks;
mod kill;
pub(crate) mod observed;
mod resources;
pub(crate) mod spec;
mod start;
pub(crate) mod status;
pub(crate) mod step;
mod termination;
#[cfg(test)]
mod tests;
pub(crate) mod worker;
