//! The storage over an etcd cluster somewhere else, for several servers that share one state.
//!
//! Requests are single attempts with a deadline: whoever asked knows better whether to repeat. Only the watch repairs
//! itself, in [`super::etcd_watch`], as a watcher that must list anew after every hiccup of the network would cost
//! the whole cluster.

use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, GetOptions, GetResponse, Identity, KvClient,
    PutOptions, TlsOptions, Txn, TxnOp, TxnOpResponse,
};
use futures::StreamExt;

use super::etcd_watch::EtcdWatch;
use super::{KeyValue, LeaseId, ListOptions, Page, Revision, Storage, StorageError, Watch};

/// After which a request counts as failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// After which an endpoint that does not answer counts as gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often, and with how much patience, a silent connection is probed.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// The longest answer: a whole kind in one list.
pub(super) const MAX_ANSWER_BYTES: usize = 512 * 1024 * 1024;

/// How to reach the cluster.
#[derive(Clone, Default)]
pub struct EtcdConfig {
    /// E.g. `https://10.0.0.1:2379`; one that works is enough.
    pub endpoints: Vec<String>,
    /// The authority that signed the servers' certificates, PEM; with it TLS is spoken.
    pub ca: Option<Vec<u8>>,
    /// Our certificate and its key, PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// The storage trait in etcd's words.
#[derive(Clone)]
pub struct Etcd {
    client: Client,
    /// True if the servers answer progress requests only behind the events.
    reliable_progress: bool,
}

impl Etcd {
    /// Connects, and asks the servers for their version.
    pub async fn connect(config: EtcdConfig) -> Result<Self, StorageError> {
        let endpoints = config.endpoints.clone();
        let client = deadline("connect", Client::connect(&endpoints, Some(options(config)))).await?;
        let status = deadline("status", client.maintenance_client().status()).await?;
        let reliable_progress = answers_progress_in_order(status.version());
        if !reliable_progress {
            tracing::warn!(
                version = status.version(),
                "this etcd may announce progress before the events: watches go without it, and the API server \
                 reads from etcd where it cannot tell that its cache is fresh; 3.4.25 or 3.5.8 repairs that"
            );
        }
        Ok(Etcd { client, reliable_progress })
    }

    fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// A transaction on one key that answers with what stands there if a condition fails.
    async fn on_key(
        &self,
        key: &str,
        conditions: Vec<Compare>,
        then: TxnOp,
    ) -> Result<Result<Revision, Option<KeyValue>>, StorageError> {
        let txn = Txn::new().when(conditions).and_then([then]).or_else([TxnOp::get(key, None)]);
        let response = deadline("txn", self.kv().txn(txn)).await?;
        if response.succeeded() {
            return Ok(Ok(response.header().map_or(0, etcd_client::ResponseHeader::revision)));
        }
        let current = response.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(mut found) => found.take_kvs().pop(),
            _ => None,
        });
        current.map(key_value).transpose().map(Err)
    }

    /// The same, where a failed condition means that somebody else changed the key.
    async fn if_unchanged(
        &self,
        key: &str,
        expected: Revision,
        then: TxnOp,
    ) -> Result<Revision, StorageError> {
        // An absent key has revision 0; it must not pass for one that is expected there.
        let conditions = vec![
            Compare::mod_revision(key, CompareOp::Equal, expected),
            Compare::version(key, CompareOp::NotEqual, 0),
        ];
        self.on_key(key, conditions, then)
            .await?
            .map_err(|current| StorageError::Conflict { key: key.to_owned(), current: current.map(Box::new) })
    }
}

#[async_trait]
impl Storage for Etcd {
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StorageError> {
        let mut response = deadline("get", self.kv().get(key, None)).await?;
        Ok((response.take_kvs().pop().map(key_value).transpose()?, revision(&response)))
    }

    async fn list(&self, prefix: &str, options: ListOptions) -> Result<Page, StorageError> {
        let start = options.after.map_or_else(|| prefix.to_owned(), |after| after + "\0");
        let request = GetOptions::new()
            .with_range(prefix_end(prefix))
            .with_revision(options.revision)
            .with_limit(options.limit);
        let mut kv = self.kv();
        let listed = tokio::time::timeout(REQUEST_TIMEOUT, kv.get(start, Some(request))).await;
        let mut response =
            listed.map_err(|_| timed_out("range"))?.map_err(|error| read_error(&error, options.revision))?;
        let at = if options.revision > 0 { options.revision } else { revision(&response) };
        let items = response.take_kvs().into_iter().map(key_value).collect::<Result<Vec<_>, _>>()?;
        let remaining = response.count() - i64::try_from(items.len()).unwrap_or(i64::MAX);
        Ok(Page { items, revision: at, remaining: remaining.max(0) })
    }

