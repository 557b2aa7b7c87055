//! One file of the log: created whole, filled with zeros ahead of the records, appended, read back.
//!
//! The zeros are worth their writing: a sync of bytes that the file already has need not touch the file system's own
//! journal.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::record::{self, Found};
use super::{Sequence, segment_path, sync_dir};
use crate::error::Error;

const MAGIC: &[u8; 8] = b"kubelog1";
/// Magic, first sequence, salt, checksum, padding.
const FILE_HEADER_LEN: usize = 32;
/// How far ahead of the records the file is filled.
const AHEAD: u64 = 1024 * 1024;

/// The segment that is appended to.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    file: File,
    salt: u64,
    next: Sequence,
    /// Where the next record goes.
    end: u64,
    /// How long the file is.
    filled: u64,
}

/// A segment as it was read.
#[derive(Debug)]
pub(super) struct Read {
    bytes: Vec<u8>,
    salt: u64,
    scan: record::Scan,
}

impl Read {
    /// The records' payloads with their offsets.
    pub(super) fn payloads(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.scan.records.iter().map(|&Found { offset, payload, length }| {
            (offset as u64, self.bytes.get(payload..payload + length).unwrap_or_default())
        })
    }

    pub(super) fn next_sequence(&self) -> Sequence {
        self.scan.next
    }

    pub(super) fn end(&self) -> u64 {
        self.scan.end as u64
    }
}

/// Reads a segment whose first record is `first`.
pub(super) fn read(path: &Path, first: Sequence) -> Result<Read, Error> {
    let bytes = fs::read(path).map_err(|error| Error::io("cannot read", path, &error))?;
    let damaged = |offset: usize, reason: String| Error::Damaged {
        file: path.to_owned(),
        offset: offset as u64,
        reason,
    };
    let salt = parse_header(&bytes, first).map_err(|reason| damaged(0, reason.to_owned()))?;
    let scan = record::scan(&bytes, FILE_HEADER_LEN, salt, first);
    let scan = scan.map_err(|damage| damaged(damage.offset, damage.reason))?;
    if scan.torn {
        tracing::info!(file = %path.display(), offset = scan.end, "a record was cut off; it is dropped");
    }
    Ok(Read { bytes, salt, scan })
}

impl Segment {
    /// A new segment whose first record will be `first`. Until the rename it does not exist.
    pub(super) fn create(dir: &Path, first: Sequence) -> Result<Self, Error> {
        let path = segment_path(dir, first);
        let unfinished = path.with_extension("log.new");
        let salt = rand::random();
        let failed = |error: std::io::Error| Error::io("cannot create", &unfinished, &error);
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&unfinished);
        let file = file.map_err(failed)?;
        file.write_all_at(&file_header(first, salt), 0).map_err(failed)?;
        let end = FILE_HEADER_LEN as u64;
        let mut segment = Segment { path, file, salt, next: first, end, filled: end };
        segment.reserve()?;
        segment.sync()?;
        fs::rename(&unfinished, &segment.path).map_err(failed)?;
        sync_dir(dir)?;
        Ok(segment)
    }

    /// Goes on behind the last whole record of a segment that was read.
    pub(super) fn reopen(path: PathBuf, read: &Read) -> Result<Self, Error> {
        let file = File::options().read(true).write(true).open(&path);
        let file = file.map_err(|error| Error::io("cannot open", &path, &error))?;
        let end = read.end();
        let mut segment = Segment { path, file, salt: read.salt, next: read.scan.next, end, filled: end };
        // Also without a torn record: a seal stands here.
        segment.cut()?;
        segment.sync()?;
        Ok(segment)
    }

    pub(super) fn next_sequence(&self) -> Sequence {
        self.next
    }

    /// Fills the file ahead of the records.
    pub(super) fn reserve(&mut self) -> Result<(), Error> {
        if self.filled >= self.end + AHEAD / 2 {
            return Ok(());
        }
        let zeros = vec![0; AHEAD as usize];
        match self.file.write_all_at(&zeros, self.filled) {
            Ok(()) => {
                self.filled += AHEAD;
                Ok(())
            }
            Err(error) => {
                // What was filled before stays: deletions and compactions live on it.
                let _ = self.file.set_len(self.filled);
                Err(Error::io("cannot extend", &self.path, &error))
            }
        }
    }

    /// Writes one record; the bytes that it takes.
    pub(super) fn append(&mut self, payload: &[u8]) -> Result<u64, Error> {
        let frame = record::frame(self.salt, self.next, payload);
        if let Err(error) = self.file.write_all_at(&frame, self.end) {
            let error = Error::io("cannot append to", &self.path, &error);
            // A part of the record may stand there; if it cannot be removed, nothing may follow it.
            return Err(self.cut().map_or_else(|error| Error::Stopped(error.to_string()), |()| error));
        }
        let length = frame.len() as u64;
        self.end += length;
        self.filled = self.filled.max(self.end);
        self.next += 1;
        Ok(length)
    }

    pub(super) fn sync(&mut self) -> Result<(), Error> {
        self.file.sync_data().map_err(|error| {
            Error::Stopped(format!(
                "a sync of {} failed ({error}): what was acknowledged before is safe, nothing more is written; \
                 look at the disk, then start again",
                self.path.display()
            ))
        })
    }

    /// Marks the last record as acknowledged. The mark is overwritten by the next record and never waited for.
    pub(super) fn seal(&mut self) {
        if self.next > 1 {
            let seal = record::seal(self.salt, self.next - 1);
            if self.file.write_all_at(&seal, self.end).is_ok() {
                self.filled = self.filled.max(self.end + seal.len() as u64);
            }
        }
    }

    /// Removes everything behind the last record.
    fn cut(&mut self) -> Result<(), Error> {
        let cut = self.file.set_len(self.end);
        cut.map_err(|error| Error::io("cannot shorten", &self.path, &error))?;
        self.filled = self.end;
        Ok(())
    }
}

fn file_header(first: Sequence, salt: u64) -> Vec<u8> {
    let mut header = Vec::with_capacity(FILE_HEADER_LEN);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&first.to_le_bytes());
    header.extend_from_slice(&salt.to_le_bytes());
    let checksum = record::checksum(salt, &header);
    header.extend_from_slice(&checksum.to_le_bytes());
    header.resize(FILE_HEADER_LEN, 0);
    header
}

fn parse_header(bytes: &[u8], first: Sequence) -> Result<u64, &'static str> {
    let header: &[u8; FILE_HEADER_LEN] = bytes.first_chunk().ok_or("its header is cut off")?;
    if !header.starts_with(MAGIC) {
        return Err("it is no segment of this log");
    }
    let salt = header.get(16..).and_then(<[u8]>::first_chunk).map(|salt| u64::from_le_bytes(*salt));
    let salt = salt.ok_or("its header is cut off")?;
    if *header == file_header(first, salt)[..] { Ok(salt) } else { Err("its header is wrong") }
}
