//! Growing delays between attempts, with the clock as an argument.

use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

/// Delay after the second failure; the first one costs nothing.
const FIRST: SignedDuration = SignedDuration::from_secs(10);
/// Longest delay. What holds twice this long starts from the beginning.
const LONGEST: SignedDuration = SignedDuration::from_secs(300);

#[derive(Clone, Copy, Debug)]
struct Entry {
    delay: SignedDuration,
    last: Timestamp,
}

/// Delays by key: a container's name, or an image. Bounded by the pod's containers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backoff {
    entries: BTreeMap<String, Entry>,
}

impl Backoff {
    /// How long `key`, which failed at `since`, must still wait, and its whole delay.
    pub(crate) fn waiting(
        &self,
        key: &str,
        since: Timestamp,
        now: Timestamp,
    ) -> Option<(SignedDuration, SignedDuration)> {
        let entry = self.entries.get(key)?;
        if since.duration_since(entry.last) > LONGEST * 2 {
            return None;
        }
        let left = entry.delay - now.duration_since(since);
        left.is_positive().then_some((left, entry.delay))
    }

    /// Notes an attempt at `now` and doubles the delay that the next failure costs.
    pub(crate) fn next(&mut self, key: &str, now: Timestamp) {
        let delay = match self.entries.get(key) {
            Some(entry) if now.duration_since(entry.last) <= LONGEST * 2 => (entry.delay * 2).min(LONGEST),
            _ => FIRST,
        };
        self.entries.insert(key.to_string(), Entry { delay, last: now });
    }

    /// Forgets `key`, which succeeded.
    pub(crate) fn reset(&mut self, key: &str) {
        self.entries.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_five_minutes_and_a_long_run_forgives() {
        let mut backoff = Backoff::default();
        let mut now = Timestamp::UNIX_EPOCH;
        let mut delays = vec![];
        for _ in 0..7 {
            delays.push(backoff.waiting("c", now, now).map_or(0, |(left, _)| left.as_secs()));
            now += SignedDuration::from_secs(*delays.last().unwrap());
            backoff.next("c", now);
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300]);
        let much_later = now + SignedDuration::from_secs(601);
        assert_eq!(backoff.waiting("c", much_later, much_later), None);
        backoff.next("c", much_later);
        assert_eq!(backoff.waiting("c", much_later, much_later).unwrap().1, FIRST);
    }
}
