//! THE resource table: one row a kind. Discovery, routing, storage keys, selectors and OpenAPI all read it.
//!
//! What lives here: names and facts. What doesn't: behaviour, which is the row's strategy and has defaults for all that a
//! kind does not name; and columns, which `kubelite_api::table` prints.

use crate::custom::{self, Custom};
use crate::strategy::{self, Strategy};

/// One kind, as the API serves it.
pub struct Resource {
    /// `""` is the core group.
    pub group: &'static str,
    /// E.g. `v1`.
    pub version: &'static str,
    /// The name in paths, e.g. `pods`.
    pub plural: &'static str,
    /// E.g. `pod`.
    pub singular: &'static str,
    /// E.g. `Pod`.
    pub kind: &'static str,
    /// E.g. `po`.
    pub short: &'static [&'static str],
    /// E.g. `all`.
    pub categories: &'static [&'static str],
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// The key below `/registry/`, as upstream lays it out.
    pub prefix: &'static str,
    /// Paths by which a field selector may select, beside `metadata.name` and `metadata.namespace`.
    pub fields: &'static [&'static str],
    /// Subresources that read and write the object itself: `status`, `scale`, `finalize`, `binding`, `eviction`.
    pub subresources: &'static [&'static str],
    /// Subresources that are connections to a node, and `token`: answered elsewhere, listed for discovery.
    pub connections: &'static [(&'static str, &'static str)],
    /// What the kind does that others don't.
    pub strategy: &'static dyn Strategy,
    /// What a definition says of a custom kind; none for those of this table.
    pub custom: Option<&'static Custom>,
}

impl Resource {
    /// `apps/v1`, or `v1` in the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `deployments.apps`, or `pods` in the core group: how errors name it.
    pub fn qualified(&self) -> String {
        qualify(self.plural, self.group)
    }

    /// `Deployment.apps`, or `Pod`: how validation errors name it.
    pub fn qualified_kind(&self) -> String {
        qualify(self.kind, self.group)
    }

    /// Where all its objects lie in the store.
    pub fn key_prefix(&self) -> String {
        format!("/registry/{}/", self.prefix)
    }

    /// Where one object lies.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced {
            format!("/registry/{}/{namespace}/{name}", self.prefix)
        } else {
            format!("/registry/{}/{name}", self.prefix)
        }
    }

    /// The kind that is stored: another version of the same objects may be the one (events).
    pub fn stored(&self) -> &'static Resource {
        if let Some(stored) = self.custom.and_then(Custom::stored) {
            return stored;
        }
        RESOURCES.iter().find(|r| r.prefix == self.prefix).unwrap_or(&RESOURCES[0])
    }
}

impl Resource {
    /// The kind of its lists.
    pub fn list_kind(&self) -> String {
        self.custom.map_or_else(|| format!("{}List", self.kind), |custom| custom.version().list_kind.clone())
    }
}

fn qualify(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

/// The first row with this plural: for our own lookups by a bare name.
pub fn by_plural(plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.plural == plural)
}

/// A resource that is asked and never stored; only `create`.
pub struct VirtualResource {
    /// E.g. `authorization.k8s.io`.
    pub group: &'static str,
    /// E.g. `v1`.
    pub version: &'static str,
    /// E.g. `subjectaccessreviews`.
    pub plural: &'static str,
    /// E.g. `SubjectAccessReview`.
    pub kind: &'static str,
    /// Whether it is asked in a namespace.
    pub namespaced: bool,
}

