//! How each list (and a few objects) is merged: by strategic merge patch and by server-side apply.
//!
//! One row per field that isn't simply replaced as a whole. A field without a row is atomic if it is a list and
//! granular if it is an object, unless its definition is atomic.

/// How one field is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListRule {
    /// The definition that has the field.
    pub definition: &'static str,
    /// The field.
    pub field: &'static str,
    /// `x-kubernetes-patch-strategy`: `merge`, `retainKeys`, `merge,retainKeys`, `replace` or none.
    pub patch_strategy: &'static str,
    /// `x-kubernetes-patch-merge-key`; none for a list of scalars.
    pub merge_key: &'static str,
    /// `x-kubernetes-list-type`: `map`, `set`, or none, which means `atomic`.
    pub list_type: &'static str,
    /// `x-kubernetes-list-map-keys` of a `map`.
    pub list_map_keys: &'static [&'static str],
}

impl ListRule {
    /// Whether a strategic patch merges the list item by item.
    pub fn merges(&self) -> bool {
        self.patch_strategy.starts_with("merge")
    }

    /// Whether `$retainKeys` is meant for this field (or for each item of this list).
    pub fn retains_keys(&self) -> bool {
        self.patch_strategy.ends_with("retainKeys")
    }

    /// Whether a strategic patch replaces the value as a whole.
    pub fn replaces(&self) -> bool {
        self.patch_strategy == "replace"
    }
}

/// The rule of a field, if it has one.
pub fn lookup(definition: &str, field: &str) -> Option<&'static ListRule> {
    let at = RULES.binary_search_by(|r| (r.definition, r.field).cmp(&(definition, field))).ok()?;
    RULES.get(at)
}

/// Whether an object in this field is owned and replaced as a whole, as far as the field decides (`x-kubernetes-map-type: atomic`); else its
/// definition does: see [`is_atomic`].
pub fn is_atomic_field(definition: &str, field: &str) -> bool {
    ATOMIC_FIELDS.contains(&(definition, field))
}

/// Whether objects of this definition are owned and replaced as a whole (`x-kubernetes-map-type: atomic`).
pub fn is_atomic(definition: &str) -> bool {
    ATOMIC.binary_search(&definition).is_ok()
}

/// Whether the field's object is granular although its definition is atomic.
pub fn is_granular_field(definition: &str, field: &str) -> bool {
    (definition, field) == ("io.k8s.api.core.v1.PersistentVolumeSpec", "claimRef")
}

const fn rule(
    definition: &'static str,
    field: &'static str,
    patch_strategy: &'static str,
    merge_key: &'static str,
    list_type: &'static str,
    list_map_keys: &'static [&'static str],
) -> ListRule {
    ListRule { definition, field, patch_strategy, merge_key, list_type, list_map_keys }
}

const ATOMIC_FIELDS: &[(&str, &str)] = &[
    ("io.k8s.api.core.v1.PodSpec", "nodeSelector"),
    ("io.k8s.api.core.v1.ReplicationControllerSpec", "selector"),
    ("io.k8s.api.core.v1.ServiceSpec", "selector"),
    ("io.k8s.api.node.v1.Scheduling", "nodeSelector"),
];

const ATOMIC: &[&str] = &[
    "io.k8s.api.admissionregistration.v1.MatchResources",
    "io.k8s.api.admissionregistration.v1.NamedRuleWithOperations",
    "io.k8s.api.admissionregistration.v1.ParamKind",
    "io.k8s.api.admissionregistration.v1.ParamRef",
    "io.k8s.api.autoscaling.v1.CrossVersionObjectReference",
    "io.k8s.api.core.v1.ConfigMapKeySelector",
    "io.k8s.api.core.v1.EndpointAddress",
    "io.k8s.api.core.v1.EndpointPort",
    "io.k8s.api.core.v1.FileKeySelector",
    "io.k8s.api.core.v1.LocalObjectReference",
    "io.k8s.api.core.v1.NodeSelector",
    "io.k8s.api.core.v1.NodeSelectorTerm",
    "io.k8s.api.core.v1.ObjectFieldSelector",
    "io.k8s.api.core.v1.ObjectReference",
    "io.k8s.api.core.v1.ResourceFieldSelector",
    "io.k8s.api.core.v1.ScopeSelector",
    "io.k8s.api.core.v1.ScopedResourceSelectorRequirement",
    "io.k8s.api.core.v1.SecretKeySelector",
    "io.k8s.api.core.v1.SecretReference",
    "io.k8s.api.core.v1.TopologySelectorTerm",
    "io.k8s.api.core.v1.TypedLocalObjectReference",
    "io.k8s.api.discovery.v1.EndpointPort",
    "io.k8s.api.rbac.v1.RoleRef",
    "io.k8s.api.rbac.v1.Subject",
    "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector",
    "io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference",
];

