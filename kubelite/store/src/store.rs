//! The store as its users hold it: a handle that can be cloned, with one method per word of etcd's API.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, Semaphore, oneshot};

use crate::error::Error;
use crate::lease::LeaseInfo;
use crate::log::Log;
use crate::request::{
    Compare, Comparison, DeleteRequest, DeleteResponse, Operation, Outcome, PutRequest, RangeRequest,
    RangeResponse, Target, TxnRequest, TxnResponse,
};
use crate::state::{Command, Reply, State};
use crate::txn;
use crate::types::{KeyRange, KeyValue, LeaseId, Revision};
use crate::watch::{Hub, WatchRequest, Watcher};
use crate::writer::{self, Job};

/// How many writes wait at the most; further callers wait for a place.
const WRITE_QUEUE: usize = 4096;
/// The longest request, in bytes of keys and values: etcd's default.
pub const MAX_REQUEST_BYTES: usize = 3 * 512 * 1024;

/// How a store is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The least bytes of log after which a snapshot is taken and the log before it removed.
    pub snapshot_after: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options { snapshot_after: crate::log::SNAPSHOT_AFTER }
    }
}

/// Numbers about a running store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// The newest revision.
    pub revision: Revision,
    /// The oldest revision that can be read.
    pub compacted: Revision,
    /// Keys that exist or of which the history knows.
    pub keys: usize,
    /// Bytes of keys and values, with their history.
    pub bytes: u64,
    /// Bytes of log since the last snapshot.
    pub log_bytes: u64,
    /// Leases that run.
    pub leases: usize,
    /// Watches that run.
    pub watchers: usize,
}

/// A running store. Clones share it; it closes when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
    /// Taken on drop, so that the writer thread sees the end of its queue.
    jobs: Mutex<Option<Sender<Job>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What the writer, the readers and the watchers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) state: RwLock<State>,
    pub(crate) hub: Hub,
    /// Bytes in the log since the last snapshot.
    pub(crate) log_bytes: AtomicU64,
    /// Why nothing is written any more.
    stopped: OnceLock<Error>,
}

impl Shared {
    fn new(state: State) -> Self {
        let hub = Hub::new(state.durable());
        Shared { state: RwLock::new(state), hub, log_bytes: AtomicU64::new(0), stopped: OnceLock::new() }
    }

    /// The reason if the store has stopped.
    pub(crate) fn alive(&self) -> Result<(), Error> {
        self.stopped.get().map_or(Ok(()), |reason| Err(reason.clone()))
    }

    /// From now on nothing is written any more; the first reason counts.
    pub(crate) fn stop(&self, reason: Error) {
        let _ = self.stopped.set(reason);
        self.hub.wake_all();
    }
}

