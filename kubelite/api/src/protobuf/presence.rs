//! Which zero values are statements.
//!
//! Go's encoder writes every field that a struct holds by value, so `""`, `0` and `false` on the wire usually mean
//! that nobody said anything, and JSON leaves them out. A field that Go holds by pointer is written only if somebody
//! set it: its zero is kept. The wire doesn't tell the two apart, so those of the second sort stand here.

/// Fields that Go holds by pointer wherever they occur.
#[rustfmt::skip]
const EVERYWHERE: &[&str] = &[
    "allocateLoadBalancerNodePorts", "allowPrivilegeEscalation", "automountServiceAccountToken", "controller",
    "blockOwnerDeletion", "immutable", "enableServiceLinks", "hostUsers", "setHostnameAsFQDN", "shareProcessNamespace",
    "privileged", "readOnlyRootFilesystem", "runAsNonRoot", "runAsUser", "runAsGroup", "fsGroup", "optional",
    "terminationGracePeriodSeconds", "deletionGracePeriodSeconds", "gracePeriodSeconds", "orphanDependents",
    "activeDeadlineSeconds", "ttlSecondsAfterFinished", "backoffLimit", "backoffLimitPerIndex", "maxFailedIndexes",
    "completions", "parallelism", "suspend", "manualSelector", "startingDeadlineSeconds", "successfulJobsHistoryLimit",
    "failedJobsHistoryLimit", "revisionHistoryLimit", "progressDeadlineSeconds", "partition", "maxSurge",
    "maxUnavailable", "minAvailable", "defaultMode", "mode", "tolerationSeconds", "expirationSeconds",
    "storageClassName", "ingressClassName", "loadBalancerClass", "hostnameOverride", "priority",
    "preemptionPolicy", "leaseDurationSeconds", "leaseTransitions", "holderIdentity", "attachRequired",
    "podInfoOnMount", "requiresRepublish", "seLinuxMount", "storageCapacity", "allowVolumeExpansion", "ready",
    "serving", "terminating", "averageUtilization", "stabilizationWindowSeconds", "minReplicas", "timeoutSeconds",
    "uid", "resourceVersion", "ignoreStoreReadErrorWithClusterBreakingPotential", "value", "port", "appProtocol",
    "started", "replicas",
];

/// Of those, where the field of that name is held by value.
#[rustfmt::skip]
const BY_VALUE: &[(&str, &str)] = &[
    ("core.v1.Probe", "timeoutSeconds"), ("core.v1.EnvVar", "value"), ("core.v1.Toleration", "value"),
    ("core.v1.HTTPGetAction", "port"), ("core.v1.TCPSocketAction", "port"), ("core.v1.GRPCAction", "port"),
    ("core.v1.ServicePort", "port"), ("core.v1.ContainerStatus", "ready"),
    ("core.v1.ObjectReference", "uid"), ("core.v1.ObjectReference", "resourceVersion"),
    ("core.v1.PersistentVolumeSpec", "storageClassName"),
    ("batch.v1.JobStatus", "ready"), ("scheduling.v1.PriorityClass", "value"),
    ("authentication.v1.UserInfo", "uid"), ("authentication.v1.BoundObjectReference", "uid"), ("authorization.v1.SubjectAccessReviewSpec", "uid"),
    ("certificates.v1.CertificateSigningRequestSpec", "uid"),
];

/// Whether a zero in this field says something.
pub(super) fn is_by_pointer(definition: &str, field: &str) -> bool {
    let short = definition.strip_prefix("io.k8s.api.").unwrap_or(definition);
    if short.ends_with("meta.v1.ObjectMeta") && matches!(field, "uid" | "resourceVersion") {
        return false;
    }
    EVERYWHERE.contains(&field) && !BY_VALUE.contains(&(short, field))
}
