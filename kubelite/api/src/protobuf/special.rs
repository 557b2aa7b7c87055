//! Values that are messages on the wire and scalars in JSON.

use jiff::Timestamp;
use serde_json::Value;

use super::decode::Problem;
use super::utf8;
use super::wire::{Fields, Wire};
use crate::json;

pub(super) fn text_value(text: &[u8]) -> Result<Value, Problem> {
    utf8(text).map(Value::String).map_err(|_| Problem::Type)
}

/// `{1: text}`; a quantity that nobody set is zero.
pub(super) fn quantity(bytes: &[u8]) -> Result<Value, Problem> {
    let mut text = Value::from("0");
    for field in Fields(bytes) {
        if let (1, Wire::Bytes(bytes)) = field? {
            text = text_value(bytes)?;
        }
    }
    Ok(text)
}

/// `{1: 0 for an integer or 1 for text, 2: the integer, 3: the text}`
pub(super) fn int_or_string(bytes: &[u8]) -> Result<Value, Problem> {
    let (mut is_text, mut int, mut text) = (false, Value::from(0), Value::from(""));
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Varint(kind)) => is_text = kind == 1,
            (2, Wire::Varint(n)) => int = i32::try_from(n.cast_signed()).map_err(|_| Problem::Type)?.into(),
            (3, Wire::Bytes(bytes)) => text = text_value(bytes)?,
            _ => {}
        }
    }
    Ok(if is_text { text } else { int })
}

/// `{1: seconds since 1970, 2: nanoseconds}`; an empty message is a time that nobody set.
pub(super) fn time(bytes: &[u8]) -> Result<Option<Timestamp>, Problem> {
    let (mut seconds, mut nanoseconds) = (0, 0);
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Varint(n)) => seconds = n.cast_signed(),
            (2, Wire::Varint(n)) => {
                nanoseconds = i32::try_from(n.cast_signed()).map_err(|_| Problem::Type)?;
            }
            _ => {}
        }
    }
    if bytes.is_empty() {
        return Ok(None);
    }
    Timestamp::new(seconds, nanoseconds).map(Some).map_err(|_| Problem::Type)
}

/// `{1: JSON}`, as in `RawExtension` and `FieldsV1`.
pub(super) fn raw(bytes: &[u8]) -> Result<Value, Problem> {
    let mut value = Value::Null;
    for field in Fields(bytes) {
        if let (1, Wire::Bytes(text)) = field?
            && !text.is_empty()
        {
            value = json::parse(text).map_err(|_| Problem::Type)?.0;
        }
    }
    Ok(value)
}