/// The reviews.
pub static VIRTUAL: &[VirtualResource] = &[
    review("authentication.k8s.io", "tokenreviews", "TokenReview"),
    review("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview"),
    review("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview"),
    review("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    review("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    VirtualResource {
        namespaced: true,
        ..review("authorization.k8s.io", "localsubjectaccessreviews", "LocalSubjectAccessReview")
    },
];

const fn review(group: &'static str, plural: &'static str, kind: &'static str) -> VirtualResource {
    VirtualResource { group, version: "v1", plural, kind, namespaced: false }
}

/// A row with the defaults of a namespaced kind.
const fn row(
    group: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    prefix: &'static str,
) -> Resource {
    Resource {
        group,
        version: "v1",
        plural,
        singular,
        kind,
        short: &[],
        categories: &[],
        namespaced: true,
        prefix,
        fields: &[],
        subresources: &[],
        connections: &[],
        strategy: &strategy::Plain,
        custom: None,
    }
}

/// Where the definitions of custom resources lie.
pub const DEFINITIONS: &str = "apiextensions.k8s.io/customresourcedefinitions";
const APPS: &str = "apps";
const RBAC: &str = "rbac.authorization.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const STORAGE: &str = "storage.k8s.io";
const SCALED: &[&str] = &["status", "scale"];

/// The table.
#[rustfmt::skip]
pub static RESOURCES: &[Resource] = &[
    Resource { namespaced: false, short: &["ns"], fields: &["status.phase"], subresources: &["status", "finalize"], strategy: &strategy::Namespace,
        ..row("", "namespaces", "namespace", "Namespace", "namespaces") },
    Resource { namespaced: false, short: &["no"], fields: &["spec.unschedulable"], subresources: &["status"], connections: &[("proxy", "NodeProxyOptions")], strategy: &strategy::WithStatus,
        ..row("", "nodes", "node", "Node", "minions") },
    Resource { short: &["po"], categories: &["all"], fields: &["spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork", "status.phase", "status.podIP", "status.nominatedNodeName"],
        subresources: &["status", "binding", "eviction"],
        connections: &[("log", "Pod"), ("exec", "PodExecOptions"), ("attach", "PodAttachOptions"), ("portforward", "PodPortForwardOptions"), ("proxy", "PodProxyOptions")],
        strategy: &strategy::Pod, ..row("", "pods", "pod", "Pod", "pods") },
    Resource { short: &["cm"], ..row("", "configmaps", "configmap", "ConfigMap", "configmaps") },
    Resource { fields: &["type"], strategy: &strategy::Secret, ..row("", "secrets", "secret", "Secret", "secrets") },
    Resource { short: &["sa"], connections: &[("token", "TokenRequest")], ..row("", "serviceaccounts", "serviceaccount", "ServiceAccount", "serviceaccounts") },
    Resource { short: &["svc"], categories: &["all"], fields: &["spec.clusterIP", "spec.type"], subresources: &["status"], connections: &[("proxy", "ServiceProxyOptions")], strategy: &strategy::Service,
        ..row("", "services", "service", "Service", "services/specs") },
    Resource { short: &["ep"], ..row("", "endpoints", "endpoints", "Endpoints", "services/endpoints") },
    Resource { short: &["ev"], fields: strategy::EVENT_FIELDS, strategy: &strategy::Event, ..row("", "events", "event", "Event", "events") },
    Resource { short: &["rc"], categories: &["all"], fields: &["status.replicas"], subresources: SCALED, strategy: &strategy::ReplicationController,
        ..row("", "replicationcontrollers", "replicationcontroller", "ReplicationController", "controllers") },
    Resource { short: &["quota"], subresources: &["status"], strategy: &strategy::WithStatus, ..row("", "resourcequotas", "resourcequota", "ResourceQuota", "resourcequotas") },
    Resource { short: &["limits"], ..row("", "limitranges", "limitrange", "LimitRange", "limitranges") },
    row("", "podtemplates", "podtemplate", "PodTemplate", "podtemplates"),
    Resource { namespaced: false, short: &["pv"], subresources: &["status"], strategy: &strategy::Volume,
        ..row("", "persistentvolumes", "persistentvolume", "PersistentVolume", "persistentvolumes") },
    Resource { short: &["pvc"], subresources: &["status"], strategy: &strategy::Volume,
        ..row("", "persistentvolumeclaims", "persistentvolumeclaim", "PersistentVolumeClaim", "persistentvolumeclaims") },
    Resource { short: &["deploy"], categories: &["all"], subresources: SCALED, strategy: &strategy::WithStatus,
        ..row(APPS, "deployments", "deployment", "Deployment", "deployments") },
    Resource { short: &["rs"], categories: &["all"], fields: &["status.replicas"], subresources: SCALED, strategy: &strategy::WithStatus,
        ..row(APPS, "replicasets", "replicaset", "ReplicaSet", "replicasets") },
    Resource { short: &["ds"], categories: &["all"], subresources: &["status"], strategy: &strategy::WithStatus,
        ..row(APPS, "daemonsets", "daemonset", "DaemonSet", "daemonsets") },
    Resource { short: &["sts"], categories: &["all"], subresources: SCALED, strategy: &strategy::WithStatus,
        ..row(APPS, "statefulsets", "statefulset", "StatefulSet", "statefulsets") },
    row(APPS, "controllerrevisions", "controllerrevision", "ControllerRevision", "controllerrevisions"),
    Resource { categories: &["all"], fields: &["status.successful"], subresources: &["status"], strategy: &strategy::Job,
        ..row("batch", "jobs", "job", "Job", "jobs") },
    Resource { short: &["cj"], categories: &["all"], subresources: &["status"], strategy: &strategy::WithStatus,
        ..row("batch", "cronjobs", "cronjob", "CronJob", "cronjobs") },
    row("coordination.k8s.io", "leases", "lease", "Lease", "leases"),
    row("discovery.k8s.io", "endpointslices", "endpointslice", "EndpointSlice", "endpointslices"),
    Resource { short: &["ev"], fields: strategy::EVENT_FIELDS, strategy: &strategy::Event, ..row("events.k8s.io", "events", "event", "Event", "events") },
    Resource { short: &["pdb"], subresources: &["status"], strategy: &strategy::WithStatus,
        ..row("policy", "poddisruptionbudgets", "poddisruptionbudget", "PodDisruptionBudget", "poddisruptionbudgets") },
    row(RBAC, "roles", "role", "Role", "roles"),
    row(RBAC, "rolebindings", "rolebinding", "RoleBinding", "rolebindings"),
    Resource { namespaced: false, ..row(RBAC, "clusterroles", "clusterrole", "ClusterRole", "clusterroles") },
    Resource { namespaced: false, ..row(RBAC, "clusterrolebindings", "clusterrolebinding", "ClusterRoleBinding", "clusterrolebindings") },
    Resource { namespaced: false, short: &["pc"], ..row("scheduling.k8s.io", "priorityclasses", "priorityclass", "PriorityClass", "priorityclasses") },
    Resource { short: &["ing"], subresources: &["status"], strategy: &strategy::WithStatus, ..row(NETWORKING, "ingresses", "ingress", "Ingress", "ingress") },
    Resource { namespaced: false, ..row(NETWORKING, "ingressclasses", "ingressclass", "IngressClass", "ingressclasses") },
    Resource { short: &["netpol"], strategy: &strategy::Counted, ..row(NETWORKING, "networkpolicies", "networkpolicy", "NetworkPolicy", "networkpolicies") },
    Resource { namespaced: false, short: &["sc"], ..row(STORAGE, "storageclasses", "storageclass", "StorageClass", "storageclasses") },
    Resource { namespaced: false, ..row(STORAGE, "csidrivers", "csidriver", "CSIDriver", "csidrivers") },
    Resource { namespaced: false, ..row(STORAGE, "csinodes", "csinode", "CSINode", "csinodes") },
    row(STORAGE, "csistoragecapacities", "csistoragecapacity", "CSIStorageCapacity", "csistoragecapacities"),
    Resource { namespaced: false, subresources: &["status"], strategy: &strategy::Attachment, ..row(STORAGE, "volumeattachments", "volumeattachment", "VolumeAttachment", "volumeattachments") },
    Resource { namespaced: false, short: &["vac"], ..row(STORAGE, "volumeattributesclasses", "volumeattributesclass", "VolumeAttributesClass", "volumeattributesclasses") },
    Resource { namespaced: false, short: &["crd", "crds"], categories: &["api-extensions"], subresources: &["status"], strategy: &custom::strategy::Definition,
        ..row("apiextensions.k8s.io", "customresourcedefinitions", "customresourcedefinition", "CustomResourceDefinition", DEFINITIONS) },
    Resource { namespaced: false, ..row("node.k8s.io", "runtimeclasses", "runtimeclass", "RuntimeClass", "runtimeclasses") },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_schema_and_a_place_of_its_own() {
        let mut places = std::collections::BTreeMap::new();
        for row in RESOURCES {
            let schema = kubelite_api::schema::for_kind(row.group, row.version, row.kind);
            assert!(schema.is_some(), "{} has no schema", row.kind);
            let kind = places.entry(row.prefix).or_insert(row.kind);
            assert_eq!(*kind, row.kind, "two kinds at {}", row.prefix);
        }
    }
}
