//! One field of a schedule: `*`, numbers, names, ranges, steps and lists of them, as a set of bits.

/// Which values a field may have, and their names.
pub(super) struct Field {
    name: &'static str,
    first: i8,
    last: i8,
    /// From `first` on.
    names: &'static [&'static str],
}

/// The values that a field has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Set {
    bits: u64,
    /// It was written as `*` or `?`, without a step.
    pub(super) any: bool,
}

impl Set {
    pub(super) fn has(self, value: i8) -> bool {
        (0..64).contains(&value) && self.bits & (1 << value) != 0
    }
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Field {
    pub(super) const MINUTE: Field = Field { name: "minute", first: 0, last: 59, names: &[] };
    pub(super) const HOUR: Field = Field { name: "hour", first: 0, last: 23, names: &[] };
    pub(super) const DAY: Field = Field { name: "day of month", first: 1, last: 31, names: &[] };
    pub(super) const MONTH: Field = Field { name: "month", first: 1, last: 12, names: MONTHS };
    pub(super) const WEEKDAY: Field = Field { name: "day of week", first: 0, last: 6, names: DAYS };

    /// Reads a list.
    pub(super) fn parse(&self, text: &str) -> Result<Set, String> {
        let mut set = Set { bits: 0, any: false };
        // Upstream's parser skips what is empty between commas, too.
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let part = self.part(part)?;
            set = Set { bits: set.bits | part.bits, any: set.any | part.any };
        }
        if set.bits == 0 {
            return Err(format!("the {} is empty: {text:?}", self.name));
        }
        Ok(set)
    }

    /// `*`, `5`, `mon-fri`, `*/10`, `3-59/15`, `7/2` (from 7 to the last).
    fn part(&self, text: &str) -> Result<Set, String> {
        let (range, step) = match text.split_once('/') {
            None => (text, None),
            Some((range, step)) => (range, Some(step)),
        };
        let (first, last, any) = match range.split_once('-') {
            None if matches!(range, "*" | "?") => (self.first, self.last, true),
            None => {
                let value = self.value(range)?;
                (value, if step.is_some() { self.last } else { value }, false)
            }
            Some((first, last)) => (self.value(first)?, self.value(last)?, false),
        };
        if first > last {
            return Err(format!("beginning of range ({first}) beyond end of range ({last}): {text}"));
        }
        let width = match step.map(|step| step.parse::<u8>().map_err(|_| step)) {
            None => 1,
            Some(Ok(width)) if width > 0 => usize::from(width),
            Some(_) => return Err(format!("step of range should be a positive number: {text}")),
        };
        let bits = (first..=last).step_by(width).fold(0, |bits, value| bits | 1 << value);
        Ok(Set { bits, any: any && width == 1 })
    }

    fn value(&self, text: &str) -> Result<i8, String> {
        let lower = text.to_ascii_lowercase();
        let named =
            self.names.iter().zip(self.first..).find(|(name, _)| **name == lower).map(|(_, value)| value);
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let value = named
            .or_else(|| text.parse::<i8>().ok().filter(|_| digits))
            .ok_or_else(|| format!("failed to parse {} from {text:?}", self.name))?;
        if value < self.first || value > self.last {
            let (first, last) = (self.first, self.last);
            return Err(format!("{} {value} is not between {first} and {last}", self.name));
        }
        Ok(value)
    }
}
