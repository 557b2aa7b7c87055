//! The whole state, and how a command changes it. Pure: no files, no tasks, no clock.
//!
//! The state runs ahead of the disk: a command is applied, logged, and only then published by [`State::publish`].
//! Readers read at [`State::durable`] and therefore never see what a crash could take back. If the log refuses a
//! batch, [`State::rollback`] undoes it.

use std::time::Instant;

use bytes::Bytes;

use crate::error::Error;
use crate::lease::Leases;
use crate::mvcc::Mvcc;
use crate::request::{RangeRequest, RangeResponse, TxnRequest, TxnResponse};
use crate::txn;
use crate::types::{Change, LeaseId, Revision};

/// What the writer is asked to do.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    /// Change keys.
    Txn(TxnRequest),
    /// Make a lease; its number was chosen by the caller.
    Grant { id: LeaseId, ttl: i64 },
    /// End a lease, and delete its keys.
    Revoke { id: LeaseId },
    /// End the leases whose time is over.
    Expire,
    /// Forget the history below a revision.
    Compact { revision: Revision },
}

impl Command {
    /// True if it can make the store larger; on a full disk only the others are taken.
    pub(crate) fn grows(&self) -> bool {
        match self {
            Command::Txn(request) => request.has_puts(),
            Command::Grant { .. } => true,
            Command::Revoke { .. } | Command::Expire | Command::Compact { .. } => false,
        }
    }

    /// About how many bytes the log will need for it.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Command::Txn(request) => txn::weight(request),
            _ => 0,
        }
    }
}

/// What a command led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Txn(TxnResponse),
    /// The store's revision afterwards.
    Done(Revision),
}

/// What the log keeps of a command: its effect. Replaying the entries of a log gives the same state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// One revision.
    Commit(Vec<Change>),
    /// A new lease.
    Grant { id: LeaseId, ttl: i64 },
    /// The end of a lease; if keys hung on it, one revision that deletes them.
    Revoke { id: LeaseId, ttl: i64 },
    /// History below the revision is forgotten.
    Compact { revision: Revision },
}

/// How many leases one `Expire` ends at the most; the writer comes again at once for the rest.
const MAX_EXPIRED: usize = 256;

/// Keys, leases, and how much of them is on disk.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) mvcc: Mvcc,
    pub(crate) leases: Leases,
    durable: Revision,
}

impl State {
    pub(crate) fn new() -> Self {
        State::restored(Mvcc::new(), Leases::default())
    }

    /// A state that was read from disk.
    pub(crate) fn restored(mvcc: Mvcc, leases: Leases) -> Self {
        let durable = mvcc.revision;
        State { mvcc, leases, durable }
    }

    /// The newest revision that is on disk: what readers see.
    pub(crate) fn durable(&self) -> Revision {
        self.durable
    }

    /// Everything that was applied is on disk now.
    pub(crate) fn publish(&mut self) {
        self.durable = self.mvcc.revision;
    }

    /// Reads a range at the durable revision.
    pub(crate) fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Error> {
        self.mvcc.readable(request.revision, self.durable)?;
        Ok(txn::range(&self.mvcc, request, self.durable))
    }

    /// A transaction without writes, at the durable revision.
    pub(crate) fn read(&self, request: TxnRequest) -> Result<TxnResponse, Error> {
        let decided = txn::decide(request, &self.mvcc, self.durable);
        txn::check(&decided, &self.mvcc, &self.leases, self.durable)?;
        Ok(txn::execute_reads(&decided, &self.mvcc, self.durable))
    }

    /// Applies one command. What has to be logged is appended to `entries`; a refused command changes nothing.
    pub(crate) fn apply(
        &mut self,
        command: Command,
        now: Instant,
        entries: &mut Vec<Entry>,
    ) -> Result<Reply, Error> {
        match command {
            Command::Txn(request) => return self.apply_txn(request, entries).map(Reply::Txn),
            Command::Grant { id, ttl } => {
                self.leases.may_grant(id, ttl)?;
                self.leases.grant(id, ttl, now);
                entries.push(Entry::Grant { id, ttl });
            }
            Command::Revoke { id } => self.apply_revoke(id, entries)?,
            Command::Expire => {
                for _ in 0..MAX_EXPIRED {
                    let Some(id) = self.leases.ended(now) else { break };
                    self.apply_revoke(id, entries)?;
                }
            }
            Command::Compact { revision } => {
                self.may_compact(revision)?;
                self.mvcc.compact(revision);
                entries.push(Entry::Compact { revision });
            }
        }
        Ok(Reply::Done(self.mvcc.revision))
    }

