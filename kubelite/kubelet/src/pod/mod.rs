//! One pod: what is there ([`observed`]), what to do ([`step`](mod@step), pure), how it is ([`status`](mod@status), pure),
//! what the runtime is told ([`config`], pure), and the [`worker`] that carries it out.

pub(crate) mod backoff;
mod conditions;
pub(crate) mod config;
pub(crate) mod observed;
pub(crate) mod spec;
pub(crate) mod status;
pub(crate) mod step;
mod termination;
pub(crate) mod worker;