    async fn create(
        &self,
        key: &str,
        value: Bytes,
        lease: Option<LeaseId>,
    ) -> Result<Revision, StorageError> {
        let put = TxnOp::put(key, value, lease.map(|lease| PutOptions::new().with_lease(lease)));
        let absent = vec![Compare::version(key, CompareOp::Equal, 0)];
        self.on_key(key, absent, put).await?.map_err(|_| StorageError::Exists(key.to_owned()))
    }

    async fn update(&self, key: &str, value: Bytes, expected: Revision) -> Result<Revision, StorageError> {
        let put = TxnOp::put(key, value, Some(PutOptions::new().with_ignore_lease()));
        self.if_unchanged(key, expected, put).await
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<Revision, StorageError> {
        self.if_unchanged(key, expected, TxnOp::delete(key, None)).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StorageError> {
        let client = self.client.watch_client().max_decoding_message_size(MAX_ANSWER_BYTES);
        let end = prefix_end(prefix);
        let watch = EtcdWatch::start(client, prefix, end, from, self.reliable_progress);
        let watch = tokio::time::timeout(REQUEST_TIMEOUT, watch).await.map_err(|_| timed_out("watch"))??;
        // After an error there is no watch any more, and the stream ends.
        let stream = futures::stream::unfold(Some(watch), |watch| async {
            let mut watch = watch?;
            match watch.next().await {
                Ok(item) => Some((Ok(item), Some(watch))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(stream.boxed())
    }

    async fn grant(&self, ttl: i64) -> Result<LeaseId, StorageError> {
        Ok(deadline("lease grant", self.client.lease_client().grant(ttl, None)).await?.id())
    }

    async fn compact(&self, revision: Revision) -> Result<(), StorageError> {
        let mut kv = self.kv();
        let compacted = tokio::time::timeout(REQUEST_TIMEOUT, kv.compact(revision, None)).await;
        compacted.map_err(|_| timed_out("compact"))?.map(|_| ()).map_err(|error| read_error(&error, revision))
    }
}

/// The error of a read at `requested`; etcd's refusal does not say which revision is the oldest.
fn read_error(error: &etcd_client::Error, requested: Revision) -> StorageError {
    let text = error.to_string();
    if text.contains("has been compacted") || text.contains("is a future revision") {
        return StorageError::Compacted { requested, oldest: 0 };
    }
    unavailable("range", error)
}

fn options(config: EtcdConfig) -> ConnectOptions {
    let (interval, patience) = KEEP_ALIVE;
    let options = ConnectOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_keep_alive(interval, patience)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true);
    let Some(ca) = config.ca else { return options };
    let tls = TlsOptions::new().ca_certificate(Certificate::from_pem(ca));
    options.with_tls(match config.identity {
        Some((certificate, key)) => tls.identity(Identity::from_pem(certificate, key)),
        None => tls,
    })
}

/// Before 3.4.25 and 3.5.8 an etcd could answer a progress request with a revision whose events were still to come.
fn answers_progress_in_order(version: &str) -> bool {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let mut numbers = core.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let [major, minor, patch] = std::array::from_fn(|_| numbers.next().unwrap_or(0));
    match (major, minor) {
        (3, 4) => patch >= 25,
        (3, 5) => patch >= 8,
        (3, ..4) | (..3, _) => false,
        _ => true,
    }
}

/// Where the keys with a prefix end, as etcd's requests want it.
fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

async fn deadline<T>(
    what: &str,
    request: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, StorageError> {
    let answered = tokio::time::timeout(REQUEST_TIMEOUT, request).await.map_err(|_| timed_out(what))?;
    answered.map_err(|error| unavailable(what, &error))
}

pub(super) fn unavailable(what: &str, error: &etcd_client::Error) -> StorageError {
    StorageError::Unavailable(format!(
        "etcd refused or failed ({what}): {error}; look at its log and at --etcd-servers"
    ))
}

fn timed_out(what: &str) -> StorageError {
    StorageError::Unavailable(format!(
        "etcd did not answer ({what}) within {} s: look whether it runs and has a leader",
        REQUEST_TIMEOUT.as_secs()
    ))
}

fn revision(response: &GetResponse) -> Revision {
    response.header().map_or(0, etcd_client::ResponseHeader::revision)
}

pub(super) fn key_value(kv: etcd_client::KeyValue) -> Result<KeyValue, StorageError> {
    let (create_revision, mod_revision) = (kv.create_revision(), kv.mod_revision());
    let (key, value) = kv.into_key_value();
    let key = super::utf8_key(key)?;
    Ok(KeyValue { key, value: value.into(), create_revision, mod_revision })
}

#[cfg(test)]
#[path = "etcd_tests.rs"]
mod tests;
