//! The store in etcd v3, the real one or kubelite's.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, EventType, GetOptions, Identity, KeyValue,
    PutOptions, TlsOptions, Txn, TxnOp, WatchOptions,
};
use futures::StreamExt;

use super::store::{Event, Events, Held, LeaseStore, Record, Snapshot, StoreError};

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 pings find a server that is silent without having hung up.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));

/// In bytes. Thousands of leases need one megabyte; a few damaged records of etcd's largest size must not hide them.
const LONGEST_LIST: usize = 64 * 1024 * 1024;

/// How etcd is reached.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// URLs.
    pub endpoints: Vec<String>,
    /// The CA of its certificate, PEM.
    pub ca: Option<Vec<u8>>,
    /// Client certificate and key, PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// User and password.
    pub user: Option<(String, String)>,
    /// E.g. `/coreos.com/network`.
    pub prefix: String,
}

/// The leases of one network in etcd.
#[derive(Clone)]
pub struct Etcd {
    client: Arc<ArcSwap<Client>>,
    access: Access,
    config: String,
    subnets: String,
}

impl Etcd {
    /// Connects; etcd need not be there yet.
    pub async fn connect(access: &Access) -> Result<Etcd, StoreError> {
        let client = Arc::new(ArcSwap::from_pointee(client(access).await?));
        let prefix = access.prefix.trim_end_matches('/');
        let (config, subnets) = (format!("{prefix}/config"), format!("{prefix}/subnets/"));
        Ok(Etcd { client, access: access.clone(), config, subnets })
    }

    fn client(&self) -> Client {
        Client::clone(&self.client.load())
    }

    fn record(&self, kv: &KeyValue) -> Option<Record> {
        let key = String::from_utf8_lossy(kv.key());
        let key = key.strip_prefix(&self.subnets)?.to_owned();
        Some(Record {
            key,
            value: kv.value().to_vec(),
            create_revision: kv.create_revision(),
            mod_revision: kv.mod_revision(),
            lease_id: kv.lease(),
        })
    }

    /// Writes a key under conditions, hung on a new etcd lease (or none), and deletes another; what it hangs on, if they held.
    async fn put_if(
        &self,
        conditions: impl Into<Vec<Compare>>,
        deleted: Option<String>,
        (key, value): (&str, &str),
        ttl: i64,
    ) -> Result<Option<Held>, StoreError> {
        let mut client = self.client();
        let lease_id = match ttl {
            0 => 0,
            ttl => client.lease_grant(ttl, None).await.map_err(|e| unavailable(&e))?.id(),
        };
        let options = PutOptions::new().with_lease(lease_id);
        let delete = deleted.map(|key| TxnOp::delete(key, None));
        let steps: Vec<TxnOp> = delete.into_iter().chain([TxnOp::put(key, value, Some(options))]).collect();
        let txn = Txn::new().when(conditions).and_then(steps);
        let answer = client.txn(txn).await.map_err(|e| unavailable(&e))?;
        if !answer.succeeded() {
            self.forget(lease_id).await;
            return Ok(None);
        }
        let mod_revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        Ok(Some(Held { mod_revision, lease_id }))
    }
}

#[async_trait]
impl LeaseStore for Etcd {
    async fn config(&self) -> Result<Option<String>, StoreError> {
        let answer = self.client().get(self.config.as_str(), None).await.map_err(|e| unavailable(&e))?;
        Ok(answer.kvs().first().map(|kv| String::from_utf8_lossy(kv.value()).into_owned()))
    }

    async fn list(&self) -> Result<Snapshot, StoreError> {
        let options = GetOptions::new().with_prefix();
        let mut client = self.client().kv_client().max_decoding_message_size(LONGEST_LIST);
        let answer = client.get(self.subnets.as_str(), Some(options)).await.map_err(|e| unavailable(&e))?;
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        Ok(Snapshot { records: answer.kvs().iter().filter_map(|kv| self.record(kv)).collect(), revision })
    }

