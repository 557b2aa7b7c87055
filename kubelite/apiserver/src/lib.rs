//! The Kubernetes API server: store → registry → verbs → watch, driven by one resource table and the schemas.

pub mod admission;
pub mod auth;
pub mod client;
pub mod connect;
pub mod parts;
pub mod request;
pub mod serve;
pub mod storage;
