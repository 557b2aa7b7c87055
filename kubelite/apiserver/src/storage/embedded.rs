//! The storage over the embedded store, in this process.

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use kubelite_store as store;
use kubelite_store::{
    Compare, Comparison, DeleteRequest, KeyRange, Operation, Outcome, PutRequest, RangeRequest, Store,
    Target, TxnRequest, TxnResponse, WatchBatch, WatchRequest, Watcher,
};

use super::{Event, KeyValue, LeaseId, ListOptions, Page, Revision, Storage, StorageError, Watch, WatchItem};

/// The storage trait in the embedded store's words.
#[derive(Debug, Clone)]
pub struct Embedded {
    store: Store,
}

impl Embedded {
    /// Over a store that is open already; the etcd service may serve the same one.
    pub fn new(store: Store) -> Self {
        Embedded { store }
    }

    /// A transaction on one key that answers with what stands there if a condition fails.
    async fn on_key(
        &self,
        key: &str,
        conditions: &[(Target, Comparison)],
        then: Operation,
    ) -> Result<Result<Revision, Option<KeyValue>>, StorageError> {
        let range = KeyRange::key(key.to_owned());
        let compare = conditions.iter().cloned();
        let compare =
            compare.map(|(target, comparison)| Compare { range: range.clone(), target, comparison });
        let request = TxnRequest {
            compare: compare.collect(),
            success: vec![then],
            failure: vec![Operation::Range(RangeRequest::new(range))],
        };
        let TxnResponse { succeeded, outcomes, revision } = self.store.txn(request).await?;
        if succeeded {
            return Ok(Ok(revision));
        }
        let current = outcomes.into_iter().find_map(|outcome| match outcome {
            Outcome::Range(response) => response.kvs.into_iter().next(),
            _ => None,
        });
        current.map(key_value).transpose().map(Err)
    }

    /// The same, where a failed condition means that somebody else changed the key.
    async fn if_unchanged(
        &self,
        key: &str,
        expected: Revision,
        then: Operation,
    ) -> Result<Revision, StorageError> {
        // An absent key has revision 0; it must not pass for one that is expected there.
        let conditions =
            [(Target::Mod(expected), Comparison::Equal), (Target::Version(0), Comparison::NotEqual)];
        self.on_key(key, &conditions, then)
            .await?
            .map_err(|current| StorageError::Conflict { key: key.to_owned(), current: current.map(Box::new) })
    }
}

#[async_trait]
impl Storage for Embedded {
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StorageError> {
        let response = self.store.range(&RangeRequest::new(KeyRange::key(key.to_owned())))?;
        let kv = response.kvs.into_iter().next().map(key_value).transpose()?;
        Ok((kv, response.revision))
    }

    async fn list(&self, prefix: &str, options: ListOptions) -> Result<Page, StorageError> {
        let whole = KeyRange::prefix(prefix.to_owned());
        let range = match &options.after {
            Some(after) => whole.behind(after.as_bytes()),
            None => whole,
        };
        let request = RangeRequest {
            revision: options.revision,
            limit: usize::try_from(options.limit).unwrap_or(0),
            ..RangeRequest::new(range)
        };
        let response = self.store.range(&request)?;
        let remaining = i64::try_from(response.count - response.kvs.len()).unwrap_or(i64::MAX);
        let revision = if options.revision > 0 { options.revision } else { response.revision };
        let items = response.kvs.into_iter().map(key_value).collect::<Result<_, _>>()?;
        Ok(Page { items, revision, remaining })
    }

    async fn create(
        &self,
        key: &str,
        value: Bytes,
        lease: Option<LeaseId>,
    ) -> Result<Revision, StorageError> {
        let put = PutRequest {
            key: key.to_owned().into(),
            value,
            lease: lease.unwrap_or(0),
            ..PutRequest::default()
        };
        let created =
            self.on_key(key, &[(Target::Version(0), Comparison::Equal)], Operation::Put(put)).await?;
        created.map_err(|_| StorageError::Exists(key.to_owned()))
    }

    async fn update(&self, key: &str, value: Bytes, expected: Revision) -> Result<Revision, StorageError> {
        let put =
            PutRequest { key: key.to_owned().into(), value, ignore_lease: true, ..PutRequest::default() };
        self.if_unchanged(key, expected, Operation::Put(put)).await
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<Revision, StorageError> {
        let delete = DeleteRequest { range: KeyRange::key(key.to_owned()), prev_kv: false };
        self.if_unchanged(key, expected, Operation::Delete(delete)).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StorageError> {
        let oldest = self.store.compacted();
        if from > 0 && from < oldest {
            return Err(StorageError::Compacted { requested: from, oldest });
        }
        let request = WatchRequest { range: KeyRange::prefix(prefix.to_owned()), start: from };
        let watcher = Some(self.store.watch(request));
        // After an error there is no watcher any more, and the stream ends.
        let stream = futures::stream::unfold(watcher, |watcher| async {
            let mut watcher = watcher?;
            match next_item(&mut watcher).await {
                Ok(item) => Some((Ok(item), Some(watcher))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(stream.boxed())
    }

    async fn grant(&self, ttl: i64) -> Result<LeaseId, StorageError> {
        Ok(self.store.grant(0, ttl).await?)
    }

    async fn compact(&self, revision: Revision) -> Result<(), StorageError> {
        Ok(self.store.compact(revision).await?)
    }
}

async fn next_item(watcher: &mut Watcher) -> Result<WatchItem, StorageError> {
    match watcher.next().await? {
        WatchBatch::UpToDate(revision) => Ok(WatchItem::Progress(revision)),
        WatchBatch::Events(events) => {
            Ok(WatchItem::Events(events.into_iter().map(event).collect::<Result<_, _>>()?))
        }
    }
}

fn event(event: store::Event) -> Result<Event, StorageError> {
    let previous = event.previous.map(key_value).transpose()?;
    let current = key_value(event.kv)?;
    Ok(if event.deleted {
        Event::Delete { key: current.key, revision: current.mod_revision, previous }
    } else {
        Event::Put { current, previous }
    })
}

fn key_value(kv: store::KeyValue) -> Result<KeyValue, StorageError> {
    let key = super::utf8_key(kv.key.into())?;
    Ok(KeyValue { key, value: kv.value, create_revision: kv.create_revision, mod_revision: kv.mod_revision })
}

impl From<store::Error> for StorageError {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Compacted { requested, oldest } => StorageError::Compacted { requested, oldest },
            // The trait has one word for both: the client lists anew.
            store::Error::FutureRevision { requested, current } => {
                StorageError::Compacted { requested, oldest: current }
            }
            other => StorageError::Unavailable(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{StorageHandle, conformance};
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn conforms() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), kubelite_store::Options::default()).unwrap();
        conformance::run(StorageHandle(Arc::new(Embedded::new(store)))).await;
    }
}
