//! The writer thread: takes what waits in the queue, applies it, and answers once it is on disk.
//!
//! It is the only place where the state changes. It sleeps until there is a command or a lease ends; an idle store
//! does not tick.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::error::Error;
use crate::state::{Command, Entry, Reply};
use crate::store::Shared;

/// The most commands that share one sync of the log.
const MAX_GROUP: usize = 512;

/// A command with the way back to who sent it.
pub(crate) struct Job {
    pub(crate) command: Command,
    pub(crate) answer: oneshot::Sender<Result<Reply, Error>>,
    /// The place in the queue; it becomes free when the answer is sent.
    pub(crate) _place: OwnedSemaphorePermit,
}

type Answers = Vec<(oneshot::Sender<Result<Reply, Error>>, Result<Reply, Error>, OwnedSemaphorePermit)>;

/// Runs until every sender of commands is gone.
pub(crate) fn run(shared: &Arc<Shared>, jobs: &Receiver<Job>) {
    while let Some(first) = wait(shared, jobs) {
        let mut group: Vec<Job> = first.into_iter().collect();
        group.extend(jobs.try_iter().take(MAX_GROUP - 1));
        write(shared, group);
    }
    shared.stop(Error::Closed);
}

/// The next command; `Some(None)` if a lease has ended, and none if nobody is left who could send one.
fn wait(shared: &Shared, jobs: &Receiver<Job>) -> Option<Option<Job>> {
    let Some(ends) = shared.state.read().leases.next_end() else {
        return jobs.recv().ok().map(Some);
    };
    match jobs.recv_timeout(ends.saturating_duration_since(Instant::now())) {
        Ok(job) => Some(Some(job)),
        Err(RecvTimeoutError::Timeout) => Some(None),
        Err(RecvTimeoutError::Disconnected) => None,
    }
}

/// One group: apply, log, publish, answer.
fn write(shared: &Shared, group: Vec<Job>) {
    if let Err(stopped) = shared.alive() {
        for job in group {
            let _ = job.answer.send(Err(stopped.clone()));
        }
        return;
    }
    let now = Instant::now();
    let mut entries = Vec::new();
    let answers = apply(shared, group, now, &mut entries);
    publish(shared, &entries);
    for (answer, result, _place) in answers {
        // Whoever does not wait any more does not need the answer.
        let _ = answer.send(result);
    }
}

/// Applies the group to the state, where readers do not see it yet.
fn apply(shared: &Shared, group: Vec<Job>, now: Instant, entries: &mut Vec<Entry>) -> Answers {
    let mut state = shared.state.write();
    let answers = group.into_iter().map(|Job { command, answer, _place }| {
        let result = state.apply(command, now, entries);
        (answer, result, _place)
    });
    let answers = answers.collect();
    if state.leases.ended(now).is_some()
        && let Err(error) = state.apply(Command::Expire, now, entries)
    {
        tracing::error!(%error, "a lease that ended cannot be removed");
    }
    answers
}

/// Makes what was applied visible to readers, and wakes the watchers.
fn publish(shared: &Shared, entries: &[Entry]) {
    if entries.is_empty() {
        return;
    }
    let before = shared.state.read().durable();
    shared.state.write().publish();
    let state = shared.state.read();
    let revisions = before + 1..=state.durable();
    shared.hub.publish(state.durable(), revisions.map(|revision| (revision, state.mvcc.keys_of(revision))));
}
