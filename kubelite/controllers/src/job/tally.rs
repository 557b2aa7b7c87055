//! Who is counted: each pod that ended is counted once, whatever happens to it or to the controller (KEP-2307). No I/O.
//!
//! ```text
//!  ended, with finalizer ─► in status.uncountedTerminatedPods ─► finalizer taken away ─► in status.succeeded or failed
//!                           (or its index in completedIndexes)
//! ```
//!
//! Each arrow is one write, and each can be repeated.

use super::pod::{Attempts, attempts, index, is_tracked};
use super::policy::{Judgement, judge};
use super::spec;
use crate::pods;
use k8s_openapi::api::batch::v1::{Job, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kubelite_api::indexes::Indexes;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Pods that wait in the status at the same time; more are counted in the next round.
const MAX_UNCOUNTED: usize = 500;

/// The count so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Counted for good.
    counted: (i32, i32),
    /// UIDs of pods that ended well and badly, and still have the finalizer.
    uncounted: (Vec<String>, Vec<String>),
    /// Of an Indexed Job.
    pub(super) completed: Indexes,
    pub(super) failed_indexes: Indexes,
    /// Pods that lose the finalizer once this is in the status.
    pub(super) release: Vec<Arc<Pod>>,
    /// Why the failure policy wants the job to fail.
    pub(super) fatal: Option<String>,
}

impl Tally {
    /// Completions.
    pub(super) fn succeeded(&self, job: &Job) -> i32 {
        let uncounted = i32::try_from(self.uncounted.0.len()).unwrap_or(i32::MAX);
        let pods = self.counted.0.saturating_add(uncounted);
        if spec::indexes(job).is_some() { self.completed.count() } else { pods }
    }

    /// Failed pods.
    pub(super) fn failed(&self) -> i32 {
        self.counted.1.saturating_add(i32::try_from(self.uncounted.1.len()).unwrap_or(i32::MAX))
    }

    /// Whether nobody waits to be counted.
    pub(super) fn is_settled(&self) -> bool {
        self.release.is_empty() && self.uncounted.0.is_empty() && self.uncounted.1.is_empty()
    }

    /// `status.succeeded`, `failed` and `uncountedTerminatedPods`.
    pub(super) fn status(&self, job: &Job) -> (i32, i32, UncountedTerminatedPods) {
        let list = |uids: &Vec<String>| Some(uids.clone()).filter(|uids| !uids.is_empty());
        let uncounted =
            UncountedTerminatedPods { succeeded: list(&self.uncounted.0), failed: list(&self.uncounted.1) };
        let succeeded = if spec::indexes(job).is_some() { self.completed.count() } else { self.counted.0 };
        (succeeded, self.counted.1, uncounted)
    }
}

/// Whether the pod counts as a failure: it failed, or it goes and nobody waits how it will end.
pub(super) fn is_failed(job: &Job, pod: &Pod) -> bool {
    let abandoned = !spec::waits_for_failed(job) || spec::ending(job).is_some();
    match pods::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        _ => pods::is_terminating(pod) && abandoned,
    }
}

/// The pod of each index with the most attempts before it: the one that a next one follows.
pub(super) fn latest_by_index(pods: &[Arc<Pod>], completions: i32) -> BTreeMap<i32, &Arc<Pod>> {
    let mut latest: BTreeMap<i32, &Arc<Pod>> = BTreeMap::new();
    let rank = |pod: &Pod| (attempts(pod).total(), pod.creation_timestamp());
    for pod in pods {
        let Some(index) = index(pod, completions) else { continue };
        let known = latest.entry(index).or_insert(pod);
        if rank(pod) > rank(known) {
            *known = pod;
        }
    }
    latest
}

/// What the attempts are after this one failed.
pub(super) fn next_attempts(job: &Job, pod: &Pod) -> Attempts {
    let before = attempts(pod);
    match judge(job, pod) {
        Judgement::Ignore => Attempts { ignored: before.ignored.saturating_add(1), ..before },
        _ => Attempts { failures: before.failures.saturating_add(1), ..before },
    }
}

