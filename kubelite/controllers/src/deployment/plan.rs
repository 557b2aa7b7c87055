//! What a deployment needs now. No I/O; one step at a time, since each step's effect brings the next call.

use super::revision::{self, DESIRED, MAX, REVISION};
use super::rolling::{self, Bounds, Old};
use super::status;
use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What there is.
pub(super) struct Observed<'a> {
    pub(super) deployment: &'a Deployment,
    /// All replica sets that the deployment controls, oldest first.
    pub(super) sets: &'a [Arc<ReplicaSet>],
    /// The pods of these replica sets.
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) now: Timestamp,
}

/// One write.
#[derive(Debug)]
pub(super) enum Action {
    Create(Box<ReplicaSet>),
    /// Replaces the first by the second.
    Update(Arc<ReplicaSet>, Box<ReplicaSet>),
    Delete(Arc<ReplicaSet>),
    /// Sets annotations of the deployment.
    Annotate(BTreeMap<String, String>),
}

/// What to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    pub(super) status: DeploymentStatus,
    pub(super) look_again: Option<Duration>,
}

/// The wanted size of a replica set.
pub(super) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

struct View<'a> {
    deployment: &'a Deployment,
    new: Option<Arc<ReplicaSet>>,
    old: Vec<Arc<ReplicaSet>>,
    wanted: i32,
    bounds: Bounds,
    recreate: bool,
}

impl View<'_> {
    fn limits(&self) -> (i32, i32) {
        (self.wanted, self.wanted + self.bounds.surge)
    }

    fn old_total(&self) -> i32 {
        self.old.iter().map(|set| replicas(set)).sum()
    }
}

/// The next step of a deployment.
pub(super) fn plan(observed: &Observed<'_>) -> Plan {
    let spec = &observed.deployment.spec;
    let new = revision::find_new(observed.deployment, observed.sets);
    let is_new = |set: &Arc<ReplicaSet>| new.as_ref().is_some_and(|new| new.metadata.uid == set.metadata.uid);
    let wanted = spec.replicas.unwrap_or(1);
    let view = View {
        deployment: observed.deployment,
        old: observed.sets.iter().filter(|set| !is_new(set)).cloned().collect(),
        wanted,
        bounds: rolling::bounds(spec.strategy.as_ref(), wanted),
        recreate: spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate"),
        new,
    };
    let (status, look_again) = status::status(observed, spec, view.new.as_deref());
    let actions = match observed.deployment.metadata.deletion_timestamp {
        Some(_) => vec![],
        None => actions(&view, spec, observed.pods),
    };
    Plan { actions, status, look_again }
}

