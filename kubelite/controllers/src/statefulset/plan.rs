//! The next step of a stateful set: which pods and claims are made, which pods go. No I/O.
//!
//! In order: what is there must live (create, replace what ended, wait), then what is too much goes, then what is old.
//! `OrderedReady` stops at the first pod that isn't available; `Parallel` stops at nothing but a pod that must be replaced.

use super::identity::{self, Revision};
use super::status;
use crate::deployment::scaled;
use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// Actions of one round: a set of thousands is worked off in portions.
const BURST: usize = 500;

/// What there is.
pub(super) struct Observed<'a> {
    pub(super) set: &'a StatefulSet,
    pub(super) pods: &'a [Arc<Pod>],
    /// Of the namespace, by name.
    pub(super) claims: &'a BTreeMap<String, Arc<PersistentVolumeClaim>>,
    /// What pods below the partition are made of.
    pub(super) current: &'a Revision,
    /// What all are to become.
    pub(super) update: &'a Revision,
    pub(super) now: Timestamp,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    CreateClaim {
        pod: String,
        claim: Box<PersistentVolumeClaim>,
    },
    OwnClaim {
        claim: Arc<PersistentVolumeClaim>,
        owners: Vec<OwnerReference>,
    },
    CreatePod(Box<Pod>),
    DeletePod(Arc<Pod>),
    /// Gives a pod back the labels of its identity.
    Label {
        pod: Arc<Pod>,
        labels: BTreeMap<String, String>,
    },
}

/// What to do, in this order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    pub(super) status: StatefulSetStatus,
    pub(super) look_again: Option<Duration>,
}

/// The next step of a stateful set.
pub(super) fn plan(observed: &Observed<'_>) -> Plan {
    let mut plan = Plan { actions: Vec::new(), status: status::of(observed), look_again: None };
    plan.look_again = status::next_look(observed);
    if observed.set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    // A break only means that the steps after it have to wait.
    let _ = step(observed, &mut plan.actions);
    plan.actions.truncate(BURST);
    plan
}

fn step(observed: &Observed<'_>, actions: &mut Vec<Action>) -> ControlFlow<()> {
    let set = observed.set;
    let (first, count) = (identity::start(set), identity::replicas(set));
    let end = first.saturating_add(count);
    let mut living: BTreeMap<i32, &Arc<Pod>> = BTreeMap::new();
    let mut condemned: Vec<(i32, &Arc<Pod>)> = Vec::new();
    for pod in observed.pods {
        match identity::ordinal(set, &pod.name_any()) {
            Some(ordinal) if (first..end).contains(&ordinal) => drop(living.insert(ordinal, pod)),
            Some(ordinal) => condemned.push((ordinal, pod)),
            None => {}
        }
    }
    condemned.sort_by_key(|(ordinal, _)| Reverse(*ordinal));
    let walk = Walk { observed, ordered: set.spec.pod_management_policy.as_deref() != Some("Parallel") };
    walk.keep_alive((first..end).map(|ordinal| (ordinal, living.get(&ordinal).copied())), actions)?;
    walk.shrink(&condemned, actions)?;
    walk.roll((first..end).rev().map(|ordinal| (ordinal, living.get(&ordinal).copied())), actions);
    ControlFlow::Continue(())
}

struct Walk<'a> {
    observed: &'a Observed<'a>,
    ordered: bool,
}

