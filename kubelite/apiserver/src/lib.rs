//! The Kubernetes API server: store → registry → verbs → watch, driven by one resource table and the schemas.
//!
//! [`server`] puts it together; [`resources`] is the table; [`registry`] has the semantics of the verbs; `http` is the front.

pub mod admission;
pub mod auth;
pub mod cache;
pub mod client;
mod compaction;
pub mod connect;
pub mod custom;
mod discovery;
mod eviction;
mod health;
mod http;
mod openapi;
pub mod parts;
pub mod registry;
pub mod request;
pub mod resources;
mod scale;
pub mod serve;
pub mod server;
pub mod storage;
pub mod strategy;
mod system;

pub use server::{ApiServer, Config};
