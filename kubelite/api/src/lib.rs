//! What the Kubernetes API means, without any I/O: schemas, selectors, quantities, patches, errors.

pub mod cron;
pub mod custom;
pub mod defaults;
pub mod fields;
pub mod indexes;
pub mod json;
pub mod labels;
pub mod managed;
pub mod merge_keys;
pub mod names;
pub mod object;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod scalar;
pub mod scheduling;
pub mod schema;
pub mod status;
pub mod table;
pub mod validate;