impl Walk<'_> {
    fn available(&self, pod: &Pod) -> bool {
        let min_ready = self.observed.set.spec.min_ready_seconds.unwrap_or(0);
        is_running(pod) && pods::is_available(pod, min_ready, self.observed.now)
    }

    /// Each ordinal of the set has a living pod of its identity.
    fn keep_alive<'p>(
        &self,
        replicas: impl Iterator<Item = (i32, Option<&'p Arc<Pod>>)>,
        actions: &mut Vec<Action>,
    ) -> ControlFlow<()> {
        let mut must_wait = false;
        for (ordinal, pod) in replicas {
            if actions.len() >= BURST {
                return ControlFlow::Break(());
            }
            let Some(pod) = pod else {
                let made = self.make(ordinal, actions);
                if self.ordered {
                    return ControlFlow::Break(());
                }
                must_wait |= !made;
                continue;
            };
            // Whether it ended well or not: a member of the set runs.
            if pods::is_finished(pod) {
                if !pods::is_terminating(pod) {
                    actions.push(Action::DeletePod(pod.clone()));
                }
                if self.ordered {
                    return ControlFlow::Break(());
                }
                must_wait = true;
                continue;
            }
            if pods::phase(pod) == "Pending" {
                self.missing_claims(ordinal, actions);
            }
            if self.ordered && (pods::is_terminating(pod) || !self.available(pod)) {
                return ControlFlow::Break(());
            }
            self.restore(ordinal, pod, actions);
        }
        if must_wait { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// A new pod after its claims; false if one of them is about to go, with which the pod could never start.
    fn make(&self, ordinal: i32, actions: &mut Vec<Action>) -> bool {
        let Observed { set, claims, current, update, .. } = self.observed;
        let mut names = identity::claim_names(set, ordinal);
        if names.any(|name| claims.get(&name).is_some_and(|claim| identity::is_stale(set, ordinal, claim))) {
            return false;
        }
        self.missing_claims(ordinal, actions);
        let revision = if ordinal < self.partition() { current } else { update };
        actions.push(Action::CreatePod(Box::new(identity::pod(set, revision, ordinal))));
        true
    }

    /// The first ordinal that an update reaches.
    fn partition(&self) -> i32 {
        let strategy = self.observed.set.spec.update_strategy.as_ref();
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let partition = rolling.and_then(|rolling| rolling.partition).unwrap_or(0);
        identity::start(self.observed.set).saturating_add(partition)
    }

    fn missing_claims(&self, ordinal: i32, actions: &mut Vec<Action>) {
        let Observed { set, claims, .. } = self.observed;
        for claim in identity::claims(set, ordinal) {
            if !claims.contains_key(&claim.name_any()) {
                let pod = identity::pod_name(set, ordinal);
                actions.push(Action::CreateClaim { pod, claim: Box::new(claim) });
            }
        }
    }

    /// The labels of a pod's identity, and the owners of its claims.
    fn restore(&self, ordinal: i32, pod: &Arc<Pod>, actions: &mut Vec<Action>) {
        let labels = identity::labels(self.observed.set, ordinal);
        if labels.iter().any(|(key, value)| pod.labels().get(key) != Some(value)) {
            actions.push(Action::Label { pod: pod.clone(), labels });
        }
        self.own_claims(ordinal, pod, actions);
    }

    fn own_claims(&self, ordinal: i32, pod: &Arc<Pod>, actions: &mut Vec<Action>) {
        let Observed { set, claims, .. } = self.observed;
        let mine = identity::claim_names(set, ordinal).filter_map(|name| claims.get(&name));
        for claim in mine.filter(|claim| claim.metadata.deletion_timestamp.is_none()) {
            if let Some(owners) = identity::owners(set, ordinal, Some(pod), claim) {
                actions.push(Action::OwnClaim { claim: claim.clone(), owners });
            }
        }
    }

    /// The pods beyond the set's size go, the highest ordinal first. In order, one at a time, and none while another one is
    /// not well: unless it is the lowest of those that aren't, it may become so.
    fn shrink(&self, condemned: &[(i32, &Arc<Pod>)], actions: &mut Vec<Action>) -> ControlFlow<()> {
        for (ordinal, pod) in condemned {
            self.own_claims(*ordinal, pod, actions);
        }
        let well = |pod: &Pod| !pods::is_terminating(pod) && self.available(pod);
        let lowest_ill = condemned.iter().rev().find(|(_, pod)| !well(pod)).map(|(ordinal, _)| *ordinal);
        for (ordinal, pod) in condemned {
            let terminating = pods::is_terminating(pod);
            if self.ordered && (terminating || (!well(pod) && lowest_ill != Some(*ordinal))) {
                return ControlFlow::Break(());
            }
            if !terminating {
                actions.push(Action::DeletePod((*pod).clone()));
            }
            if self.ordered {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// Old pods down to the partition go, as many as may be unavailable. One that is unavailable anyway costs nothing: an
    /// update that broke the pods can so be repaired by the next one.
    fn roll<'p>(
        &self,
        from_last: impl Iterator<Item = (i32, Option<&'p Arc<Pod>>)> + Clone,
        actions: &mut Vec<Action>,
    ) {
        let Observed { set, update, .. } = self.observed;
        let strategy = set.spec.update_strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return;
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let bound = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let bound = bound.map_or(1, |bound| scaled(bound, identity::replicas(set), false)).max(1);
        let well = |pod: &Pod| !pods::is_terminating(pod) && self.available(pod);
        let lacking = from_last.clone().filter(|(_, pod)| pod.is_none_or(|pod| !well(pod))).count();
        let mut allowed = usize::try_from(bound).unwrap_or(1).saturating_sub(lacking);
        for (_, pod) in from_last.take_while(|(ordinal, _)| *ordinal >= self.partition()) {
            let old =
                pod.filter(|pod| identity::revision_of(pod) != update.name && !pods::is_terminating(pod));
            match old {
                Some(pod) if !well(pod) => actions.push(Action::DeletePod(pod.clone())),
                Some(pod) if allowed > 0 => {
                    allowed -= 1;
                    actions.push(Action::DeletePod(pod.clone()));
                }
                _ => {}
            }
        }
    }
}

pub(super) fn is_running(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
