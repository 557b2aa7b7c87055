//! The write-ahead log: what makes an acknowledged write outlive the process and the power.
//!
//! ```text
//!  data directory      lock                       held by flock as long as the store is open
//!                      <seq>.snapshot             the state before record <seq>, written whole or not at all
//!                      <seq>.log  <seq'>.log      records from <seq> on; only the last segment grows
//! ```
//!
//! One group of commands is one record, one write and one `fdatasync`. A record that was cut off by a crash is the
//! last one and was never acknowledged: it is dropped on open. Anything else that does not add up is damage, and the
//! store refuses to open rather than to serve a state that never was.
//!
//! When enough was written since the last snapshot, a new segment begins and a thread writes the state as of its
//! beginning to a new snapshot; after that the older files go.

mod codec;
mod record;
mod segment;
mod snapshot;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::error::Error;
use crate::state::{Entry, State};
use segment::Segment;

/// The least that is written to the log before a snapshot is worth its cost; with a state larger than this, as much
/// as the last snapshot.
pub(crate) const SNAPSHOT_AFTER: u64 = 16 * 1024 * 1024;

/// The number of a record in the log, from 1 on.
type Sequence = u64;

/// The log of an open store; the writer thread owns it.
#[derive(Debug)]
pub(crate) struct Log {
    dir: PathBuf,
    /// Its lock keeps every other process out.
    _lock: File,
    segment: Segment,
    /// Bytes in the log since the last snapshot.
    since_snapshot: u64,
    snapshot_after: u64,
    snapshot: Option<JoinHandle<Result<u64, Error>>>,
}

impl Log {
    /// Opens or creates the log in `dir`, and reads the state back. `now` is when the leases begin anew.
    pub(crate) fn open(dir: &Path, snapshot_after: u64, now: Instant) -> Result<(Self, State), Error> {
        fs::create_dir_all(dir).map_err(|error| Error::io("cannot create", dir, &error))?;
        let lock = lock(dir)?;
        let files = Files::list(dir)?;
        let (mut state, start) = match files.snapshots.last() {
            Some(&sequence) => (snapshot::read(&snapshot_path(dir, sequence), sequence, now)?, sequence),
            None => (State::new(), 1),
        };
        let (segment, since_snapshot) = replay(dir, &files, start, &mut state, now)?;
        files.remove_before(dir, start);
        let snapshot_after = snapshot_after.max(1);
        Ok((
            Log { dir: dir.to_owned(), _lock: lock, segment, since_snapshot, snapshot_after, snapshot: None },
            state,
        ))
    }

    /// Makes room for coming records; [`Error::NoSpace`] if the disk has none.
    pub(crate) fn reserve(&mut self) -> Result<(), Error> {
        self.segment.reserve()
    }

    /// Appends one record, not yet synced. After an error the log is as it was before.
    pub(crate) fn append(&mut self, entries: &[Entry]) -> Result<(), Error> {
        self.since_snapshot += self.segment.append(&codec::encode(entries))?;
        Ok(())
    }

    /// Waits until all records are on disk. After an error nothing is known about what is there, and nothing more
    /// may be acknowledged: a second try could succeed without having written what the first one lost.
    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        self.segment.sync()
    }

    /// Notes behind the last record that it was acknowledged, so that its damage can be told from a torn write.
    pub(crate) fn seal(&mut self) {
        self.segment.seal();
    }

    /// The bytes that the log has since the last snapshot.
    pub(crate) fn bytes(&self) -> u64 {
        self.since_snapshot
    }

    /// Begins a new segment and a snapshot of `state` if it is time; `state` holds exactly what was logged.
    pub(crate) fn rotate_if_due(&mut self, state: impl FnOnce() -> State) -> Result<(), Error> {
        self.collect_snapshot(false);
        if self.since_snapshot < self.snapshot_after || self.snapshot.is_some() {
            return Ok(());
        }
        let start = self.segment.next_sequence();
        // On a full disk this fails, and is tried again after as much again.
        self.snapshot_after += SNAPSHOT_AFTER;
        self.segment = Segment::create(&self.dir, start)?;
        self.snapshot_after -= SNAPSHOT_AFTER;
        self.since_snapshot = 0;
        let (dir, state) = (self.dir.clone(), state());
        let written = std::thread::Builder::new().name("store-snapshot".to_owned()).spawn(move || {
            let bytes = snapshot::write(&dir, start, &state)?;
            Files::list(&dir)?.remove_before(&dir, start);
            Ok(bytes)
        });
        self.snapshot = written.inspect_err(|error| tracing::warn!(%error, "no thread for a snapshot")).ok();
        Ok(())
    }

    fn collect_snapshot(&mut self, wait: bool) {
        let Some(snapshot) = self.snapshot.take_if(|snapshot| wait || snapshot.is_finished()) else { return };
        match snapshot.join() {
            Ok(Ok(bytes)) => self.snapshot_after = self.snapshot_after.max(bytes),
            Ok(Err(error)) => tracing::warn!(%error, "the snapshot failed; the log stays until the next one"),
            Err(_) => tracing::error!("the snapshot thread panicked; the log stays until the next one"),
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.collect_snapshot(true);
    }
}