    fn apply_txn(&mut self, request: TxnRequest, entries: &mut Vec<Entry>) -> Result<TxnResponse, Error> {
        let current = self.mvcc.revision;
        let decided = txn::decide(request, &self.mvcc, current);
        txn::check(&decided, &self.mvcc, &self.leases, current)?;
        let old_leases = |state: &Self, key: &Bytes| state.mvcc.get(key, current).map_or(0, |kv| kv.lease);
        let mut changes = Vec::new();
        let mut response = txn::execute(decided, &mut self.mvcc, &mut changes);
        for change in &changes {
            let before = old_leases(self, change.key());
            let after = if let Change::Put { lease, .. } = change { *lease } else { 0 };
            self.leases.move_key(change.key(), before, after);
        }
        if !changes.is_empty() {
            self.mvcc.finish(changes.iter().map(|change| change.key().clone()).collect());
            entries.push(Entry::Commit(changes));
        }
        response.revision = self.mvcc.revision;
        Ok(response)
    }

    fn apply_revoke(&mut self, id: LeaseId, entries: &mut Vec<Entry>) -> Result<(), Error> {
        let ttl = self.leases.ttl(id).ok_or(Error::LeaseNotFound(id))?;
        self.revoke(id);
        entries.push(Entry::Revoke { id, ttl });
        Ok(())
    }

    fn revoke(&mut self, id: LeaseId) {
        let keys: Vec<Bytes> = self.leases.remove(id).into_iter().collect();
        for key in &keys {
            self.mvcc.change(&Change::Delete { key: key.clone() });
        }
        if !keys.is_empty() {
            self.mvcc.finish(keys);
        }
    }

    /// Only what is on disk may be compacted: readers must find something at the durable revision.
    fn may_compact(&self, revision: Revision) -> Result<(), Error> {
        if revision > self.durable {
            return Err(Error::FutureRevision { requested: revision, current: self.durable });
        }
        if revision <= self.mvcc.compacted {
            return Err(Error::Compacted { requested: revision, oldest: self.mvcc.compacted });
        }
        Ok(())
    }

    /// Does again what the log says was done; leases begin anew.
    pub(crate) fn replay(&mut self, entry: Entry, now: Instant) {
        match entry {
            Entry::Commit(changes) => {
                for change in &changes {
                    let before = self.mvcc.change(change).map_or(0, |kv| kv.lease);
                    let after = if let Change::Put { lease, .. } = change { *lease } else { 0 };
                    self.leases.move_key(change.key(), before, after);
                }
                self.mvcc.finish(changes.iter().map(|change| change.key().clone()).collect());
            }
            Entry::Grant { id, ttl } => self.leases.grant(id, ttl, now),
            Entry::Revoke { id, .. } => self.revoke(id),
            Entry::Compact { revision } => self.mvcc.compact(revision),
        }
        self.publish();
    }

    /// Takes back entries that were applied but could not be logged. A compaction stays: it only forgets.
    pub(crate) fn rollback(&mut self, entries: &[Entry], now: Instant) {
        self.mvcc.rollback(self.durable);
        for entry in entries.iter().rev() {
            match entry {
                Entry::Grant { id, .. } => drop(self.leases.remove(*id)),
                Entry::Revoke { id, ttl } => self.leases.grant(*id, *ttl, now),
                Entry::Commit(_) | Entry::Compact { .. } => {}
            }
        }
        self.attach_all();
    }

    /// Rebuilds which key hangs on which lease from the keys themselves.
    pub(crate) fn attach_all(&mut self) {
        self.leases.detach_all();
        for (key, versions) in &self.mvcc.keys {
            if let Some(version) = versions.last() {
                self.leases.move_key(key, 0, version.lease);
            }
        }
    }
}