    async fn watch(&self, behind: i64) -> Result<Events, StoreError> {
        let options = WatchOptions::new().with_prefix().with_start_revision(behind + 1);
        let mut client = self.client().watch_client().max_decoding_message_size(LONGEST_LIST);
        let answer = client.watch(self.subnets.as_str(), Some(options)).await;
        let stream = answer.map_err(|e| unavailable(&e))?;
        let etcd = self.clone();
        Ok(stream
            .map(move |item| {
                let response = item.map_err(|e| unavailable(&e))?;
                if response.compact_revision() > 0 {
                    return Err(StoreError::Compacted);
                }
                if response.canceled() {
                    return Err(StoreError::Unavailable(format!(
                        "etcd: the watch was ended: {}",
                        response.cancel_reason()
                    )));
                }
                let revision = response.header().map_or(behind, etcd_client::ResponseHeader::revision);
                let events = response.events().iter().filter_map(|event| {
                    let record = etcd.record(event.kv()?)?;
                    Some(match event.event_type() {
                        EventType::Put => Event::Put(record),
                        EventType::Delete => Event::Delete(record.key),
                    })
                });
                Ok((events.collect(), revision))
            })
            .boxed())
    }

    async fn create(&self, key: &str, value: &str, ttl: i64) -> Result<Option<Held>, StoreError> {
        let key = format!("{}{key}", self.subnets);
        let absent = Compare::version(key.as_str(), CompareOp::Equal, 0);
        self.put_if([absent], None, (&key, value), ttl).await
    }

    async fn renew(&self, key: &str, value: &str, seen: i64, ttl: i64) -> Result<Option<Held>, StoreError> {
        let key = format!("{}{key}", self.subnets);
        let unchanged = Compare::mod_revision(key.as_str(), CompareOp::Equal, seen);
        self.put_if([unchanged], None, (&key, value), ttl).await
    }

    async fn replace(
        &self,
        (old, seen): (&str, i64),
        key: &str,
        value: &str,
        ttl: i64,
    ) -> Result<Option<Held>, StoreError> {
        if old == key {
            // etcd refuses two writes of one key in a transaction.
            return Ok(None);
        }
        let (old, key) = (format!("{}{old}", self.subnets), format!("{}{key}", self.subnets));
        let unchanged = Compare::mod_revision(old.as_str(), CompareOp::Equal, seen);
        let absent = Compare::version(key.as_str(), CompareOp::Equal, 0);
        self.put_if([unchanged, absent], Some(old), (&key, value), ttl).await
    }

    async fn mark(&self, key: &str, value: &str, seen: i64) -> Result<Option<i64>, StoreError> {
        let key = format!("{}{key}", self.subnets);
        let unchanged = Compare::mod_revision(key.as_str(), CompareOp::Equal, seen);
        let options = PutOptions::new().with_ignore_lease();
        let txn = Txn::new().when([unchanged]).and_then([TxnOp::put(key, value, Some(options))]);
        let answer = self.client().txn(txn).await.map_err(|e| unavailable(&e))?;
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        Ok(answer.succeeded().then_some(revision))
    }

    async fn forget(&self, lease_id: i64) {
        if lease_id != 0 {
            // If it can't be given back now it ends by itself.
            let _ = self.client().lease_revoke(lease_id).await;
        }
    }

    async fn reconnect(&self) {
        match client(&self.access).await {
            Ok(client) => self.client.store(Arc::new(client)),
            Err(error) => tracing::warn!("cannot connect anew: {error}"),
        }
    }
}

/// A client with a connection of its own.
async fn client(access: &Access) -> Result<Client, StoreError> {
    let mut options = ConnectOptions::new()
        .with_timeout(TIMEOUT)
        .with_connect_timeout(TIMEOUT)
        .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
        .with_keep_alive_while_idle(true);
    if access.ca.is_some() || access.identity.is_some() {
        let mut tls = TlsOptions::new();
        if let Some(ca) = &access.ca {
            tls = tls.ca_certificate(Certificate::from_pem(ca));
        }
        if let Some((certificate, key)) = &access.identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        options = options.with_tls(tls);
    }
    if let Some((user, password)) = &access.user {
        options = options.with_user(user, password);
    }
    Client::connect(&access.endpoints, Some(options)).await.map_err(|e| unavailable(&e))
}

fn unavailable(error: &etcd_client::Error) -> StoreError {
    let text = error.to_string();
    if text.contains("required revision has been compacted") {
        StoreError::Compacted
    } else {
        StoreError::Unavailable(format!("etcd: {text}"))
    }
}