#[rustfmt::skip]
const RULES: &[ListRule] = &[
    rule("io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicySpec", "matchConditions", "merge", "name", "map", &["name"]),
    rule("io.k8s.api.admissionregistration.v1.MutatingWebhook", "matchConditions", "merge", "name", "map", &["name"]),
    rule("io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration", "webhooks", "merge", "name", "map", &["name"]),
    rule("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBindingSpec", "validationActions", "", "", "set", &[]),
    rule("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicySpec", "matchConditions", "merge", "name", "map", &["name"]),
    rule("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicySpec", "variables", "merge", "name", "map", &["name"]),
    rule("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyStatus", "conditions", "", "", "map", &["type"]),
    rule("io.k8s.api.admissionregistration.v1.ValidatingWebhook", "matchConditions", "merge", "name", "map", &["name"]),
    rule("io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration", "webhooks", "merge", "name", "map", &["name"]),
    rule("io.k8s.api.apps.v1.DaemonSetStatus", "conditions", "merge", "type", "map", &["type"]),
    rule("io.k8s.api.apps.v1.DeploymentSpec", "strategy", "retainKeys", "", "", &[]),
    rule("io.k8s.api.apps.v1.DeploymentStatus", "conditions", "merge", "type", "map", &["type"]),
    rule("io.k8s.api.apps.v1.ReplicaSetStatus", "conditions", "merge", "type", "map", &["type"]),
    rule("io.k8s.api.apps.v1.StatefulSetStatus", "conditions", "merge", "type", "map", &["type"]),
    rule("io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerStatus", "conditions", "merge", "type", "map", &["type"]),
    rule("io.k8s.api.batch.v1.JobSchedulingConfiguration", "resourceClaims", "", "", "map", &["name"]),
    rule("io.k8s.api.batch.v1.JobStatus", "conditions", "merge", "type", "map", &["type"]),
    rule("io.k8s.api.batch.v1.PodFailurePolicyOnExitCodesRequirement", "values", "", "", "set", &[]),
    rule("io.k8s.api.batch.v1.UncountedTerminatedPods", "failed", "", "", "set", &[]),
    rule("io.k8s.api.batch.v1.UncountedTerminatedPods", "succeeded", "", "", "set", &[]),
    rule("io.k8s.api.certificates.v1.CertificateSigningRequestStatus", "conditions", "", "", "map", &["type"]),
    rule("io.k8s.api.certificates.v1.PodCertificateRequestStatus", "conditions", "", "", "map", &["type"]),
    rule("io.k8s.api.core.v1.ComponentStatus", "conditions", "merge", "type", "map", &["type"]),
    rule("io.k8s.api.core.v1.Container", "env", "merge", "name", "map", &["name"]),
    rule("io.k8s.api.core.v1.Container", "ports", "merge", "containerPort", "map", &["containerPort", "protocol"]),
    rule("io.k8s.api.core.v1.Container", "volumeDevices", "merge", "devicePath", "map", &["devicePath"]),
    rule("io.k8s.api.core.v1.Container", "volumeMounts", "merge", "mountPath", "map", &["mountPath"]),
    rule("io.k8s.api.core.v1.ContainerRestartRuleOnExitCodes", "values", "", "", "set", &[]),
    rule("io.k8s.api.core.v1.ContainerStatus", "allocatedResourcesStatus", "merge", "name", "map", &["name"]),
    rule("io.k8s.api.core.v1.ContainerStatus", "volumeMounts", "merge", "mountPath", "map", &["mountPath"]),
    rule("io.k8s.api.core.v1.EphemeralContainer", "env", "merge", "name", "map", &["name"]),
    rule("io.k8s.api.core.v1.EphemeralContainer", "ports", "merge", "containerPort", "map", &["containerPort", "protocol"]),
    rule("io.k8s.api.core.v1.EphemeralContainer", "volumeDevices", "merge", "devicePath", "map", &["devicePath"]),
    rule("io.k8s.api.core.v1.EphemeralContainer", "volumeMounts", "merge", "mountPath", "map", &["mountPath"]),
    rule("io.k8s.api.core.v1.NamespaceStatus", "conditions", "merge", "type", "map", &["type"]),
    rule("io.k8s.api.core.v1.NodeAllocatableResourceClaimStatus", "containers", "", "", "set", &[]),
    rule("io.k8s.api.core.v1.NodeAllocatableResourceClaimStatus", "mapping", "", "", "map", &["name"]),
    rule("io.k8s.api.core.v1.NodeAllocatableResourceClaimStatus", "overhead", "", "", "map", &["name"]),
    rule("io.k8s.api.core.v1.NodePodPreemptionPolicy", "disableResizePreemption", "", "", "set", &[]),
    rule("io.k8s.api.core.v1.NodeSpec", "podCIDRs", "merge", "", "set", &[]),
    rule("io.k8s.api.core.v1.NodeStatus", "addresses", "merge", "type", "map", &["type"]),
    rule("io.k8s.api.core.v1.NodeStatus", "conditions", "merge", "type", "map", &["type"]),
    rule("io.k8s.api.core.v1.PersistentVolumeClaimStatus", "conditions", "merge", "type", "map", &["type"]),
    rule("io.k8s.api.core.v1.PodSpec", "containers", "merge", "name", "map", &["name"]),
    rule("io.k8s.api.core.v1.PodSpec", "ephemeralContainers", "merge", "name", "map", &["name"]),
    rule("io.k8s.api.core.v1.PodSpec", "evictionResponders", "merge", "name", "map", &["name"]),
    rule("io.k8s.api.core.v1.PodSpec", "hostAliases", "merge", "ip", "map", &["ip"]),
    rule("io.k8s.api.core.v1.PodSpec", "imagePullSecrets", "merge", "name", "map", &["name"]),
    rule("io.k8s.api.core.v1.PodSpec", "initContainers", "merge", "name", "map", &["name"]),
    rule("io.k8s.api.core.v1.PodSpec", "resourceClaims", "merge,retainKeys", "name", "map", &["name"]),
    rule("io.k8s.api.core.v1.PodSpec", "schedulingGates", "merge", "name", "map", &["name"]),
    rule("io.k8s.api.core.v1.PodSpec", "topologySpreadConstraints", "merge", "topologyKey", "map", &["topologyKey", "whenUnsatisfiable"]),
    rule("io.k8s.api.core.v1.PodSpec", "volumes", "merge,retainKeys", "name", "map", &["name"]),
    rule("io.k8s.api.core.v1.PodStatus", "conditions", "merge", "type", "map", &["type"]),
    rule("io.k8s.api.core.v1.PodStatus", "hostIPs", "merge", "ip", "", &[]),
    rule("io.k8s.api.core.v1.PodStatus", "nodeAllocatableResourceClaimStatuses", "", "", "map", &["resourceClaimName"]),
    rule("io.k8s.api.core.v1.PodStatus", "podIPs", "merge", "ip", "map", &["ip"]),
    rule("io.k8s.api.core.v1.PodStatus", "resourceClaimStatuses", "merge,retainKeys", "name", "map", &["name"]),
    rule("io.k8s.api.core.v1.PodStatus", "volumeHealth", "", "", "map", &["name"]),
    rule("io.k8s.api.core.v1.PodVolumeHealth", "healthConditions", "", "", "map", &["status"]),
    rule("io.k8s.api.core.v1.ReplicationControllerStatus", "conditions", "merge", "type", "map", &["type"]),
    rule("io.k8s.api.core.v1.ResourceRequirements", "claims", "", "", "map", &["name"]),
    rule("io.k8s.api.core.v1.ResourceStatus", "resources", "", "", "map", &["resourceID"]),
    rule("io.k8s.api.core.v1.ServiceAccount", "secrets", "merge", "name", "map", &["name"]),
    rule("io.k8s.api.core.v1.ServiceSpec", "ports", "merge", "port", "map", &["port", "protocol"]),
    rule("io.k8s.api.core.v1.ServiceStatus", "conditions", "merge", "type", "map", &["type"]),
    rule("io.k8s.api.core.v1.VolumeHealthStatus", "healthConditions", "", "", "map", &["status"]),
    rule("io.k8s.api.core.v1.VolumeMount", "bindMountOptions", "", "", "set", &[]),
    rule("io.k8s.api.discovery.v1.Endpoint", "addresses", "", "", "set", &[]),
    rule("io.k8s.api.flowcontrol.v1.FlowSchemaStatus", "conditions", "merge", "type", "map", &["type"]),
    rule("io.k8s.api.flowcontrol.v1.NonResourcePolicyRule", "nonResourceURLs", "", "", "set", &[]),
    rule("io.k8s.api.flowcontrol.v1.NonResourcePolicyRule", "verbs", "", "", "set", &[]),
    rule("io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationStatus", "conditions", "merge", "type", "map", &["type"]),
    rule("io.k8s.api.flowcontrol.v1.ResourcePolicyRule", "apiGroups", "", "", "set", &[]),
    rule("io.k8s.api.flowcontrol.v1.ResourcePolicyRule", "namespaces", "", "", "set", &[]),
    rule("io.k8s.api.flowcontrol.v1.ResourcePolicyRule", "resources", "", "", "set", &[]),
    rule("io.k8s.api.flowcontrol.v1.ResourcePolicyRule", "verbs", "", "", "set", &[]),
    rule("io.k8s.api.networking.v1.ServiceCIDRStatus", "conditions", "merge", "type", "map", &["type"]),
    rule("io.k8s.api.policy.v1.PodDisruptionBudgetSpec", "selector", "replace", "", "", &[]),
    rule("io.k8s.api.policy.v1.PodDisruptionBudgetStatus", "conditions", "merge", "type", "map", &["type"]),
    rule("io.k8s.api.resource.v1.AllocatedDeviceStatus", "conditions", "", "", "map", &["type"]),
    rule("io.k8s.api.resource.v1.DeviceRequestAllocationResult", "skipNodeOperations", "", "", "set", &[]),
    rule("io.k8s.api.resource.v1.DeviceTaintRuleStatus", "conditions", "", "", "map", &["type"]),
    rule("io.k8s.api.resource.v1.ResourceClaimStatus", "devices", "", "", "map", &["driver", "device", "pool", "shareID"]),
    rule("io.k8s.api.resource.v1.ResourceClaimStatus", "reservedFor", "merge", "uid", "map", &["uid"]),
    rule("io.k8s.api.resource.v1.ResourceSliceSpec", "skipNodeOperations", "", "", "set", &[]),
    rule("io.k8s.api.storage.v1.CSIDriverSpec", "volumeLifecycleModes", "", "", "set", &[]),
    rule("io.k8s.api.storage.v1.CSINodeSpec", "drivers", "merge", "name", "map", &["name"]),
    rule("io.k8s.api.storage.v1.CSINodeStatus", "storageHealth", "", "", "map", &["name"]),
    rule("io.k8s.api.storagemigration.v1.StorageVersionMigrationStatus", "conditions", "merge", "type", "map", &["type"]),
    rule("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionStatus", "conditions", "", "", "map", &["type"]),
    rule("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps", "x-kubernetes-validations", "", "", "map", &["rule"]),
    rule("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "finalizers", "merge", "", "set", &[]),
    rule("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "ownerReferences", "merge", "uid", "map", &["uid"]),
    rule("io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIServiceStatus", "conditions", "merge", "type", "map", &["type"]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[test]
    fn what_is_atomic_is_there() {
        assert!(ATOMIC.is_sorted());
        for name in ATOMIC {
            assert!(schema::lookup(name).is_some(), "{name}");
        }
        for (definition, field) in ATOMIC_FIELDS {
            assert!(
                schema::lookup(definition).is_some_and(|s| s.field(field).is_some()),
                "{definition} {field}"
            );
        }
    }

    #[test]
    fn rows_are_sorted_and_name_real_fields() {
        assert!(RULES.is_sorted_by(|a, b| (a.definition, a.field) < (b.definition, b.field)));
        for rule in RULES {
            let schema = schema::lookup(rule.definition);
            assert!(
                schema.is_some_and(|s| s.field(rule.field).is_some()),
                "{} {}",
                rule.definition,
                rule.field
            );
        }
    }
}
