//! Who a stateful pod is: its ordinal, its names, its labels and its claims (KEP-3335, KEP-4017, KEP-1847). No I/O.

use crate::claim::{controller_of, controller_ref};
use crate::pods;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use std::collections::BTreeMap;

/// The label that names the pod's revision.
pub(super) const REVISION_LABEL: &str = "controller-revision-hash";
const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// A template, and the name of the revision that keeps it.
pub(super) struct Revision {
    pub(super) name: String,
    pub(super) template: PodTemplateSpec,
}

pub(super) fn start(set: &StatefulSet) -> i32 {
    set.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0)
}

pub(super) fn replicas(set: &StatefulSet) -> i32 {
    set.spec.replicas.unwrap_or(1).max(0)
}

/// The ordinal in a pod's name; none if it isn't a name of this set's.
pub(super) fn ordinal(set: &StatefulSet, name: &str) -> Option<i32> {
    let digits = name.strip_prefix(&set.name_any())?.strip_prefix('-')?;
    let ordinal = digits.parse().ok().filter(|ordinal| *ordinal >= 0)?;
    (pod_name(set, ordinal) == name).then_some(ordinal)
}

pub(super) fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set.name_any())
}

pub(super) fn revision_of(pod: &Pod) -> &str {
    pod.labels().get(REVISION_LABEL).map_or("", String::as_str)
}

/// The labels by which a pod is found by its name or number.
pub(super) fn labels(set: &StatefulSet, ordinal: i32) -> BTreeMap<String, String> {
    [(NAME_LABEL, pod_name(set, ordinal)), (INDEX_LABEL, ordinal.to_string())]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

/// The pod of an ordinal, as a revision has it.
pub(super) fn pod(set: &StatefulSet, revision: &Revision, ordinal: i32) -> Pod {
    let namespace = set.namespace().unwrap_or_default();
    let mut pod = pods::from_template(&revision.template, controller_ref(set), &namespace);
    let name = pod_name(set, ordinal);
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    let own = pod.metadata.labels.get_or_insert_default();
    own.extend(labels(set, ordinal));
    own.insert(REVISION_LABEL.into(), revision.name.clone());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set.spec.service_name.clone().filter(|service| !service.is_empty());
    let volumes = spec.volumes.get_or_insert_default();
    for template in set.spec.volume_claim_templates.iter().flatten() {
        let source = PersistentVolumeClaimVolumeSource {
            claim_name: claim_name(set, template, ordinal),
            read_only: None,
        };
        let volume =
            Volume { name: template.name_any(), persistent_volume_claim: Some(source), ..Volume::default() };
        volumes.retain(|other| other.name != volume.name);
        volumes.push(volume);
    }
    pod
}

fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}-{ordinal}", template.name_any(), set.name_any())
}

/// The names of the claims of an ordinal.
pub(super) fn claim_names(set: &StatefulSet, ordinal: i32) -> impl Iterator<Item = String> {
    let templates = set.spec.volume_claim_templates.iter().flatten();
    templates.map(move |template| claim_name(set, template, ordinal))
}

/// Whether a claim of this name belongs to a pod of this set.
pub(super) fn is_claim(set: &StatefulSet, name: &str) -> bool {
    let templates = set.spec.volume_claim_templates.iter().flatten();
    let mut pods = templates.filter_map(|t| name.strip_prefix(&t.name_any())?.strip_prefix('-'));
    pods.any(|pod| ordinal(set, pod).is_some())
}

/// The claims of an ordinal, as its pod needs them.
pub(super) fn claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let templates = set.spec.volume_claim_templates.iter().flatten();
    let selected = set.spec.selector.match_labels.clone().unwrap_or_default();
    let made = templates.map(|template| {
        let mut claim = PersistentVolumeClaim { status: None, ..template.clone() };
        claim.metadata.name = Some(claim_name(set, template, ordinal));
        claim.metadata.namespace = set.namespace();
        claim.metadata.labels.get_or_insert_default().extend(selected.clone());
        let owners = owners(set, ordinal, None, &claim);
        claim.metadata.owner_references = owners.filter(|owners| !owners.is_empty());
        claim
    });
    made.collect()
}

/// Whether a claim goes with its set, and whether it goes with its pod when the set shrinks.
fn retention(set: &StatefulSet) -> (bool, bool) {
    let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
    let deletes = |value: Option<&String>| value.is_some_and(|value| value == "Delete");
    (
        deletes(policy.and_then(|p| p.when_deleted.as_ref())),
        deletes(policy.and_then(|p| p.when_scaled.as_ref())),
    )
}

