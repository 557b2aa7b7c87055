//! How many pods a Job should have now, and which. No I/O.

use super::plan::{Observed, Plan, terminating};
use super::pod::{Attempts, index};
use super::tally::{Tally, is_failed, latest_by_index, next_attempts};
use super::{backoff, spec};
use crate::pods;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Pods that one round creates or deletes at most.
const BURST: usize = 500;

/// Pods go if they are too many, else new ones are made.
pub(super) fn manage(observed: &Observed<'_>, tally: &Tally, active: &[Arc<Pod>], plan: &mut Plan) {
    let job = observed.job;
    let wanted = wanted(job, tally, active.len());
    let mut surplus = surplus(job, active.to_vec(), active.len().saturating_sub(wanted));
    if !surplus.is_empty() {
        surplus.truncate(BURST);
        plan.discard = surplus;
        return;
    }
    let waits_for_failed = spec::waits_for_failed(job);
    let going: Vec<&Arc<Pod>> = terminating(observed.pods).filter(|_| waits_for_failed).collect();
    let missing = wanted.saturating_sub(active.len() + going.len()).min(BURST);
    if missing == 0 {
        return;
    }
    let per_index = spec::of(job).backoff_limit_per_index.is_some();
    if !per_index {
        let all = || observed.pods.iter().map(|pod| &**pod);
        let failed = all().filter(|pod| is_failed(job, pod));
        let succeeded = all().filter(|pod| pods::phase(pod) == "Succeeded");
        let at = backoff::after_all(failed, succeeded, observed.now);
        if at > observed.now {
            return plan.due(at);
        }
    }
    let Some(completions) = spec::indexes(job) else {
        plan.create = vec![(None, None); missing];
        return;
    };
    let taken: BTreeSet<i32> = active.iter().chain(going).filter_map(|pod| index(pod, completions)).collect();
    let open = |index: &i32| {
        !tally.completed.contains(*index) && !tally.failed_indexes.contains(*index) && !taken.contains(index)
    };
    let open = (0..completions).filter(open);
    if per_index {
        one_by_one(observed, completions, open, missing, plan);
    } else {
        plan.create = open.take(missing).map(|index| (Some(index), None)).collect();
    }
}

/// Each index waits for itself after its own failures.
fn one_by_one(
    observed: &Observed<'_>,
    completions: i32,
    open: impl Iterator<Item = i32>,
    missing: usize,
    plan: &mut Plan,
) {
    let latest = latest_by_index(observed.pods, completions);
    for index in open {
        if plan.create.len() == missing {
            return;
        }
        let attempts = match latest.get(&index) {
            Some(before) => {
                let next = next_attempts(observed.job, before);
                let failures = u32::try_from(next.total()).unwrap_or(0);
                let at = backoff::after(before, failures, observed.now);
                if at > observed.now {
                    plan.due(at);
                    continue;
                }
                next
            }
            None => Attempts::default(),
        };
        plan.create.push((Some(index), Some(attempts)));
    }
}

fn wanted(job: &Job, tally: &Tally, active: usize) -> usize {
    let parallelism = spec::parallelism(job);
    let succeeded = tally.succeeded(job);
    let wanted = match spec::of(job).completions {
        // After the first success of a work queue nothing is begun any more.
        None if succeeded > 0 => return active,
        None => parallelism,
        Some(completions) => {
            completions.saturating_sub(succeeded).saturating_sub(failed_for_good(job, tally)).min(parallelism)
        }
    };
    usize::try_from(wanted).unwrap_or(0)
}

/// Indexes that nobody tries any more.
fn failed_for_good(job: &Job, tally: &Tally) -> i32 {
    if spec::of(job).backoff_limit_per_index.is_some() { tally.failed_indexes.count() } else { 0 }
}

/// The pods that go: those of no index and the doubles in any case, then those that are missed least.
fn surplus(job: &Job, mut active: Vec<Arc<Pod>>, at_least: usize) -> Vec<Arc<Pod>> {
    let mut on_node: HashMap<Option<String>, usize> = HashMap::new();
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    active.iter().for_each(|pod| *on_node.entry(node(pod)).or_default() += 1);
    active.sort_by_cached_key(|pod| pods::deletion_rank(pod, on_node.get(&node(pod)).copied().unwrap_or(0)));
    let mut useless = Vec::new();
    if let Some(completions) = spec::indexes(job) {
        let mut seen = BTreeSet::new();
        // From the end: of two for one index the one that is missed more stays.
        let (mut kept, mut doubles): (Vec<_>, Vec<_>) =
            active.into_iter().rev().partition(|pod| index(pod, completions).is_some_and(|i| seen.insert(i)));
        kept.reverse();
        doubles.reverse();
        (active, useless) = (kept, doubles);
    }
    let more = at_least.saturating_sub(useless.len());
    useless.extend(active.into_iter().take(more));
    useless
}
