//! Scalars with a form of their own: base64 and the two times of the API.

use jiff::Timestamp;
use serde_json::Value;

/// Whether `text` is standard base64 with padding, in the words of Go's decoder.
pub(crate) fn check_base64(text: &str) -> Result<(), String> {
    let bytes: Vec<(usize, u8)> =
        text.bytes().enumerate().filter(|(_, b)| !matches!(b, b'\n' | b'\r')).collect();
    let data =
        bytes.iter().take_while(|(_, b)| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/')).count();
    let padding = bytes.len() - data;
    let padded = bytes[data..].iter().all(|(_, b)| *b == b'=');
    if padded && padding <= 2 && (data + padding).is_multiple_of(4) {
        return Ok(());
    }
    let at = bytes.get(data).map_or(text.len(), |(at, _)| *at);
    Err(format!("illegal base64 data at input byte {at}"))
}

/// A `Time` in UTC without fractions.
pub(crate) fn canonical_time(text: &str) -> Result<String, String> {
    Ok(format_time(parse_time(text)?))
}

/// A `MicroTime` in UTC with six digits.
pub(crate) fn canonical_micro_time(text: &str) -> Result<String, String> {
    Ok(format_micro_time(parse_time(text)?))
}

/// `2026-11-23T22:46:22Z`
pub fn format_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-11-23T22:46:22.000001Z`
pub fn format_micro_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// RFC 3339, or Go's words about what it isn't.
fn parse_time(text: &str) -> Result<Timestamp, String> {
    let shaped = text.len() >= 20 && text.as_bytes().get(10) == Some(&b'T');
    let parsed = if shaped { text.parse().ok() } else { None };
    parsed.ok_or_else(|| {
        format!("parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\"")
    })
}

/// The time in a JSON value; none if there is none or it is malformed.
pub fn time_of(value: &Value) -> Option<Timestamp> {
    value.as_str().and_then(|text| parse_time(text).ok())
}

/// Standard base64 with padding.
pub(crate) fn to_base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0u32, |word, (i, b)| word | u32::from(*b) << (16 - 8 * i));
        for i in 0..4 {
            let sextet = ALPHABET[(word >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= chunk.len() { char::from(sextet) } else { '=' });
        }
    }
    text
}