fn actions(view: &View<'_>, spec: &DeploymentSpec, pods: &[Arc<Pod>]) -> Vec<Action> {
    let paused = spec.paused == Some(true);
    let mut actions = Vec::new();
    if paused || is_scaling(view) {
        actions.extend(scale(view));
    } else if view.recreate {
        actions.extend(recreate(view, pods));
    } else {
        actions.extend(roll(view));
    }
    if actions.is_empty() && !paused {
        actions.extend(finish_new(view));
    }
    if actions.is_empty() && is_complete(view) {
        let limit = usize::try_from(spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
        actions.extend(revision::expired(&view.old, limit).into_iter().map(Action::Delete));
    }
    actions
}

/// The deployment's size was changed, as opposed to its template.
fn is_scaling(view: &View<'_>) -> bool {
    let differs = |set: &Arc<ReplicaSet>| {
        replicas(set) > 0
            && revision::number(set.annotations(), DESIRED).is_some_and(|n| n != i64::from(view.wanted))
    };
    view.new.iter().chain(&view.old).any(differs)
}

/// Only the size: one active replica set takes it all, several share it in proportion.
fn scale(view: &View<'_>) -> Vec<Action> {
    let mut active: Vec<&Arc<ReplicaSet>> =
        view.new.iter().chain(&view.old).filter(|s| replicas(s) > 0).collect();
    let rolled_out = view.new.as_ref().is_some_and(|new| {
        replicas(new) == view.wanted && status::available(new) == view.wanted && replicas(new) > 0
    });
    if rolled_out && !is_scaling(view) {
        return view.old.iter().filter_map(|set| resized(view, set, 0)).collect();
    }
    let only = match active.as_slice() {
        [] => view.new.as_ref().or(view.old.last()),
        [one] => Some(*one),
        _ => None,
    };
    if let Some(only) = only {
        return resized(view, only, view.wanted).into_iter().collect();
    }
    if view.recreate {
        return vec![];
    }
    let size = |set: &Arc<ReplicaSet>| std::cmp::Reverse(replicas(set));
    active.sort_by_key(|set| size(set));
    let sizes: Vec<i32> = active.iter().map(|set| replicas(set)).collect();
    let before = active.first().and_then(|set| revision::number(set.annotations(), MAX));
    let before = before.and_then(|max| i32::try_from(max).ok()).unwrap_or_else(|| sizes.iter().sum());
    let total = if view.wanted > 0 { view.wanted + view.bounds.surge } else { 0 };
    let targets = match is_scaling(view) {
        true => rolling::proportional(&sizes, before, total),
        false => sizes,
    };
    active.iter().zip(targets).filter_map(|(set, target)| resized(view, set, target)).collect()
}

fn recreate(view: &View<'_>, pods: &[Arc<Pod>]) -> Vec<Action> {
    let down: Vec<Action> = view.old.iter().filter_map(|set| resized(view, set, 0)).collect();
    let old_uids: Vec<_> = view.old.iter().filter_map(|set| set.metadata.uid.as_ref()).collect();
    let old_runs = pods
        .iter()
        .filter(|pod| !pods::is_finished(pod))
        .any(|pod| crate::claim::controller_of(&**pod).is_some_and(|owner| old_uids.contains(&&owner.uid)));
    if !down.is_empty() || old_runs {
        return down;
    }
    match &view.new {
        None => create(view, view.wanted),
        Some(new) => resized(view, new, view.wanted).into_iter().collect(),
    }
}

fn roll(view: &View<'_>) -> Vec<Action> {
    let Some(new) = &view.new else {
        return create(view, rolling::new_size(view.wanted, view.bounds, 0, view.old_total()));
    };
    let current = replicas(new);
    let size = match current > view.wanted {
        true => view.wanted,
        false => rolling::new_size(view.wanted, view.bounds, current, current + view.old_total()),
    };
    if size != current {
        return resized(view, new, size).into_iter().collect();
    }
    let seen = |set: &Arc<ReplicaSet>| Old {
        size: replicas(set),
        available: status::available(set).min(replicas(set)),
    };
    let old: Vec<Old> = view.old.iter().map(seen).collect();
    let sizes = rolling::old_sizes(view.wanted, view.bounds, seen(new), &old);
    let changed = view.old.iter().zip(sizes).filter(|(set, size)| replicas(set) != *size);
    changed.filter_map(|(set, size)| resized(view, set, size)).collect()
}

fn create(view: &View<'_>, size: i32) -> Vec<Action> {
    let revision = revision::next_revision(&view.old);
    let set = revision::new_set(view.deployment, revision, size, view.limits());
    let mut actions = vec![Action::Create(Box::new(set))];
    actions.extend(annotate(view, revision));
    actions
}

fn annotate(view: &View<'_>, revision: i64) -> Option<Action> {
    let current = revision::number(view.deployment.annotations(), REVISION);
    (current != Some(revision))
        .then(|| Action::Annotate([(REVISION.to_string(), revision.to_string())].into()))
}

/// The new replica set's revision and annotations, and the deployment's revision, when nothing else is to be done.
fn finish_new(view: &View<'_>) -> Vec<Action> {
    let Some(new) = &view.new else { return vec![] };
    let revision = revision::next_revision(&view.old).max(revision::revision_of(new));
    let mut changed = (**new).clone();
    changed.metadata.annotations =
        Some(revision::annotations(view.deployment, Some(new), revision, view.limits()));
    changed.spec.min_ready_seconds = view.deployment.spec.min_ready_seconds;
    let mut actions = Vec::new();
    if changed != **new {
        actions.push(Action::Update(new.clone(), Box::new(changed)));
    }
    actions.extend(annotate(view, revision));
    actions
}

/// The replica set in its new size, with the sizes that tell a later scaling apart; nothing if it is so already.
fn resized(view: &View<'_>, set: &Arc<ReplicaSet>, size: i32) -> Option<Action> {
    let mut changed = (**set).clone();
    changed.spec.replicas = Some(size);
    let (desired, max) = view.limits();
    let annotations = changed.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED.into(), desired.to_string());
    annotations.insert(MAX.into(), max.to_string());
    let idle = size == 0 && replicas(set) == 0;
    (changed != **set && !idle).then(|| Action::Update(set.clone(), Box::new(changed)))
}

