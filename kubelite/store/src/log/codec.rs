//! Entries as bytes: a tag, then numbers as LEB128 and byte strings with their length before them.
//!
//! Whether the bytes are those that were written is the record's matter (checksums); here a wrong byte is an error
//! all the same, never a panic.

use bytes::Bytes;

use crate::state::Entry;
use crate::types::Change;

const COMMIT: u8 = 1;
const GRANT: u8 = 2;
const REVOKE: u8 = 3;
const COMPACT: u8 = 4;
const PUT: u8 = 1;
const DELETE: u8 = 2;

/// Entries in a row.
pub(super) fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        match entry {
            Entry::Commit(changes) => {
                out.push(COMMIT);
                put_count(&mut out, changes.len());
                changes.iter().for_each(|change| put_change(&mut out, change));
            }
            Entry::Grant { id, ttl } => put_numbers(&mut out, GRANT, &[*id, *ttl]),
            Entry::Revoke { id, ttl } => put_numbers(&mut out, REVOKE, &[*id, *ttl]),
            Entry::Compact { revision } => put_numbers(&mut out, COMPACT, &[*revision]),
        }
    }
    out
}

/// The entries of one record, or what is wrong with them.
pub(super) fn decode(payload: &[u8]) -> Result<Vec<Entry>, String> {
    let mut reader = Reader::new(payload);
    let mut entries = Vec::new();
    while !reader.is_empty() {
        entries.push(match reader.byte()? {
            COMMIT => {
                let count = reader.count()?;
                Entry::Commit((0..count).map(|_| change(&mut reader)).collect::<Result<_, _>>()?)
            }
            GRANT => Entry::Grant { id: reader.number()?, ttl: reader.number()? },
            REVOKE => Entry::Revoke { id: reader.number()?, ttl: reader.number()? },
            COMPACT => Entry::Compact { revision: reader.number()? },
            tag => return Err(format!("unknown kind of entry {tag}: written by a newer version?")),
        });
    }
    Ok(entries)
}

fn put_change(out: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Put { key, value, lease } => {
            out.push(PUT);
            put_bytes(out, key);
            put_bytes(out, value);
            put_number(out, *lease);
        }
        Change::Delete { key } => {
            out.push(DELETE);
            put_bytes(out, key);
        }
    }
}

fn change(reader: &mut Reader<'_>) -> Result<Change, String> {
    match reader.byte()? {
        PUT => Ok(Change::Put { key: reader.bytes()?, value: reader.bytes()?, lease: reader.number()? }),
        DELETE => Ok(Change::Delete { key: reader.bytes()? }),
        tag => Err(format!("unknown kind of change {tag}")),
    }
}

fn put_numbers(out: &mut Vec<u8>, tag: u8, numbers: &[i64]) {
    out.push(tag);
    numbers.iter().for_each(|&number| put_number(out, number));
}

/// Seven bits per byte, the lowest first; the bits of a negative number are taken as they are.
pub(super) fn put_number(out: &mut Vec<u8>, number: i64) {
    let mut rest = number.cast_unsigned();
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

pub(super) fn put_count(out: &mut Vec<u8>, count: usize) {
    put_number(out, i64::try_from(count).unwrap_or(i64::MAX));
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Takes numbers and byte strings off the front of a slice.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn byte(&mut self) -> Result<u8, String> {
        let (&first, rest) = self.rest.split_first().ok_or("it ends in the middle of an entry")?;
        self.rest = rest;
        Ok(first)
    }

    pub(super) fn number(&mut self) -> Result<i64, String> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number.cast_signed());
            }
        }
        Err("a number has too many bytes".to_owned())
    }

    pub(super) fn count(&mut self) -> Result<usize, String> {
        // Whatever is counted takes a byte at least, so a wrong count cannot make us reserve much.
        let count = usize::try_from(self.number()?).ok().filter(|&count| count <= self.rest.len());
        count.ok_or_else(|| "a length is greater than what follows".to_owned())
    }

    /// A copy, so that the record's buffer can go.
    pub(super) fn bytes(&mut self) -> Result<Bytes, String> {
        let count = self.count()?;
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or("it ends in the middle of an entry")?;
        self.rest = rest;
        Ok(Bytes::copy_from_slice(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive() {
        let entries = vec![
            Entry::Grant { id: i64::MAX, ttl: 60 },
            Entry::Commit(vec![
                Change::Put { key: "k".into(), value: vec![0; 300].into(), lease: i64::MAX },
                Change::Delete { key: "d".into() },
            ]),
            Entry::Revoke { id: -1, ttl: 60 },
            Entry::Compact { revision: 127 },
        ];
        let bytes = encode(&entries);
        assert_eq!(decode(&bytes), Ok(entries));
        for cut in 1..bytes.len() {
            // Cut between two entries it is a shorter list; anywhere else an error.
            assert!(decode(&bytes[..cut]).is_err() || cut < bytes.len());
        }
        assert!(decode(&[COMMIT, 0xff, 0xff, 0xff, 0x7f]).is_err());
    }
}
