//! Whether an object makes sense: pure validators with upstream's reasons and texts.
//!
//! `KINDS` is the table: for each kind the rule of its name and the checks of its content; a kind without a row gets the
//! checks of its metadata alone. What doesn't live here: types (`schema` has checked them), uniqueness across objects,
//! and what admission decides. Subresources that change what an update may not (`binding`, `ephemeralcontainers`,
//! `resize`) are the caller's: it validates their result without `old`.

mod budget;
mod config;
mod container;
mod cron_job;
mod job;
mod job_policy;
mod meta;
mod network;
mod pod;
pub(crate) mod report;
mod service;
mod stateful_set;
mod storage;
mod volume;
mod workload;

use serde_json::Value;

use crate::custom::definition;
use crate::names;
use crate::status::FieldError;
use report::Report;

type NameRule = fn(&str) -> Vec<String>;
type Check = fn(&mut Report, &Value, Option<&Value>);

struct KindRules {
    group: &'static str,
    kind: &'static str,
    name: NameRule,
    check: Check,
}

const fn kind(group: &'static str, kind: &'static str, name: NameRule, check: Check) -> KindRules {
    KindRules { group, kind, name, check }
}

const RBAC: &str = "rbac.authorization.k8s.io";
const STORAGE: &str = "storage.k8s.io";

#[rustfmt::skip]
const KINDS: &[KindRules] = &[
    kind("", "Pod", names::dns1123_subdomain, pod::pod),
    kind("", "PodTemplate", names::dns1123_subdomain, workload::pod_template),
    kind("", "ReplicationController", names::dns1123_subdomain, workload::replication_controller),
    kind("apps", "ReplicaSet", names::dns1123_subdomain, workload::selecting),
    kind("apps", "Deployment", names::dns1123_subdomain, workload::deployment),
    kind("apps", "DaemonSet", names::dns1123_subdomain, workload::selecting),
    kind("apps", "StatefulSet", names::dns1123_label, stateful_set::stateful_set),
    kind("batch", "Job", names::dns1123_subdomain, job::job),
    kind("batch", "CronJob", names::dns1123_subdomain, cron_job::cron_job),
    kind("policy", "PodDisruptionBudget", names::dns1123_subdomain, budget::budget),
    kind("", "PersistentVolume", names::dns1123_subdomain, volume::volume),
    kind("", "PersistentVolumeClaim", names::dns1123_subdomain, volume::claim),
    kind("", "Service", names::dns1035_label, service::service),
    kind("", "Endpoints", names::dns1123_subdomain, service::endpoints),
    kind("discovery.k8s.io", "EndpointSlice", names::dns1123_subdomain, service::endpoint_slice),
    kind("", "Namespace", names::dns1123_label, config::nothing),
    kind("", "Node", names::dns1123_subdomain, config::node),
    kind("", "ConfigMap", names::dns1123_subdomain, config::config_map),
    kind("", "Secret", names::dns1123_subdomain, config::secret),
    kind("coordination.k8s.io", "Lease", names::dns1123_subdomain, config::lease),
    kind("apiextensions.k8s.io", "CustomResourceDefinition", names::dns1123_subdomain, definition::check),
    kind("networking.k8s.io", "Ingress", names::dns1123_subdomain, network::ingress),
    kind("networking.k8s.io", "IngressClass", names::dns1123_subdomain, network::ingress_class),
    kind("networking.k8s.io", "NetworkPolicy", names::dns1123_subdomain, network::policy),
    kind(STORAGE, "StorageClass", names::dns1123_subdomain, storage::class),
    kind(STORAGE, "CSIDriver", names::dns1123_subdomain, storage::driver),
    kind(STORAGE, "CSINode", names::dns1123_subdomain, storage::node),
    kind(STORAGE, "CSIStorageCapacity", names::dns1123_subdomain, storage::capacity),
    kind(STORAGE, "VolumeAttachment", names::dns1123_subdomain, storage::attachment),
    kind(STORAGE, "VolumeAttributesClass", names::dns1123_subdomain, storage::attributes),
    kind(RBAC, "Role", names::path_segment, config::role),
    kind(RBAC, "ClusterRole", names::path_segment, config::role),
    kind(RBAC, "RoleBinding", names::path_segment, config::binding),
    kind(RBAC, "ClusterRoleBinding", names::path_segment, config::binding),
];

const OTHER: KindRules = kind("", "", names::dns1123_subdomain, config::nothing);

/// All that is wrong with `new`, as an update of `old` if there is one. `new` has its defaults already.
pub fn object(group: &str, kind: &str, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let rules = KINDS.iter().find(|k| k.group == group && k.kind == kind).unwrap_or(&OTHER);
    let mut report = Report::default();
    meta::metadata(&mut report, rules.name, new, old);
    (rules.check)(&mut report, new, old);
    report.into_errors()
}

#[cfg(test)]
mod tests;