/// Counts the pods of a job.
pub(super) fn tally(job: &Job, pods: &[Arc<Pod>]) -> Tally {
    let status = job.status.clone().unwrap_or_default();
    let parse = |text: Option<String>| match spec::indexes(job) {
        Some(completions) => {
            Indexes::parse(&text.unwrap_or_default(), i32::MAX).unwrap_or_default().below(completions)
        }
        None => Indexes::default(),
    };
    let waiting = status.uncounted_terminated_pods.unwrap_or_default();
    let tracked: HashSet<&str> =
        pods.iter().filter(|pod| is_tracked(pod)).filter_map(|pod| pod.metadata.uid.as_deref()).collect();
    // Who has lost the finalizer is in the number, and no longer in the list, by the same write.
    let split = |uids: Option<Vec<String>>| -> (Vec<String>, i32) {
        let (still, done): (Vec<_>, Vec<_>) =
            uids.unwrap_or_default().into_iter().partition(|uid| tracked.contains(uid.as_str()));
        (still, i32::try_from(done.len()).unwrap_or(i32::MAX))
    };
    let (succeeded, failed) = (split(waiting.succeeded), split(waiting.failed));
    let mut tally = Tally {
        counted: (
            status.succeeded.unwrap_or(0).saturating_add(succeeded.1),
            status.failed.unwrap_or(0).saturating_add(failed.1),
        ),
        uncounted: (succeeded.0, failed.0),
        completed: parse(status.completed_indexes),
        failed_indexes: parse(status.failed_indexes),
        ..Tally::default()
    };
    pods.iter().filter(|pod| pods::phase(pod) == "Succeeded").for_each(|pod| tally.success(job, pod));
    let per_index = spec::of(job).backoff_limit_per_index.is_some() && spec::ending(job).is_none();
    let completions = spec::indexes(job).filter(|_| per_index);
    let latest = completions.map(|completions| latest_by_index(pods, completions)).unwrap_or_default();
    for pod in pods.iter().filter(|pod| is_failed(job, pod)) {
        // The last failed pod of an index stays until the next one is there: it carries the count.
        let last = completions.and_then(|n| index(pod, n)).and_then(|index| latest.get(&index));
        let carries = last.is_some_and(|last| last.metadata.uid == pod.metadata.uid);
        tally.failure(job, pod, carries);
    }
    tally
}

impl Tally {
    fn success(&mut self, job: &Job, pod: &Arc<Pod>) {
        if !is_tracked(pod) {
            return;
        }
        let uid = pod.uid().unwrap_or_default();
        match spec::indexes(job) {
            Some(completions) => {
                // A second success of an index changes nothing.
                if let Some(index) = index(pod, completions).filter(|i| !self.failed_indexes.contains(*i)) {
                    self.completed.insert(index);
                }
                self.release.push(pod.clone());
            }
            None if add(&mut self.uncounted.0, uid) => self.release.push(pod.clone()),
            None => {}
        }
    }

    fn failure(&mut self, job: &Job, pod: &Arc<Pod>, carries: bool) {
        let judgement = judge(job, pod);
        if let Judgement::FailJob(why) = &judgement {
            self.fatal.get_or_insert_with(|| why.clone());
        }
        if !is_tracked(pod) {
            return;
        }
        let index = spec::indexes(job).and_then(|completions| index(pod, completions));
        if let (Some(index), Some(limit)) = (index, spec::of(job).backoff_limit_per_index) {
            let over = judgement != Judgement::Ignore && attempts(pod).failures >= limit;
            if (over || judgement == Judgement::FailIndex) && !self.completed.contains(index) {
                self.failed_indexes.insert(index);
            }
        }
        let counted =
            judgement == Judgement::Ignore || add(&mut self.uncounted.1, pod.uid().unwrap_or_default());
        let open = |index: i32| !self.completed.contains(index) && !self.failed_indexes.contains(index);
        if counted && !(carries && index.is_some_and(open)) {
            self.release.push(pod.clone());
        }
    }
}

/// Whether the list has the UID afterwards.
fn add(list: &mut Vec<String>, uid: String) -> bool {
    if list.contains(&uid) {
        return true;
    }
    let room = list.len() < MAX_UNCOUNTED;
    if room {
        list.push(uid);
    }
    room
}
