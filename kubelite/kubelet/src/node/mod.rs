//! This machine as a Node object, and its lease.

pub(crate) mod machine;

use crate::context::Context;
use std::sync::Arc;

/// Keeps the Node and its lease up to date, for ever.
pub(crate) async fn run(context: Arc<Context>) {
    loop {
        if let Ok(status) = context.runtime.status().await {
            *context.network.write() = status.network;
        }
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    }
}
