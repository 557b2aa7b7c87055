//! Snapshots: the whole state in one file, with a checksum over all of it. A snapshot has its name only once it is
//! whole and synced.
//!
//! ```text
//!  magic · sequence, revision, compacted · leases (id, ttl) · keys with their versions · keys of each revision · crc
//! ```

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;

use super::codec::{Reader, put_bytes, put_count, put_number};
use super::{Sequence, snapshot_path, sync_dir};
use crate::error::Error;
use crate::lease::Leases;
use crate::mvcc::{Mvcc, Version};
use crate::state::State;

const MAGIC: &[u8; 8] = b"kubesnp1";
/// How much is encoded before it is written.
const CHUNK: usize = 64 * 1024;

/// Writes the state that all records before `sequence` lead to; the length of the file.
pub(super) fn write(dir: &Path, sequence: Sequence, state: &State) -> Result<u64, Error> {
    let path = snapshot_path(dir, sequence);
    let unfinished = path.with_extension("snapshot.new");
    let failed = |error: std::io::Error| Error::io("cannot write", &unfinished, &error);
    let mut out = Checked::create(&unfinished).map_err(failed)?;
    write_state(&mut out, sequence, state).map_err(failed)?;
    let bytes = out.finish().map_err(failed)?;
    fs::rename(&unfinished, &path).map_err(failed)?;
    sync_dir(dir)?;
    Ok(bytes)
}

/// A file whose checksum is made on the way.
struct Checked {
    file: BufWriter<File>,
    hasher: crc32fast::Hasher,
    chunk: Vec<u8>,
    bytes: u64,
}

impl Checked {
    fn create(path: &Path) -> std::io::Result<Self> {
        let file = BufWriter::new(File::create(path)?);
        Ok(Checked { file, hasher: crc32fast::Hasher::new(), chunk: Vec::new(), bytes: 0 })
    }

    fn flush_chunk(&mut self, least: usize) -> std::io::Result<()> {
        if self.chunk.len() >= least {
            self.hasher.update(&self.chunk);
            self.file.write_all(&self.chunk)?;
            self.bytes += self.chunk.len() as u64;
            self.chunk.clear();
        }
        Ok(())
    }

    fn finish(mut self) -> std::io::Result<u64> {
        self.flush_chunk(0)?;
        self.file.write_all(&self.hasher.clone().finalize().to_le_bytes())?;
        self.file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        Ok(self.bytes + 4)
    }
}

fn write_state(out: &mut Checked, sequence: Sequence, state: &State) -> std::io::Result<()> {
    let State { mvcc, leases, .. } = state;
    out.chunk.extend_from_slice(MAGIC);
    put_number(&mut out.chunk, sequence.cast_signed());
    put_number(&mut out.chunk, mvcc.revision);
    put_number(&mut out.chunk, mvcc.compacted);
    let leases = leases.all();
    put_count(&mut out.chunk, leases.len());
    for (id, ttl) in leases {
        put_number(&mut out.chunk, id);
        put_number(&mut out.chunk, ttl);
    }
    put_count(&mut out.chunk, mvcc.keys.len());
    for (key, versions) in &mvcc.keys {
        put_bytes(&mut out.chunk, key);
        put_count(&mut out.chunk, versions.len());
        for version in versions {
            put_version(&mut out.chunk, version);
            out.flush_chunk(CHUNK)?;
        }
    }
    put_count(&mut out.chunk, mvcc.commits.len());
    for keys in &mvcc.commits {
        put_count(&mut out.chunk, keys.len());
        keys.iter().for_each(|key| put_bytes(&mut out.chunk, key));
        out.flush_chunk(CHUNK)?;
    }
    Ok(())
}

fn put_version(out: &mut Vec<u8>, version: &Version) {
    put_number(out, version.mod_revision);
    put_number(out, version.create_revision);
    put_number(out, version.version);
    put_number(out, version.lease);
    match &version.value {
        None => out.push(0),
        Some(value) => {
            out.push(1);
            put_bytes(out, value);
        }
    }
}

/// Reads a snapshot back; its leases begin `now`.
pub(super) fn read(path: &Path, sequence: Sequence, now: Instant) -> Result<State, Error> {
    let bytes = fs::read(path).map_err(|error| Error::io("cannot read", path, &error))?;
    let damaged = |reason: String| Error::Damaged { file: path.to_owned(), offset: 0, reason };
    let Some((content, checksum)) = bytes.split_last_chunk::<4>() else {
        return Err(damaged("it is cut off".to_owned()));
    };
    if crc32fast::hash(content) != u32::from_le_bytes(*checksum) {
        return Err(damaged("its checksum does not fit".to_owned()));
    }
    let content = content.strip_prefix(MAGIC).ok_or_else(|| damaged("it is no snapshot".to_owned()))?;
    read_state(content, sequence, now).map_err(damaged)
}

fn read_state(content: &[u8], sequence: Sequence, now: Instant) -> Result<State, String> {
    let mut reader = Reader::new(content);
    if reader.number()?.cast_unsigned() != sequence {
        return Err("it belongs to another place in the log".to_owned());
    }
    let mut mvcc = Mvcc::new();
    mvcc.revision = reader.number()?;
    mvcc.compacted = reader.number()?;
    let mut leases = Leases::default();
    for _ in 0..reader.count()? {
        leases.grant(reader.number()?, reader.number()?, now);
    }
    for _ in 0..reader.count()? {
        let key = reader.bytes()?;
        let versions = (0..reader.count()?).map(|_| version(&mut reader)).collect::<Result<_, _>>()?;
        mvcc.keys.insert(key, versions);
    }
    for _ in 0..reader.count()? {
        let keys = (0..reader.count()?).map(|_| shared_key(&mut reader, &mvcc)).collect::<Result<_, _>>()?;
        mvcc.commits.push_back(keys);
    }
    if !reader.is_empty() {
        return Err("it is longer than it should be".to_owned());
    }
    let mut state = State::restored(mvcc, leases);
    state.attach_all();
    Ok(state)
}

fn version(reader: &mut Reader<'_>) -> Result<Version, String> {
    Ok(Version {
        mod_revision: reader.number()?,
        create_revision: reader.number()?,
        version: reader.number()?,
        lease: reader.number()?,
        value: match reader.byte()? {
            0 => None,
            _ => Some(reader.bytes()?),
        },
    })
}

/// The key with the bytes that the map has already.
fn shared_key(reader: &mut Reader<'_>, mvcc: &Mvcc) -> Result<Bytes, String> {
    let key = reader.bytes()?;
    Ok(mvcc.keys.get_key_value(&key).map_or(key, |(known, _)| known.clone()))
}
