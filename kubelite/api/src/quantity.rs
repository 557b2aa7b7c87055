//! `Quantity`: a fixed-point number with a suffix, as in `500m` or `128Mi`.
//!
//! A value is an integer count of 10⁻⁹; magnitudes above 2⁶³−1 are capped and digits below 10⁻⁹ are rounded away from
//! zero, as upstream does. Equality and order are by value, not by how it is written.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const NANO: i128 = 1_000_000_000;
const MAX_NANOS: i128 = i64::MAX as i128 * NANO;
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

/// How a quantity is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `m`, none, `k`, `M`, …: powers of 1000.
    DecimalSi,
    /// `Ki`, `Mi`, …: powers of 1024.
    BinarySi,
    /// `e3`, `e6`, …
    DecimalExponent,
}

/// A number with nano resolution and the way in which it is written.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a string is no quantity, in upstream's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// The string as a whole has the wrong shape.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// For instance two decimal points.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// A suffix that doesn't exist.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// An integer.
    pub fn new(value: i64, format: Format) -> Self {
        Quantity { nanos: i128::from(value) * NANO, format }
    }

    /// A count of thousandths, as for CPU.
    pub fn from_milli(milli: i64) -> Self {
        Quantity { nanos: i128::from(milli) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// The value, rounded up.
    pub fn value(&self) -> i64 {
        clamp_i64(div_ceil(self.nanos, NANO))
    }

    /// The value in thousandths, rounded up.
    pub fn milli_value(&self) -> i64 {
        clamp_i64(div_ceil(self.nanos, NANO / 1000))
    }

    /// Whether it is 0.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Whether it is below 0.
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// How it is written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The sum, capped; written as `self`, or as `other` if `self` is 0.
    #[must_use]
    #[allow(clippy::should_implement_trait)] // `+` must not hide that the sum is capped.
    pub fn add(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: cap(self.nanos + other.nanos), format }
    }

    /// The difference, capped; written as `self`, or as `other` if `self` is 0.
    #[must_use]
    #[allow(clippy::should_implement_trait)] // As `add`.
    pub fn sub(self, other: Quantity) -> Quantity {
        self.add(Quantity { nanos: -other.nanos, format: other.format })
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let negative = text.starts_with('-');
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        if number.is_empty() || !suffix_shape(suffix) {
            return Err(QuantityError::Format);
        }
        let (format, multiplier, divisor) = scale(suffix).ok_or(QuantityError::Suffix)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(QuantityError::Numeric);
        }
        let magnitude = cap(nanos(whole, fraction, multiplier, divisor));
        Ok(Quantity { nanos: if negative { -magnitude } else { magnitude }, format })
    }
}

/// `[eEinumkKMGTP]*[-+]?[0-9]*`
fn suffix_shape(suffix: &str) -> bool {
    let rest = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
    rest.bytes().all(|b| b.is_ascii_digit())
}

