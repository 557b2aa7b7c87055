//! What the Kubernetes API means, without any I/O: schemas, selectors, quantities, patches, errors.

pub mod status;
