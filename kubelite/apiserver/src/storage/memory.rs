//! The in-memory twin: the embedded engine without its log.
//!
//! It is the same code as the embedded storage up to the point where a log would be written, so it cannot drift from
//! it. It forgets everything when it is dropped.

use kubelite_store::Store;

use super::StorageError;
use super::embedded::Embedded;

/// An empty storage that lives as long as the value.
pub fn storage() -> Result<Embedded, StorageError> {
    Ok(Embedded::new(Store::memory()?))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{StorageHandle, conformance};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn conforms() {
        conformance::run(StorageHandle(Arc::new(super::storage().unwrap()))).await;
    }
}
