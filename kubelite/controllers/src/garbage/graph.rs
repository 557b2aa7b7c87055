//! Who depends on whom, over all kinds, and what follows from it. No I/O.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::discovery::ApiResource;
use kubelite_informer::Key;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

/// The little that the collector remembers of an object.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) resource: Arc<ApiResource>,
    pub(super) key: Key,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) deleting: bool,
    pub(super) foreground: bool,
    pub(super) orphan: bool,
}

/// All objects by UID.
#[derive(Default)]
pub(super) struct Graph {
    objects: HashMap<String, Object>,
    dependents: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    /// Takes in a state of an object and returns the UIDs to look at.
    pub(super) fn apply(&mut self, resource: &Arc<ApiResource>, meta: &ObjectMeta) -> Vec<String> {
        let Some(uid) = meta.uid.clone() else { return vec![] };
        let key = Key::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        let has = |name: &str| meta.finalizers.iter().flatten().any(|finalizer| finalizer == name);
        let object = Object {
            resource: resource.clone(),
            key,
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
        };
        let mut affected = self.unlink(&uid);
        for owner in &object.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        affected.extend(object.owners.iter().map(|owner| owner.uid.clone()));
        // An owner is only interested if it waits for its dependents.
        affected.retain(|owner| self.objects.get(owner).is_some_and(|owner| owner.foreground));
        if !object.owners.is_empty() || object.deleting {
            affected.push(uid.clone());
        }
        self.objects.insert(uid, object);
        affected
    }

    /// Forgets a deleted object and returns its dependents, and its owners that may wait for it.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<String> {
        let mut affected = self.unlink(uid);
        self.objects.remove(uid);
        affected.extend(self.dependents.get(uid).into_iter().flatten().cloned());
        affected
    }

    fn unlink(&mut self, uid: &str) -> Vec<String> {
        let owners = self.objects.get(uid).map(|object| object.owners.clone()).unwrap_or_default();
        for owner in &owners {
            if let Some(set) = self.dependents.get_mut(&owner.uid) {
                set.remove(uid);
                if set.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
        owners.into_iter().map(|owner| owner.uid).collect()
    }

    pub(super) fn get(&self, uid: &str) -> Option<&Object> {
        self.objects.get(uid)
    }

    /// The objects that name `uid` as an owner, with whether they block its deletion.
    pub(super) fn dependents(&self, uid: &str) -> Vec<(String, Object, bool)> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        let found = uids.filter_map(|dependent| {
            let object = self.objects.get(dependent)?;
            let blocks = object.owners.iter().any(|o| o.uid == uid && o.block_owner_deletion == Some(true));
            Some((dependent.clone(), object.clone(), blocks))
        });
        found.collect()
    }
}

/// What the owners of an object are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// Exists and stays.
    Solid,
    /// Does not exist.
    Absent,
    /// Is being deleted, after its dependents.
    Waiting,
}

/// What to do with an object that isn't being deleted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    /// Remove the references to these owners (UIDs).
    Release(Vec<String>),
    /// Delete it; in the foreground if an owner waits for it and it has dependents itself.
    Delete {
        foreground: bool,
    },
}

/// Decides by the owners' states (UID, state).
pub(super) fn judge(owners: &[(String, Owner)], has_dependents: bool) -> Verdict {
    let solid = owners.iter().any(|(_, state)| *state == Owner::Solid);
    let lost: Vec<String> =
        owners.iter().filter(|(_, state)| *state != Owner::Solid).map(|(uid, _)| uid.clone()).collect();
    match (lost.is_empty(), solid) {
        (true, _) => Verdict::Keep,
        (false, true) => Verdict::Release(lost),
        (false, false) => {
            let waited_for = owners.iter().any(|(_, state)| *state == Owner::Waiting);
            Verdict::Delete { foreground: waited_for && has_dependents }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(uid: &str, owner: Option<&str>) -> ObjectMeta {
        let owner = owner.map(|uid| {
            vec![OwnerReference {
                uid: uid.into(),
                block_owner_deletion: Some(true),
                ..OwnerReference::default()
            }]
        });
        ObjectMeta {
            uid: Some(uid.into()),
            name: Some(uid.into()),
            owner_references: owner,
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn removal_of_an_owner_brings_its_dependents_up_also_in_a_circle() {
        let resource = Arc::new(ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&()));
        let mut graph = Graph::default();
        graph.apply(&resource, &meta("a", Some("b")));
        graph.apply(&resource, &meta("b", Some("a")));
        assert_eq!(graph.dependents("a").len(), 1);
        let mut affected = graph.remove("a");
        affected.dedup();
        assert!(affected.contains(&"b".to_string()));
        assert!(graph.dependents("b").is_empty());
    }

    #[test]
    fn verdicts() {
        let owners = |states: &[Owner]| -> Vec<_> {
            states.iter().enumerate().map(|(i, state)| (i.to_string(), *state)).collect()
        };
        use Owner::{Absent, Solid, Waiting};
        assert_eq!(judge(&owners(&[Solid]), true), Verdict::Keep);
        assert_eq!(judge(&[], true), Verdict::Keep);
        assert_eq!(judge(&owners(&[Solid, Waiting]), true), Verdict::Release(vec!["1".into()]));
        assert_eq!(judge(&owners(&[Absent]), true), Verdict::Delete { foreground: false });
        assert_eq!(judge(&owners(&[Waiting]), true), Verdict::Delete { foreground: true });
        assert_eq!(judge(&owners(&[Waiting]), false), Verdict::Delete { foreground: false });
    }
}
