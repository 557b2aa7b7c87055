//! How long to wait after failures: ten seconds, doubled by each further one, ten minutes at most. No I/O.
//!
//! It is read off the pods that are there, so that it survives a restart of the controller and needs no memory.

use crate::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

const FIRST: SignedDuration = SignedDuration::from_secs(10);
const LONGEST: SignedDuration = SignedDuration::from_mins(10);

/// The wait after so many failures in a row.
fn delay(failures: u32) -> SignedDuration {
    match failures {
        0 => SignedDuration::ZERO,
        n => FIRST.checked_mul(1 << (n - 1).min(10)).unwrap_or(LONGEST).min(LONGEST),
    }
}

/// When the pod ended: its last container, or else when it was told to.
fn ended(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let finished = |container: &ContainerStatus| {
        Some(container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0)
    };
    let containers: Option<Vec<Timestamp>> =
        status.container_statuses.iter().flatten().map(finished).collect();
    let unready = pods::condition(pod, "Ready").filter(|ready| ready.status == "False");
    let told = pod.metadata.deletion_timestamp.as_ref().map(|time| {
        let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
        time.0.checked_sub(grace).unwrap_or(time.0)
    });
    containers
        .and_then(|times| times.into_iter().max())
        .or_else(|| unready.and_then(|ready| ready.last_transition_time.as_ref()).map(|time| time.0))
        .or(told)
}

/// When the next pod may be made, after the failures since the last success.
pub(super) fn after_all<'a>(
    failed: impl Iterator<Item = &'a Pod>,
    succeeded: impl Iterator<Item = &'a Pod>,
    now: Timestamp,
) -> Timestamp {
    let success = succeeded.map(|pod| ended(pod).unwrap_or(now)).max();
    let failures = failed.map(|pod| ended(pod).unwrap_or(now)).filter(|at| success.is_none_or(|ok| *at > ok));
    let (count, last) = failures.fold((0, Timestamp::MIN), |(count, last), at| (count + 1, at.max(last)));
    last.checked_add(delay(count)).unwrap_or(now)
}

/// When the next pod of one index may be made, after this one, which is the last of `failures`.
pub(super) fn after(pod: &Pod, failures: u32, now: Timestamp) -> Timestamp {
    ended(pod).unwrap_or(now).checked_add(delay(failures)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(second: i64) -> Pod {
        let at = Timestamp::from_second(second).unwrap();
        serde_json::from_value(
            json!({"status": {"containerStatuses": [{"name": "c", "ready": false, "restartCount": 0,
            "image": "", "imageID": "", "state": {"terminated": {"exitCode": 1, "finishedAt": at}}}]}}),
        )
        .unwrap()
    }

    #[test]
    fn failures_since_the_last_success_count() {
        let now = Timestamp::from_second(1000).unwrap();
        for (failed, succeeded, expected) in [
            (&[][..], &[][..], None),
            (&[900], &[], Some(910)),
            (&[900, 950], &[], Some(970)),
            (&[900, 950, 800], &[], Some(990)),
            (&[900, 950, 800], &[920], Some(960)),
            (&[900], &[920], None),
            (&[900; 20], &[], Some(1500)),
        ] {
            let pods = |seconds: &[i64]| seconds.iter().map(|second| pod(*second)).collect::<Vec<_>>();
            let (failed, succeeded) = (pods(failed), pods(succeeded));
            let at = after_all(failed.iter(), succeeded.iter(), now);
            assert_eq!(Some(at.as_second()).filter(|_| at > Timestamp::MIN), expected);
        }
    }
}
