//! The writer thread: takes what waits in the queue, applies it, and answers once it is on disk.
//!
//! It is the only place where the state changes. It sleeps until there is a command or a lease ends; an idle store
//! does not tick.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::error::Error;
use crate::log::Log;
use crate::state::{Command, Entry, Reply};
use crate::store::Shared;

/// The most commands that share one sync of the log.
const MAX_GROUP: usize = 512;
/// The bytes of keys and values after which a group takes no further command.
const MAX_GROUP_BYTES: usize = 4 * 1024 * 1024;

/// A command with the way back to who sent it.
pub(crate) struct Job {
    pub(crate) command: Command,
    pub(crate) answer: oneshot::Sender<Result<Reply, Error>>,
    /// The place in the queue; it becomes free when the answer is sent.
    pub(crate) _place: OwnedSemaphorePermit,
}

/// An answer that is held back until the command is on disk.
struct Answer {
    to: oneshot::Sender<Result<Reply, Error>>,
    result: Result<Reply, Error>,
    _place: OwnedSemaphorePermit,
}

/// Runs until every sender of commands is gone.
pub(crate) fn run(shared: &Shared, mut log: Option<Log>, jobs: &Receiver<Job>) {
    while let Some(first) = wait(shared, jobs) {
        write(shared, log.as_mut(), gather(first, jobs));
    }
    shared.stop(Error::Closed);
}

/// The next command; `Some(None)` if a lease has ended, and none if nobody is left who could send one.
fn wait(shared: &Shared, jobs: &Receiver<Job>) -> Option<Option<Job>> {
    let next_end = shared.state.read().leases.next_end();
    let Some(ends) = next_end.filter(|_| shared.alive().is_ok()) else {
        return jobs.recv().ok().map(Some);
    };
    match jobs.recv_timeout(ends.saturating_duration_since(Instant::now())) {
        Ok(job) => Some(Some(job)),
        Err(RecvTimeoutError::Timeout) => Some(None),
        Err(RecvTimeoutError::Disconnected) => None,
    }
}

/// Takes what else waits, as far as one record should go.
fn gather(first: Option<Job>, jobs: &Receiver<Job>) -> Vec<Job> {
    let mut group: Vec<Job> = first.into_iter().collect();
    let mut bytes: usize = group.iter().map(|job| job.command.weight()).sum();
    while group.len() < MAX_GROUP && bytes < MAX_GROUP_BYTES {
        let Ok(job) = jobs.try_recv() else { break };
        bytes += job.command.weight();
        group.push(job);
    }
    group
}

/// One group: apply, log, publish, answer.
fn write(shared: &Shared, mut log: Option<&mut Log>, group: Vec<Job>) {
    let now = Instant::now();
    let mut entries = Vec::new();
    let room = shared.alive().and_then(|()| log.as_mut().map_or(Ok(()), |log| log.reserve()));
    let mut answers = apply(shared, group, room.err().as_ref(), now, &mut entries);
    match persist(log.as_deref_mut(), &entries) {
        Ok(()) => publish(shared, &entries),
        Err(error) => {
            if let Error::Stopped(_) = error {
                tracing::error!(%error, "the store stops");
                shared.stop(error.clone());
            }
            shared.state.write().rollback(&entries, now);
            answers.iter_mut().for_each(|answer| answer.result = Err(error.clone()));
        }
    }
    for Answer { to, result, _place } in answers {
        // Whoever does not wait any more does not need the answer.
        let _ = to.send(result);
    }
    if let Some(log) = log.filter(|_| !entries.is_empty() && shared.alive().is_ok()) {
        tidy(shared, log);
    }
}

/// Applies the group to the state, where readers do not see it yet. On a full disk only what frees some is
/// taken, and in any other trouble nothing.
fn apply(
    shared: &Shared,
    group: Vec<Job>,
    trouble: Option<&Error>,
    now: Instant,
    entries: &mut Vec<Entry>,
) -> Vec<Answer> {
    let mut state = shared.state.write();
    let answers = group.into_iter().map(|Job { command, answer, _place }| {
        let result = match trouble {
            Some(Error::NoSpace(_)) if !command.grows() => state.apply(command, now, entries),
            Some(error) => Err(error.clone()),
            None => state.apply(command, now, entries),
        };
        Answer { to: answer, result, _place }
    });
    let answers = answers.collect();
    let usable = matches!(trouble, None | Some(Error::NoSpace(_)));
    if usable
        && state.leases.ended(now).is_some()
        && let Err(error) = state.apply(Command::Expire, now, entries)
    {
        tracing::error!(%error, "a lease that ended cannot be removed");
    }
    answers
}

/// Brings the entries to the disk, if there is one.
fn persist(log: Option<&mut Log>, entries: &[Entry]) -> Result<(), Error> {
    let Some(log) = log.filter(|_| !entries.is_empty()) else { return Ok(()) };
    log.append(entries)?;
    log.sync()
}

/// Makes what was applied visible to readers, and wakes the watchers.
fn publish(shared: &Shared, entries: &[Entry]) {
    if entries.is_empty() {
        return;
    }
    // Under one lock, so that whoever reads a revision and then watches does not get that revision again.
    let mut state = shared.state.write();
    let before = state.durable();
    state.publish();
    let revisions = before + 1..=state.durable();
    shared.hub.publish(state.durable(), revisions.map(|revision| (revision, state.mvcc.keys_of(revision))));
}

/// What can be done after the answers: nobody waits for it.
fn tidy(shared: &Shared, log: &mut Log) {
    log.seal();
    if let Err(error) = log.rotate_if_due(|| shared.state.read().clone()) {
        tracing::warn!(%error, "no new segment; the log goes on in the old one");
    }
    shared.log_bytes.store(log.bytes(), Ordering::Relaxed);
}
