//! Leases for what goes by itself after a time: shared, since a lease of its own for each event would be one more write each.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::storage::{LeaseId, StorageError, StorageHandle};

/// How long a lease is given to further objects; they live by so much longer at the most.
const SHARED: Duration = Duration::from_secs(60);
/// How many objects have one lease: its end deletes them all at once.
const OBJECTS: usize = 1000;

/// The lease that is being shared.
#[derive(Default)]
pub struct Leases(Mutex<Option<Shared>>);

struct Shared {
    lease: LeaseId,
    seconds: i64,
    since: Instant,
    objects: usize,
}

impl Leases {
    /// A lease that lasts for at least `seconds`.
    pub(super) async fn take(
        &self,
        storage: &StorageHandle,
        seconds: i64,
        now: Instant,
    ) -> Result<LeaseId, StorageError> {
        let mut shared = self.0.lock().await;
        if let Some(known) = shared.as_mut().filter(|s| s.fits(seconds, now)) {
            known.objects += 1;
            return Ok(known.lease);
        }
        let longer = i64::try_from(SHARED.as_secs()).unwrap_or(0);
        let lease = storage.grant(seconds + longer).await?;
        *shared = Some(Shared { lease, seconds, since: now, objects: 1 });
        Ok(lease)
    }

    /// After a failed write: the store may not know the lease any more.
    pub(super) async fn forget(&self) {
        *self.0.lock().await = None;
    }
}

impl Shared {
    fn fits(&self, seconds: i64, now: Instant) -> bool {
        self.seconds == seconds && now.duration_since(self.since) < SHARED && self.objects < OBJECTS
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::storage::memory;

    #[tokio::test]
    async fn a_lease_is_shared_for_a_while() {
        let storage = StorageHandle(Arc::new(memory::storage().unwrap()));
        let (leases, start) = (Leases::default(), Instant::now());
        let take = async |seconds, now| leases.take(&storage, seconds, now).await.unwrap();
        let first = take(3600, start).await;
        assert_eq!(take(3600, start + SHARED / 2).await, first);
        assert_ne!(take(60, start).await, first, "another time to live");
        let second = take(3600, start).await;
        let third = take(3600, start + SHARED).await;
        assert_ne!(third, second);
        leases.forget().await;
        let fourth = take(3600, start + SHARED).await;
        assert_ne!(fourth, third);
        for _ in 1..OBJECTS {
            assert_eq!(take(3600, start + SHARED).await, fourth);
        }
        assert_ne!(take(3600, start + SHARED).await, fourth);
    }
}
