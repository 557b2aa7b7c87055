//! When a probe's answers become a verdict. Pure.

use k8s_openapi::api::core::v1::Probe;
use std::time::Duration;

/// A probe's numbers, defaults filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timing {
    pub(super) initial_delay: Duration,
    pub(super) period: Duration,
    pub(super) timeout: Duration,
    success: u32,
    failure: u32,
}

impl Timing {
    pub(super) fn of(probe: &Probe) -> Timing {
        let number =
            |given: Option<i32>, default: u32| given.and_then(|n| u32::try_from(n).ok()).unwrap_or(default);
        let seconds = |given: Option<i32>, default: u32, least: u32| {
            Duration::from_secs(number(given, default).max(least).into())
        };
        Timing {
            initial_delay: seconds(probe.initial_delay_seconds, 0, 0),
            period: seconds(probe.period_seconds, 10, 1),
            timeout: seconds(probe.timeout_seconds, 1, 1),
            success: number(probe.success_threshold, 1).max(1),
            failure: number(probe.failure_threshold, 3).max(1),
        }
    }
}

/// Answers of one kind in a row.
#[derive(Debug, Default)]
pub(super) struct State {
    last: Option<bool>,
    in_a_row: u32,
    verdict: Option<bool>,
}

impl State {
    /// Takes an answer; the verdict, if it is another than before.
    pub(super) fn record(&mut self, success: bool, timing: &Timing) -> Option<bool> {
        self.in_a_row = if self.last == Some(success) { self.in_a_row.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let needed = if success { timing.success } else { timing.failure };
        if self.in_a_row < needed || self.verdict == Some(success) {
            return None;
        }
        self.verdict = Some(success);
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(success: i32, failure: i32, answers: &str) -> String {
        let probe =
            Probe { success_threshold: Some(success), failure_threshold: Some(failure), ..Probe::default() };
        let (timing, mut state) = (Timing::of(&probe), State::default());
        let mark = |verdict| match verdict {
            None => '.',
            Some(true) => '+',
            Some(false) => '-',
        };
        answers.chars().map(|answer| mark(state.record(answer == 'y', &timing))).collect()
    }

    #[test]
    fn thresholds_are_counted_in_a_row() {
        assert_eq!(verdicts(1, 3, "ynnnny"), "+..-.+");
        assert_eq!(verdicts(1, 3, "nynyny"), ".+....");
        assert_eq!(verdicts(2, 1, "ynyyn"), ".-.+-");
    }

    #[test]
    fn numbers_have_upstreams_defaults() {
        let timing = Timing::of(&Probe::default());
        let seconds = [timing.initial_delay, timing.period, timing.timeout].map(|d| d.as_secs());
        assert_eq!((seconds, timing.success, timing.failure), ([0, 10, 1], 1, 3));
    }
}
