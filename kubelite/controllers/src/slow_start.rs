//! Many requests of one kind, begun carefully.

use futures::future::join_all;
use std::future::Future;

/// Acts on `items` in batches of 1, 2, 4, …, and stops after a batch in which something failed: a template that is refused
/// (quota, admission) costs one request and not hundreds. The error is the last one.
pub(crate) async fn slow_start<T, F, Fut>(items: impl IntoIterator<Item = T>, act: F) -> kube::Result<()>
where
    F: Fn(T) -> Fut,
    Fut: Future<Output = kube::Result<()>>,
{
    let (mut items, mut size) = (items.into_iter(), 1);
    loop {
        let batch: Vec<Fut> = items.by_ref().take(size).map(&act).collect();
        if batch.is_empty() {
            return Ok(());
        }
        join_all(batch).await.into_iter().rfind(Result::is_err).unwrap_or(Ok(()))?;
        size *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn it_stops_after_the_first_batch_that_fails() {
        for (bad, expected) in [(0, 1), (1, 3), (4, 7), (100, 10)] {
            let tried = AtomicUsize::new(0);
            let outcome =
                slow_start(0..10, |item| {
                    tried.fetch_add(1, Ordering::Relaxed);
                    async move {
                        if item == bad { Err(kube::Error::LinesCodecMaxLineLengthExceeded) } else { Ok(()) }
                    }
                })
                .await;
            assert_eq!((tried.into_inner(), outcome.is_err()), (expected, bad < 10));
        }
    }
}