/// Takes the directory for this process.
fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|error| Error::io("cannot open", &path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse(dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(Error::io("cannot lock", &path, &error)),
    }
}

/// Replays the segments from `start` on; the last one is returned for more.
fn replay(
    dir: &Path,
    files: &Files,
    start: Sequence,
    state: &mut State,
    now: Instant,
) -> Result<(Segment, u64), Error> {
    let segments: Vec<Sequence> = files.segments.iter().copied().filter(|&first| first >= start).collect();
    let (mut next, mut bytes) = (start, 0);
    for (index, &first) in segments.iter().enumerate() {
        let path = segment_path(dir, first);
        if first != next {
            let reason =
                format!("it begins with record {first}, but the files before it end before record {next}");
            return Err(Error::Damaged { file: path, offset: 0, reason });
        }
        let last = index + 1 == segments.len();
        let read = segment::read(&path, first)?;
        for (offset, payload) in read.payloads() {
            let damaged = |reason| Error::Damaged { file: path.clone(), offset, reason };
            for entry in codec::decode(payload).map_err(damaged)? {
                state.replay(entry, now);
            }
        }
        next = read.next_sequence();
        bytes += read.end();
        if last {
            return Ok((Segment::reopen(path, &read)?, bytes));
        }
    }
    if !files.snapshots.is_empty() || !files.segments.is_empty() {
        let reason = "the segment that begins here is missing".to_owned();
        return Err(Error::Damaged { file: segment_path(dir, start), offset: 0, reason });
    }
    Ok((Segment::create(dir, start)?, 0))
}

/// The store's files in a directory, by the sequence in their names, ascending.
#[derive(Debug, Default)]
struct Files {
    snapshots: Vec<Sequence>,
    segments: Vec<Sequence>,
    unfinished: Vec<PathBuf>,
}

impl Files {
    fn list(dir: &Path) -> Result<Self, Error> {
        let failed = |error: std::io::Error| Error::io("cannot list", dir, &error);
        let mut files = Files::default();
        for entry in fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match name.split_once('.') {
                Some((number, "log")) => files.segments.extend(parse_sequence(number)),
                Some((number, "snapshot")) => files.snapshots.extend(parse_sequence(number)),
                Some((_, "log.new" | "snapshot.new")) => files.unfinished.push(path),
                _ => {}
            }
        }
        files.snapshots.sort_unstable();
        files.segments.sort_unstable();
        Ok(files)
    }

    /// Removes what a snapshot at `start` made superfluous, and what a crash left half-written.
    fn remove_before(&self, dir: &Path, start: Sequence) {
        let old = |sequence: &&Sequence| **sequence < start;
        let snapshots = self.snapshots.iter().filter(old).map(|&sequence| snapshot_path(dir, sequence));
        let segments = self.segments.iter().filter(old).map(|&sequence| segment_path(dir, sequence));
        for path in self.unfinished.iter().cloned().chain(snapshots).chain(segments) {
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(file = %path.display(), %error, "cannot remove a superfluous file");
            }
        }
    }
}

fn parse_sequence(name: &str) -> Option<Sequence> {
    (name.len() == 16).then(|| Sequence::from_str_radix(name, 16).ok()).flatten()
}

fn segment_path(dir: &Path, sequence: Sequence) -> PathBuf {
    dir.join(format!("{sequence:016x}.log"))
}

fn snapshot_path(dir: &Path, sequence: Sequence) -> PathBuf {
    dir.join(format!("{sequence:016x}.snapshot"))
}

/// Makes a new name in the directory durable.
fn sync_dir(dir: &Path) -> Result<(), Error> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|error| Error::io("cannot sync", dir, &error))
}
