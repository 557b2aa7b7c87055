//! The wire format: numbered fields of varints, fixed words and lengths of bytes.

use super::ProtobufError;

/// What stands behind a field's number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Wire<'a> {
    /// An integer, a boolean.
    Varint(u64),
    /// Eight bytes.
    Fixed64(u64),
    /// Text, bytes, a message, packed numbers.
    Bytes(&'a [u8]),
    /// Four bytes.
    Fixed32(u32),
}

/// The fields of a message, in their order. An error is the last item.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Wire<'a>), ProtobufError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = field(&mut self.0);
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn field<'a>(rest: &mut &'a [u8]) -> Result<(u32, Wire<'a>), ProtobufError> {
    let key = varint(rest)?;
    let number = u32::try_from(key >> 3).ok().filter(|n| *n > 0).ok_or(ProtobufError::Malformed)?;
    let wire = match key & 7 {
        0 => Wire::Varint(varint(rest)?),
        1 => Wire::Fixed64(u64::from_le_bytes(word(rest)?)),
        2 => {
            let length = usize::try_from(varint(rest)?).map_err(|_| ProtobufError::Truncated)?;
            Wire::Bytes(take(rest, length)?)
        }
        5 => Wire::Fixed32(u32::from_le_bytes(word(rest)?)),
        // Groups (3, 4) were never part of the API; 6 and 7 don't exist.
        _ => return Err(ProtobufError::Malformed),
    };
    Ok((number, wire))
}

/// Seven bits per byte, the lowest first; at most ten bytes.
pub(super) fn varint(rest: &mut &[u8]) -> Result<u64, ProtobufError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let [byte] = word(rest)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(ProtobufError::Malformed)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], ProtobufError> {
    let (taken, after) = rest.split_at_checked(length).ok_or(ProtobufError::Truncated)?;
    *rest = after;
    Ok(taken)
}

fn word<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], ProtobufError> {
    let (word, after) = rest.split_first_chunk::<N>().ok_or(ProtobufError::Truncated)?;
    *rest = after;
    Ok(*word)
}