fn is_complete(view: &View<'_>) -> bool {
    view.new.as_ref().is_some_and(|new| status::available(new) == view.wanted) && view.old_total() == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A deployment whose replica sets do at once what they are told.
    struct World {
        deployment: Deployment,
        sets: Vec<Arc<ReplicaSet>>,
        made: usize,
    }

    impl World {
        fn new(replicas: i32, strategy: &str) -> World {
            let value = json!({ "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 1},
                "spec": {"replicas": replicas, "strategy": {"type": strategy}, "progressDeadlineSeconds": 600,
                    "revisionHistoryLimit": 1, "selector": {"matchLabels": {"a": "b"}},
                    "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}}} });
            World { deployment: serde_json::from_value(value).unwrap(), sets: vec![], made: 0 }
        }

        fn set_image(&mut self, image: &str) {
            let container = serde_json::from_value(json!({"name": "c", "image": image})).unwrap();
            self.deployment.spec.template.spec.as_mut().unwrap().containers = vec![container];
        }

        fn step(&mut self) -> usize {
            let observed = Observed {
                deployment: &self.deployment,
                sets: &self.sets,
                pods: &[],
                now: Timestamp::UNIX_EPOCH,
            };
            let plan = plan(&observed);
            self.deployment.status = Some(plan.status);
            let count = plan.actions.len();
            plan.actions.into_iter().for_each(|action| self.apply(action));
            count
        }

        fn apply(&mut self, action: Action) {
            match action {
                Action::Create(mut set) => {
                    self.made += 1;
                    set.metadata.uid = Some(format!("set-{}", self.made));
                    self.sets.push(settle(*set));
                }
                Action::Update(old, new) => {
                    let slot = self.sets.iter_mut().find(|set| set.metadata.uid == old.metadata.uid).unwrap();
                    *slot = settle(*new);
                }
                Action::Delete(gone) => self.sets.retain(|set| set.metadata.uid != gone.metadata.uid),
                Action::Annotate(more) => {
                    self.deployment.metadata.annotations.get_or_insert_default().extend(more);
                }
            }
        }

        fn settle(&mut self) {
            for _ in 0..100 {
                let total: i32 = self.sets.iter().map(|set| replicas(set)).sum();
                assert!(total <= 10, "{total} replicas");
                if self.step() == 0 && self.step() == 0 {
                    return;
                }
            }
            panic!("no end: {:?}", self.sizes());
        }

        fn sizes(&self) -> Vec<i32> {
            self.sets.iter().map(|set| replicas(set)).collect()
        }

        fn reason(&self) -> String {
            let conditions = self.deployment.status.clone().unwrap().conditions.unwrap();
            conditions
                .into_iter()
                .find(|c| c.type_.as_deref() == Some("Progressing"))
                .unwrap()
                .reason
                .unwrap()
        }
    }

    fn settle(mut set: ReplicaSet) -> Arc<ReplicaSet> {
        let count = replicas(&set);
        let status = json!({"replicas": count, "readyReplicas": count, "availableReplicas": count});
        set.status = serde_json::from_value(status).unwrap();
        Arc::new(set)
    }

    #[test]
    fn rollouts_end_with_the_new_template_and_keep_their_history() {
        for strategy in ["RollingUpdate", "Recreate"] {
            let mut world = World::new(5, strategy);
            world.settle();
            assert_eq!(world.sizes(), [5]);
            for image in ["one", "two", "three"] {
                world.set_image(image);
                world.settle();
            }
            assert_eq!(world.sizes(), [0, 5], "{strategy}: the limit leaves one old replica set");
            assert_eq!(world.deployment.annotations()[revision::REVISION], "4");
            assert_eq!(world.reason(), "NewReplicaSetAvailable");
        }
    }

    #[test]
    fn going_back_takes_the_old_replica_set_under_a_new_revision() {
        let mut world = World::new(3, "RollingUpdate");
        world.set_image("one");
        world.settle();
        world.set_image("two");
        world.settle();
        world.set_image("one");
        world.settle();
        assert_eq!(world.sizes(), [3, 0]);
        assert_eq!(revision::revision_of(&world.sets[0]), 3);
        assert_eq!(world.sets[0].annotations()[revision::REVISION_HISTORY], "1");
    }

    #[test]
    fn scaling_changes_the_size_without_a_new_revision_and_works_while_paused() {
        let mut world = World::new(2, "RollingUpdate");
        world.settle();
        world.deployment.spec.paused = Some(true);
        world.deployment.spec.replicas = Some(7);
        world.set_image("ignored while paused");
        world.settle();
        assert_eq!(world.sizes(), [7]);
        world.deployment.spec.paused = None;
        world.deployment.spec.replicas = Some(0);
        world.settle();
        assert_eq!(world.sizes().iter().sum::<i32>(), 0);
    }
}