/// The format that a suffix stands for, and what to multiply and divide by.
fn scale(suffix: &str) -> Option<(Format, i128, i128)> {
    if let Some(at) = DECIMAL.iter().position(|s| *s == suffix) {
        let (up, down) =
            if at < 3 { (1, 1000_i128.pow(3 - at as u32)) } else { (1000_i128.pow(at as u32 - 3), 1) };
        return Some((Format::DecimalSi, up, down));
    }
    if let Some(at) = BINARY.iter().position(|s| *s == suffix) {
        return Some((Format::BinarySi, 1 << (10 * at), 1));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    // Beyond these the value is capped, or rounds up to one nano, whatever the digits are.
    let power = 10_i128.pow(exponent.unsigned_abs().min(28));
    let (up, down) = if exponent < 0 { (1, power) } else { (power, 1) };
    Some((Format::DecimalExponent, up, down))
}

/// The magnitude in nanos, rounded up, saturating.
fn nanos(whole: &str, fraction: &str, multiplier: i128, divisor: i128) -> i128 {
    const KEPT: usize = 18;
    let whole = whole.bytes().fold(0_i128, |sum, b| {
        sum.saturating_mul(10).saturating_add(i128::from(b - b'0')).min(i128::from(i64::MAX) * NANO)
    });
    let (kept, rest) = fraction.split_at(fraction.len().min(KEPT));
    let mut parts = kept.bytes().fold(0_i128, |sum, b| sum * 10 + i128::from(b - b'0'));
    parts *= 10_i128.pow((KEPT - kept.len()) as u32);
    if rest.bytes().any(|b| b != b'0') {
        parts += 1;
    }
    let whole = div_ceil(whole.saturating_mul(NANO).saturating_mul(multiplier), divisor);
    // `parts` counts 10⁻¹⁸, so a nano is 10⁹ of them.
    let parts = div_ceil(parts.saturating_mul(multiplier), divisor.saturating_mul(NANO));
    whole.saturating_add(parts)
}

fn cap(nanos: i128) -> i128 {
    nanos.clamp(-MAX_NANOS, MAX_NANOS)
}

/// Division that rounds away from zero.
fn div_ceil(value: i128, by: i128) -> i128 {
    value / by + if value % by == 0 { 0 } else { value.signum() }
}

fn clamp_i64(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.nanos % NANO == 0;
        if self.format == Format::BinarySi && whole && self.nanos.abs() >= 1024 * NANO {
            let (mut value, mut at) = (self.nanos / NANO, 0);
            while value % 1024 == 0 && at + 1 < BINARY.len() {
                value /= 1024;
                at += 1;
            }
            return write!(f, "{value}{}", BINARY.get(at).unwrap_or(&""));
        }
        let (mut value, mut at) = (self.nanos, 0);
        while value != 0 && value % 1000 == 0 && at + 1 < DECIMAL.len() {
            value /= 1000;
            at += 1;
        }
        match (self.format, at) {
            _ if value == 0 => f.write_str("0"),
            (Format::DecimalExponent, 3) => write!(f, "{value}"),
            (Format::DecimalExponent, _) => write!(f, "{value}e{}", 3 * (at as i32 - 3)),
            _ => write!(f, "{value}{}", DECIMAL.get(at).unwrap_or(&"")),
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => text,
            serde_json::Value::Number(number) => number.to_string(),
            _ => return Err(serde::de::Error::custom(QuantityError::Format)),
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn canonical_forms() {
        for (text, printed) in [
            ("0", "0"),
            ("0Mi", "0"),
            ("1.5", "1500m"),
            ("1.5Gi", "1536Mi"),
            ("1000", "1k"),
            ("1024Ki", "1Mi"),
            ("100m", "100m"),
            ("0.1m", "100u"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e6", "12e6"),
            ("1E", "1E"),
            ("512", "512"),
            ("0.5Mi", "512Ki"),
            ("1023", "1023"),
            ("2048", "2048"),
            ("-1500m", "-1500m"),
            ("+5", "5"),
            (".5", "500m"),
            ("5.", "5"),
            ("0.0000000001", "1n"),
            ("1.5e-3", "1500e-6"),
            ("500Ki", "500Ki"),
            ("1000Ki", "1000Ki"),
            ("0.3Ki", "307200m"),
            ("100Ei", "9223372036854775807"),
        ] {
            assert_eq!(text.parse::<Quantity>().unwrap().to_string(), printed, "{text}");
        }
    }

    #[test]
    fn refusals() {
        for (text, error) in [
            ("", QuantityError::Format),
            ("abc", QuantityError::Format),
            ("1 ", QuantityError::Format),
            ("1.2.3", QuantityError::Numeric),
            (".", QuantityError::Numeric),
            ("1mm", QuantityError::Suffix),
            ("1ki", QuantityError::Suffix),
            ("1e", QuantityError::Suffix),
            ("1m3", QuantityError::Suffix),
        ] {
            assert_eq!(text.parse::<Quantity>().unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn arithmetic_rounds_up() {
        let q = |s: &str| s.parse::<Quantity>().unwrap();
        assert_eq!(q("1500m").value(), 2);
        assert_eq!(q("0.1m").milli_value(), 1);
        assert_eq!(q("1Gi").add(q("512Mi")).to_string(), "1536Mi");
        assert_eq!(q("1").sub(q("1500m")).to_string(), "-500m");
        assert!(q("1Gi") > q("1G") && q("1000m") == q("1"));
        assert_eq!(serde_json::from_str::<Quantity>("2").unwrap().to_string(), "2");
    }

    proptest! {
        #[test]
        fn never_panics(text in "[-+0-9.eEinumkKMGTP]{0,60}") {
            let _ = text.parse::<Quantity>().map(|q| q.to_string());
        }

        #[test]
        fn printing_keeps_the_value(digits in -1_000_000_000_i64..1_000_000_000, suffix in "(|m|k|M|G|Ki|Mi|Gi|e3|n|u)") {
            let first: Quantity = format!("{digits}{suffix}").parse().unwrap();
            let again: Quantity = first.to_string().parse().unwrap();
            prop_assert_eq!(first, again);
            prop_assert_eq!(first.to_string(), again.to_string());
        }
    }
}