/// The owners that a claim must have by the retention policy; none if it has them. A condemned pod owns its claim where the
/// policy wants it gone with the pod, else the set owns it where the policy wants it gone with the set. A claim that some
/// other controller owns is left alone.
pub(super) fn owners(
    set: &StatefulSet,
    ordinal: i32,
    pod: Option<&Pod>,
    claim: &PersistentVolumeClaim,
) -> Option<Vec<OwnerReference>> {
    let (with_set, with_pod) = retention(set);
    let condemned = ordinal < start(set) || ordinal >= start(set).saturating_add(replicas(set));
    let by_set = |owner: &OwnerReference| owner.kind == "StatefulSet" && owner.name == set.name_any();
    let by_pod = |owner: &OwnerReference| owner.kind == "Pod" && owner.name == pod_name(set, ordinal);
    if controller_of(claim).is_some_and(|by| !by_set(by) && !by_pod(by)) {
        return None;
    }
    let wanted = match (with_set, with_pod, condemned) {
        (_, true, true) => pod.map(controller_ref),
        (true, _, _) => Some(controller_ref(set)),
        _ => None,
    };
    let others = claim.owner_references().iter().filter(|owner| !by_set(owner) && !by_pod(owner)).cloned();
    let owners: Vec<OwnerReference> = others.chain(wanted).collect();
    (owners != claim.owner_references()).then_some(owners)
}

/// Whether a claim is about to go: nobody may use it any more, a new one takes its place.
pub(super) fn is_stale(set: &StatefulSet, ordinal: i32, claim: &PersistentVolumeClaim) -> bool {
    // Asked only when there is no pod, so that a pod that owns it is a former one.
    let name = pod_name(set, ordinal);
    let of_pod = claim.owner_references().iter().any(|owner| owner.kind == "Pod" && owner.name == name);
    of_pod || claim.metadata.deletion_timestamp.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(policy: &serde_json::Value) -> StatefulSet {
        serde_json::from_value(json!({ "metadata": {"name": "web", "namespace": "ns", "uid": "s"},
            "spec": {"serviceName": "svc", "replicas": 2, "ordinals": {"start": 3},
                "persistentVolumeClaimRetentionPolicy": policy,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [],
                    "volumes": [{"name": "www", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]}},
                "volumeClaimTemplates": [{"metadata": {"name": "www"}, "spec": {}}]} }))
        .unwrap()
    }

    #[test]
    fn a_pod_has_name_host_labels_and_claims_of_its_own() {
        let set = set(&json!({}));
        let revision = Revision { name: "web-abc".into(), template: set.spec.template.clone() };
        let pod = pod(&set, &revision, 4);
        assert_eq!((pod.name_any().as_str(), ordinal(&set, "web-4")), ("web-4", Some(4)));
        assert_eq!((pod.labels()[NAME_LABEL].as_str(), pod.labels()[INDEX_LABEL].as_str()), ("web-4", "4"));
        assert_eq!(revision_of(&pod), "web-abc");
        let spec = pod.spec.unwrap();
        assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("web-4"), Some("svc")));
        let volumes = json!(spec.volumes);
        assert_eq!(
            volumes,
            json!([{"name": "tmp", "emptyDir": {}}, {"name": "www", "persistentVolumeClaim": {"claimName": "www-web-4"}}])
        );
        assert_eq!(claims(&set, 4)[0].labels()["app"], "web");
        for foreign in ["web", "web-", "web-x", "web-04", "web-a-1", "other-1", "web--1"] {
            assert_eq!(ordinal(&set, foreign), None, "{foreign}");
        }
    }

    #[test]
    fn claims_are_owned_as_the_policy_says() {
        let pod = |ordinal: i32| -> Pod {
            let name = format!("web-{ordinal}");
            serde_json::from_value(json!({"metadata": {"name": name, "uid": "p"}})).unwrap()
        };
        // Ordinals 3 and 4 stay, 5 is condemned.
        for (deleted, scaled, ordinal, expected) in [
            ("Retain", "Retain", 3, None),
            ("Retain", "Retain", 5, None),
            ("Delete", "Retain", 3, Some("StatefulSet")),
            ("Delete", "Retain", 5, Some("StatefulSet")),
            ("Retain", "Delete", 3, None),
            ("Retain", "Delete", 5, Some("Pod")),
            ("Delete", "Delete", 3, Some("StatefulSet")),
            ("Delete", "Delete", 5, Some("Pod")),
        ] {
            let set = set(&json!({"whenDeleted": deleted, "whenScaled": scaled}));
            let mut claim = PersistentVolumeClaim::default();
            let found = owners(&set, ordinal, Some(&pod(ordinal)), &claim);
            let kinds = found.as_ref().map(|owners| owners[0].kind.as_str());
            assert_eq!(kinds, expected, "{deleted} {scaled} {ordinal}");
            claim.metadata.owner_references = found;
            assert_eq!(owners(&set, ordinal, Some(&pod(ordinal)), &claim), None, "once set it stays");
            if expected.is_some() {
                let keep = self::set(&json!({}));
                assert_eq!(
                    owners(&keep, ordinal, Some(&pod(ordinal)), &claim),
                    Some(vec![]),
                    "the policy changed"
                );
            }
        }
    }
}
