//! The store's history is cut every five minutes, as upstream's apiserver does: what a list's continue token or a restarted
//! watch can reach back to is then at least five and at most ten minutes old.

use std::sync::Arc;
use std::time::Duration;

use crate::cache::Caches;
use crate::storage::StorageHandle;

const INTERVAL: Duration = Duration::from_secs(300);

/// Compacts for ever; each time up to where things were one interval ago.
pub async fn run(storage: StorageHandle, caches: Arc<Caches>) {
    let mut before = caches.revision();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let now = caches.revision();
        if before > 0
            && let Err(error) = storage.compact(before).await
        {
            tracing::debug!(%error, revision = before, "the store was not compacted; the next interval tries again");
        }
        before = now;
    }
}
