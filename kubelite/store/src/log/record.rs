//! Records within a segment, and what a scan makes of damage. Pure.
//!
//! ```text
//!  0       2       4           8                16            20            24
//!  | magic | kind  | length    | sequence       | payload crc | header crc  | payload …  | padding to 8 |
//! ```
//!
//! Both checksums are salted with the segment's own random number, so that a value that looks like a record is none.
//!
//! A group is written only after the one before it was synced. So a broken record is a torn write if and only if
//! nothing behind it proves the contrary: a later record, or a *seal*, the note that the record was acknowledged.

use super::Sequence;

/// The bytes before a payload.
pub(super) const HEADER_LEN: usize = 24;
/// Records begin at multiples of this.
const ALIGN: usize = 8;
const MAGIC: u16 = 0x4b52;
const RECORD: u16 = 1;
const SEAL: u16 = 2;

/// A record's place in its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) offset: usize,
    pub(super) payload: usize,
    pub(super) length: usize,
}

/// What a scan found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scan {
    /// The whole records, in order.
    pub(super) records: Vec<Found>,
    /// Where the next record goes.
    pub(super) end: usize,
    /// The number of the next record.
    pub(super) next: Sequence,
    /// True if something that is no whole record stands at `end`.
    pub(super) torn: bool,
}

/// Why a segment must not be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) offset: usize,
    pub(super) reason: String,
}

struct Header {
    kind: u16,
    length: usize,
    sequence: Sequence,
    payload_crc: u32,
}

/// A record with its header and padding.
pub(super) fn frame(salt: u64, sequence: Sequence, payload: &[u8]) -> Vec<u8> {
    let mut out = header(salt, RECORD, sequence, payload);
    out.extend_from_slice(payload);
    out.resize(out.len().next_multiple_of(ALIGN), 0);
    out
}

/// The note that `sequence` and everything before it was acknowledged.
pub(super) fn seal(salt: u64, sequence: Sequence) -> Vec<u8> {
    header(salt, SEAL, sequence, &[])
}

/// Finds the records of a segment whose first one is `next`, from the offset `start` on.
pub(super) fn scan(bytes: &[u8], start: usize, salt: u64, mut next: Sequence) -> Result<Scan, Damage> {
    let (mut records, mut offset) = (Vec::new(), start);
    while let Some(found) = record_at(bytes, offset, salt, next) {
        offset = (found.payload + found.length).next_multiple_of(ALIGN);
        next += 1;
        records.push(found);
    }
    if let Some(proof) = proof_of_loss(bytes, offset, salt, next) {
        let reason = format!("record {next} is unreadable, but {proof} shows that it was written whole");
        return Err(Damage { offset, reason });
    }
    let sealed = header_at(bytes, offset, salt).is_some_and(|header| header.kind == SEAL);
    let rest = bytes.get(offset..).unwrap_or_default();
    Ok(Scan { records, end: offset, next, torn: !sealed && rest.iter().any(|&byte| byte != 0) })
}

fn record_at(bytes: &[u8], offset: usize, salt: u64, sequence: Sequence) -> Option<Found> {
    let header = header_at(bytes, offset, salt)?;
    let payload = offset + HEADER_LEN;
    let content = bytes.get(payload..payload.checked_add(header.length)?)?;
    let whole = header.kind == RECORD
        && header.sequence == sequence
        && header.payload_crc == checksum(salt, content)
        // The padding belongs to the record: where it is missing the write was cut.
        && bytes.len() >= (payload + header.length).next_multiple_of(ALIGN);
    whole.then_some(Found { offset, payload, length: header.length })
}

/// What stands behind `offset` and could not be there if the record `lost` had not been acknowledged.
fn proof_of_loss(bytes: &[u8], offset: usize, salt: u64, lost: Sequence) -> Option<String> {
    (offset..bytes.len()).step_by(ALIGN).find_map(|offset| {
        let header = header_at(bytes, offset, salt)?;
        match header.kind {
            RECORD if header.sequence > lost => Some(format!("record {} behind it", header.sequence)),
            SEAL if header.sequence >= lost => Some("the seal behind it".to_owned()),
            _ => None,
        }
    })
}

fn header(salt: u64, kind: u16, sequence: Sequence, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(HEADER_LEN + payload.len() + ALIGN);
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&checksum(salt, payload).to_le_bytes());
    let own = checksum(salt, &out);
    out.extend_from_slice(&own.to_le_bytes());
    out
}

fn header_at(bytes: &[u8], offset: usize, salt: u64) -> Option<Header> {
    let bytes: &[u8; HEADER_LEN] = bytes.get(offset..)?.first_chunk()?;
    let (head, own) = bytes.split_last_chunk::<4>()?;
    let magic = head.starts_with(&MAGIC.to_le_bytes());
    if !magic || u32::from_le_bytes(*own) != checksum(salt, head) {
        return None;
    }
    let (head, payload_crc) = head.split_last_chunk::<4>()?;
    let (head, sequence) = head.split_last_chunk::<8>()?;
    let (head, length) = head.split_last_chunk::<4>()?;
    Some(Header {
        kind: u16::from_le_bytes(*head.last_chunk::<2>()?),
        length: usize::try_from(u32::from_le_bytes(*length)).ok()?,
        sequence: u64::from_le_bytes(*sequence),
        payload_crc: u32::from_le_bytes(*payload_crc),
    })
}

/// CRC-32 of the salt and the bytes.
pub(super) fn checksum(salt: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u64 = 0x1234_5678_9abc_def0;

    fn sample() -> Vec<u8> {
        let mut bytes = frame(SALT, 5, b"first");
        bytes.extend(frame(SALT, 6, b"second record"));
        bytes
    }

    #[test]
    fn whole_records_are_found() {
        let scan = scan(&sample(), 0, SALT, 5).unwrap();
        assert_eq!((scan.records.len(), scan.next, scan.torn), (2, 7, false));
    }

    #[test]
    fn a_cut_tail_is_torn() {
        let whole = sample();
        let first = frame(SALT, 5, b"first").len();
        for cut in 0..whole.len() {
            let scan = scan(&whole[..cut], 0, SALT, 5).unwrap();
            assert_eq!(scan.records.len(), usize::from(cut >= first), "cut at {cut}");
        }
    }

    #[test]
    fn a_flip_is_a_torn_tail_or_damage_but_never_another_record() {
        let mut sealed = sample();
        sealed.extend(seal(SALT, 6));
        for index in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[index] ^= 0x10;
            match scan(&flipped, 0, SALT, 5) {
                Ok(scan) => assert_eq!(scan.records.len(), 2, "flip at {index}"),
                Err(damage) => assert!(damage.reason.contains("record")),
            }
        }
    }

    #[test]
    fn another_salt_reads_nothing() {
        assert!(scan(&sample(), 0, SALT + 1, 5).unwrap().records.is_empty());
    }
}
