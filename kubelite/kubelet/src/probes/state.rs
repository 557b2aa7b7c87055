//! From single results of a probe to its verdict. Pure.

use k8s_openapi::api::core::v1::Probe;
use std::time::Duration;

/// The three probes of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Until it succeeds the others wait.
    Startup,
    /// Whether the container gets traffic.
    Readiness,
    /// Whether the container is to be killed.
    Liveness,
}

impl Kind {
    /// As it stands in events.
    pub(super) fn title(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Readiness => "Readiness",
            Kind::Liveness => "Liveness",
        }
    }
}

/// When a probe is run and how often it must succeed or fail to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// After the container's start.
    pub(super) initial_delay: Duration,
    /// From one try to the next.
    pub(super) period: Duration,
    /// For one try.
    pub(super) timeout: Duration,
    success: u32,
    failure: u32,
}

impl Plan {
    /// With the API's defaults where the probe says nothing.
    pub(super) fn new(probe: &Probe) -> Plan {
        let number = |value: Option<i32>, default: u32| {
            value.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default)
        };
        let seconds = |value, default| Duration::from_secs(u64::from(number(value, default)));
        Plan {
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            success: number(probe.success_threshold, 1),
            failure: number(probe.failure_threshold, 3),
        }
    }
}

/// How often the last result came in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    last: Option<bool>,
    count: u32,
}

impl Run {
    /// Takes in a result; returns the verdict if there were enough of this kind in a row.
    pub(super) fn verdict(&mut self, plan: &Plan, success: bool) -> Option<bool> {
        if self.last != Some(success) {
            *self = Run { last: Some(success), count: 0 };
        }
        self.count = self.count.saturating_add(1);
        let enough = if success { plan.success } else { plan.failure };
        (self.count >= enough).then_some(success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        // Results as + and -, verdicts as they come: + and -, or . for none.
        let cases = [
            (1, 3, "+-+---+", "+.+..-+"),
            (2, 1, "+-++++-", ".-.+++-"),
            (1, 1, "-+-", "-+-"),
            (3, 2, "++--++-", "...-..."),
        ];
        for (success, failure, results, expected) in cases {
            let probe = Probe {
                success_threshold: Some(success),
                failure_threshold: Some(failure),
                ..Probe::default()
            };
            let (plan, mut run) = (Plan::new(&probe), Run::default());
            let verdict = |c: char| match run.verdict(&plan, c == '+') {
                None => '.',
                Some(true) => '+',
                Some(false) => '-',
            };
            assert_eq!(results.chars().map(verdict).collect::<String>(), expected, "{results}");
        }
    }

    #[test]
    fn defaults() {
        let plan = Plan::new(&Probe { timeout_seconds: Some(0), ..Probe::default() });
        let seconds = [plan.initial_delay, plan.period, plan.timeout].map(|d| d.as_secs());
        assert_eq!((seconds, plan.success, plan.failure), ([0, 10, 1], 1, 3));
    }
}
