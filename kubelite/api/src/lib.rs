//! What the Kubernetes API means, without any I/O: schemas, selectors, quantities, patches, errors.

pub mod fields;
pub mod labels;
pub mod names;
pub mod quantity;
pub mod status;