impl Store {
    /// Opens the store in `dir`, or makes an empty one there. It reads the log back before it returns.
    ///
    /// # Errors
    /// [`Error::InUse`] if another process has the directory, [`Error::Damaged`] if a file is not what was written,
    /// [`Error::Io`] or [`Error::NoSpace`] if the directory cannot be used.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Self, Error> {
        let (log, state) = Log::open(dir.as_ref(), options.snapshot_after, Instant::now())?;
        Store::start(Some(log), state)
    }

    /// A store without a disk: for tests, and for everything that may be lost.
    pub fn memory() -> Result<Self, Error> {
        Store::start(None, State::new())
    }

    fn start(log: Option<Log>, state: State) -> Result<Self, Error> {
        let shared = Arc::new(Shared::new(state));
        let (sender, receiver) = mpsc::channel();
        let for_writer = shared.clone();
        let spawned = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer::run(&for_writer, log, &receiver));
        let writer = spawned.map_err(|error| Error::Stopped(format!("cannot start the writer: {error}")))?;
        let places = Arc::new(Semaphore::new(WRITE_QUEUE));
        let inner =
            Inner { shared, places, jobs: Mutex::new(Some(sender)), writer: Mutex::new(Some(writer)) };
        Ok(Store { inner: Arc::new(inner) })
    }

    /// The newest revision that is on disk.
    pub fn revision(&self) -> Revision {
        self.inner.shared.state.read().durable()
    }

    /// The oldest revision that can still be read.
    pub fn compacted(&self) -> Revision {
        self.inner.shared.state.read().mvcc.compacted
    }

    /// Numbers for a status page; it looks at every key.
    pub fn status(&self) -> Status {
        let shared = &self.inner.shared;
        let state = shared.state.read();
        Status {
            revision: state.durable(),
            compacted: state.mvcc.compacted,
            keys: state.mvcc.keys.len(),
            bytes: state.mvcc.bytes(),
            log_bytes: shared.log_bytes.load(Ordering::Relaxed),
            leases: state.leases.all().len(),
            watchers: shared.hub.len(),
        }
    }

    /// Reads a range of keys.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Error> {
        if request.range.start().is_empty() && request.range.is_single() {
            return Err(Error::EmptyKey);
        }
        self.inner.shared.state.read().range(request)
    }

    /// Reads one key.
    pub fn get(&self, key: &[u8]) -> Option<KeyValue> {
        let state = self.inner.shared.state.read();
        state.mvcc.get(key, state.durable())
    }

    /// Decides and executes a transaction; it is on disk when this returns.
    pub async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Error> {
        txn::validate(&request)?;
        if txn::weight(&request) > MAX_REQUEST_BYTES {
            return Err(Error::TooLarge);
        }
        if request.is_read_only() {
            return self.inner.shared.state.read().read(request);
        }
        match self.submit(Command::Txn(request)).await? {
            Reply::Txn(response) => Ok(response),
            Reply::Done(revision) => Ok(TxnResponse { revision, ..TxnResponse::default() }),
        }
    }

    /// Writes one key; what stood there before, if it was asked for, and the new revision.
    pub async fn put(&self, request: PutRequest) -> Result<(Option<KeyValue>, Revision), Error> {
        let mut response = self.txn(TxnRequest::of(vec![Operation::Put(request)])).await?;
        match response.outcomes.pop() {
            Some(Outcome::Put(previous)) => Ok((previous, response.revision)),
            _ => Ok((None, response.revision)),
        }
    }

    /// Deletes a range of keys; the store's revision afterwards.
    pub async fn delete(&self, request: DeleteRequest) -> Result<(DeleteResponse, Revision), Error> {
        let mut response = self.txn(TxnRequest::of(vec![Operation::Delete(request)])).await?;
        match response.outcomes.pop() {
            Some(Outcome::Delete(deleted)) => Ok((deleted, response.revision)),
            _ => Ok((DeleteResponse::default(), response.revision)),
        }
    }

    /// Writes a key unless it is there already; true if it was written.
    pub async fn put_if_absent(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<bool, Error> {
        let put = PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() };
        let absent = Compare {
            range: KeyRange::key(put.key.clone()),
            target: Target::Version(0),
            comparison: Comparison::Equal,
        };
        let request =
            TxnRequest { compare: vec![absent], success: vec![Operation::Put(put)], failure: Vec::new() };
        Ok(self.txn(request).await?.succeeded)
    }

    /// Forgets the history below `revision`.
    pub async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.submit(Command::Compact { revision }).await.map(|_| ())
    }

    /// Watches a range of keys.
    pub fn watch(&self, request: WatchRequest) -> Watcher {
        Watcher::new(self.inner.shared.clone(), request, Arc::new(Notify::new()), true)
    }

    /// Watches a range of keys; `wake` is notified when [`Watcher::poll`] has something, which may be shared by many.
    pub(crate) fn watch_with(&self, request: WatchRequest, wake: Arc<Notify>) -> Watcher {
        Watcher::new(self.inner.shared.clone(), request, wake, false)
    }

    /// A checksum over what stands at `revision` (0: now), and that revision.
    pub fn hash(&self, revision: Revision) -> Result<(u32, Revision), Error> {
        let state = self.inner.shared.state.read();
        let revision = state.mvcc.readable(revision, state.durable())?;
        Ok((state.mvcc.hash(revision), revision))
    }

    /// Why nothing is written any more, if that is so.
    pub fn trouble(&self) -> Option<String> {
        self.inner.shared.alive().err().map(|error| error.to_string())
    }

    /// Makes a lease of `ttl` seconds (at least one); with `id` 0 the store chooses a number.
    pub async fn grant(&self, id: LeaseId, ttl: i64) -> Result<LeaseId, Error> {
        let (id, ttl) = (if id == 0 { self.free_lease_id() } else { id }, ttl.max(1));
        self.submit(Command::Grant { id, ttl }).await.map(|_| id)
    }

    /// Ends a lease and deletes the keys that hang on it, in one revision.
    pub async fn revoke(&self, id: LeaseId) -> Result<Revision, Error> {
        match self.submit(Command::Revoke { id }).await? {
            Reply::Done(revision) => Ok(revision),
            Reply::Txn(response) => Ok(response.revision),
        }
    }

    /// Begins a lease's time to live anew; the seconds it has.
    pub fn keep_alive(&self, id: LeaseId) -> Result<i64, Error> {
        self.inner.shared.alive()?;
        self.inner.shared.state.write().leases.keep_alive(id, Instant::now())
    }

    /// A lease as it stands; none if there is no such lease.
    pub fn lease(&self, id: LeaseId) -> Option<LeaseInfo> {
        self.inner.shared.state.read().leases.info(id, Instant::now())
    }

    /// The numbers of all leases.
    pub fn leases(&self) -> Vec<LeaseId> {
        self.inner.shared.state.read().leases.all().into_keys().collect()
    }

    fn free_lease_id(&self) -> LeaseId {
        let state = self.inner.shared.state.read();
        loop {
            let id = i64::from_be_bytes(rand::random()) & LeaseId::MAX;
            if id != 0 && !state.leases.contains(id) {
                return id;
            }
        }
    }

    async fn submit(&self, command: Command) -> Result<Reply, Error> {
        self.inner.shared.alive()?;
        let place = self.inner.places.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
        let (answer, answered) = oneshot::channel();
        {
            let jobs = self.inner.jobs.lock();
            let jobs = jobs.as_ref().ok_or(Error::Closed)?;
            jobs.send(Job { command, answer, _place: place }).map_err(|_| Error::Closed)?;
        }
        answered.await.map_err(|_| Error::Closed)?
    }
}

impl Drop for Inner {
    /// Waits until the writer has ended, so that the data directory is free when the last handle is gone.
    fn drop(&mut self) {
        drop(self.jobs.lock().take());
        if let Some(writer) = self.writer.lock().take() {
            let _ = writer.join();
        }
    }
}
