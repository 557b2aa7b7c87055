//! Sets of completion indexes, as an Indexed Job writes them: `1,3-5,7` (`status.completedIndexes`, KEP-2214).
//!
//! Kept as ranges: a job may have a billion completions, but its status is short.

use std::fmt;

/// How many ranges one text may hold; upstream bounds the text at 64 KiB.
const MAX_RANGES: usize = 32_768;

/// A set of indexes as ordered ranges that neither overlap nor touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Reads what a Job's status or success policy says; the error is a sentence for the user. Indexes from `completions`
    /// on are refused.
    pub fn parse(text: &str, completions: i32) -> Result<Indexes, String> {
        let mut ranges: Vec<(i32, i32)> = Vec::new();
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let number = |digits: &str| match digits.parse::<i32>() {
                Ok(index) if index >= completions => Err(format!("too large index: {digits:?}")),
                Ok(index) if index >= 0 => Ok(index),
                _ => Err(format!("cannot convert string to integer for index: {digits:?}")),
            };
            let (first, last) = match part.split_once('-') {
                None => (number(part)?, number(part)?),
                Some((first, last)) => (number(first)?, number(last)?),
            };
            if first > last || (first == last && part.contains('-')) {
                return Err(format!("non-increasing order, previous: {first}, current: {last}"));
            }
            let full = ranges.len() == MAX_RANGES;
            match ranges.last_mut() {
                Some((_, end)) if *end >= first => {
                    return Err(format!("non-increasing order, previous: {end}, current: {first}"));
                }
                Some((_, end)) if *end + 1 == first => *end = last,
                _ if full => return Err(format!("more than {MAX_RANGES} ranges")),
                _ => ranges.push((first, last)),
            }
        }
        Ok(Indexes(ranges))
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many indexes it holds.
    pub fn count(&self) -> i32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Whether it holds this one.
    pub fn contains(&self, index: i32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// Adds one; whether it is new.
    pub fn insert(&mut self, index: i32) -> bool {
        if self.contains(index) {
            return false;
        }
        let at = self.0.partition_point(|(_, last)| *last < index);
        let after = self.0.get(at).is_some_and(|(first, _)| i64::from(*first) == i64::from(index) + 1);
        let before = at.checked_sub(1).filter(|i| self.0.get(*i).is_some_and(|(_, last)| *last + 1 == index));
        match (before, after) {
            (Some(before), true) => {
                let (_, last) = self.0.remove(at);
                self.0[before].1 = last;
            }
            (Some(before), false) => self.0[before].1 = index,
            (None, true) => self.0[at].0 = index,
            (None, false) => self.0.insert(at, (index, index)),
        }
        true
    }

    /// The ranges, first and last index of each.
    pub fn ranges(&self) -> &[(i32, i32)] {
        &self.0
    }

    /// How many indexes both hold.
    pub fn common(&self, other: &Indexes) -> i32 {
        let (mut a, mut b, mut count) = (self.0.iter().peekable(), other.0.iter().peekable(), 0);
        while let (Some((a_first, a_last)), Some((b_first, b_last))) = (a.peek(), b.peek()) {
            count += (a_last.min(b_last) - a_first.max(b_first) + 1).max(0);
            if a_last < b_last {
                a.next()
            } else {
                b.next()
            };
        }
        count
    }

    /// Without the indexes from `completions` on: a job may have been made smaller.
    pub fn below(&self, completions: i32) -> Indexes {
        let kept = self.0.iter().filter(|(first, _)| *first < completions);
        Indexes(kept.map(|(first, last)| (*first, *last.min(&(completions - 1)))).collect())
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn set(text: &str) -> Indexes {
        Indexes::parse(text, 1000).unwrap()
    }

    #[test]
    fn texts() {
        for (text, printed, count) in
            [("", "", 0), ("1", "1", 1), ("1,2", "1,2", 2), ("1,2,3", "1-3", 3), ("0,2-4,9", "0,2-4,9", 5)]
        {
            assert_eq!((set(text).to_string().as_str(), set(text).count()), (printed, count), "{text}");
        }
        for bad in ["a", "1,,2", "3,1", "2-2", "5-3", "1,1", "1000", "-1", "1-3-5"] {
            assert!(Indexes::parse(bad, 1000).is_err(), "{bad}");
        }
        assert_eq!(set("0-5,7").below(4).to_string(), "0-3");
        assert_eq!(set("0-5,7-9").common(&set("4-8")), 4);
    }

    proptest! {
        #[test]
        fn it_is_a_set(numbers in prop::collection::vec(0i32..40, 0..60)) {
            let (mut indexes, mut model) = (Indexes::default(), BTreeSet::new());
            for number in numbers {
                prop_assert_eq!(indexes.insert(number), model.insert(number));
            }
            prop_assert_eq!(indexes.count() as usize, model.len());
            prop_assert!((0..41).all(|i| indexes.contains(i) == model.contains(&i)));
            prop_assert_eq!(Indexes::parse(&indexes.to_string(), 40).unwrap(), indexes);
        }
    }
}
