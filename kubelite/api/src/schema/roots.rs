//! The root kinds: every object that the API level knows in a stable version.
//!
//! Alpha and beta groups are left out; what doesn't stand here can be served as a custom resource only.

use k8s_openapi::Resource;
use schemars::JsonSchema;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value};

use k8s_openapi::api::{
    admissionregistration::v1 as admission, apps::v1 as apps, authentication::v1 as authentication,
    authorization::v1 as authorization, autoscaling::v1 as autoscaling, autoscaling::v2 as autoscaling2,
    batch::v1 as batch, certificates::v1 as certificates, coordination::v1 as coordination, core::v1 as core,
    discovery::v1 as discovery, events::v1 as events, flowcontrol::v1 as flowcontrol,
    networking::v1 as networking, node::v1 as node, policy::v1 as policy, rbac::v1 as rbac,
    resource::v1 as resource, scheduling::v1 as scheduling, storage::v1 as storage,
    storagemigration::v1 as storagemigration,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as apiregistration;

/// A kind and how its definition is made.
pub(crate) struct Root {
    /// The API group, empty for core.
    pub(crate) group: &'static str,
    /// The version.
    pub(crate) version: &'static str,
    /// The kind.
    pub(crate) kind: &'static str,
    /// Its definition's name.
    pub(crate) definition: fn() -> String,
    generate: fn(&mut SchemaGenerator),
}

const fn root<T: Resource + JsonSchema>() -> Root {
    Root {
        group: T::GROUP,
        version: T::VERSION,
        kind: T::KIND,
        definition: || T::schema_name().into_owned(),
        generate: |generator| {
            generator.subschema_for::<T>();
        },
    }
}

/// The definitions of all `roots` and of everything that they reach, by name.
pub(crate) fn generate<'a>(roots: impl IntoIterator<Item = &'a Root>) -> Map<String, Value> {
    let mut generator = SchemaSettings::openapi3().into_generator();
    for root in roots {
        (root.generate)(&mut generator);
    }
    generator.subschema_for::<meta::ListMeta>();
    generator.subschema_for::<meta::DeleteOptions>();
    generator.take_definitions(false)
}

/// Hands every definition out once. Each is dropped before the next kind is generated, so that all descriptions are
/// never in memory together.
pub(crate) fn each_definition(mut found: impl FnMut(&str, &Value)) {
    let mut generator = SchemaSettings::openapi3().into_generator();
    let common: fn(&mut SchemaGenerator) = |generator| {
        generator.subschema_for::<meta::ListMeta>();
        generator.subschema_for::<meta::DeleteOptions>();
    };
    for generate in ROOTS.iter().map(|root| root.generate).chain([common]) {
        generate(&mut generator);
        // The name stays, so that the generator doesn't make the definition again.
        for (name, json) in generator.definitions_mut().iter_mut().filter(|(_, json)| !json.is_null()) {
            found(name, json);
            *json = Value::Null;
        }
    }
}

/// All root kinds.
#[rustfmt::skip]
pub(crate) static ROOTS: &[Root] = &[
    root::<admission::MutatingAdmissionPolicy>(),
    root::<admission::MutatingAdmissionPolicyBinding>(),
    root::<admission::MutatingWebhookConfiguration>(),
    root::<admission::ValidatingAdmissionPolicy>(),
    root::<admission::ValidatingAdmissionPolicyBinding>(),
    root::<admission::ValidatingWebhookConfiguration>(),
    root::<apps::ControllerRevision>(),
    root::<apps::DaemonSet>(),
    root::<apps::Deployment>(),
    root::<apps::ReplicaSet>(),
    root::<apps::StatefulSet>(),
    root::<authentication::SelfSubjectReview>(),
    root::<authentication::TokenRequest>(),
    root::<authentication::TokenReview>(),
    root::<authorization::LocalSubjectAccessReview>(),
    root::<authorization::SelfSubjectAccessReview>(),
    root::<authorization::SelfSubjectRulesReview>(),
    root::<authorization::SubjectAccessReview>(),
    root::<autoscaling::HorizontalPodAutoscaler>(),
    root::<autoscaling::Scale>(),
    root::<autoscaling2::HorizontalPodAutoscaler>(),
    root::<batch::CronJob>(),
    root::<batch::Job>(),
    root::<certificates::CertificateSigningRequest>(),
    root::<certificates::ClusterTrustBundle>(),
    root::<certificates::PodCertificateRequest>(),
    root::<coordination::Lease>(),
    root::<core::Binding>(),
    root::<core::ComponentStatus>(),
    root::<core::ConfigMap>(),
    root::<core::Endpoints>(),
    root::<core::Event>(),
    root::<core::LimitRange>(),
    root::<core::Namespace>(),
    root::<core::Node>(),
    root::<core::PersistentVolume>(),
    root::<core::PersistentVolumeClaim>(),
    root::<core::Pod>(),
    root::<core::PodTemplate>(),
    root::<core::ReplicationController>(),
    root::<core::ResourceQuota>(),
    root::<core::Secret>(),
    root::<core::Service>(),
    root::<core::ServiceAccount>(),
    root::<discovery::EndpointSlice>(),
    root::<events::Event>(),
    root::<flowcontrol::FlowSchema>(),
    root::<flowcontrol::PriorityLevelConfiguration>(),
    root::<networking::Ingress>(),
    root::<networking::IngressClass>(),
    root::<networking::IPAddress>(),
    root::<networking::NetworkPolicy>(),
    root::<networking::ServiceCIDR>(),
    root::<node::RuntimeClass>(),
    root::<policy::Eviction>(),
    root::<policy::PodDisruptionBudget>(),
    root::<rbac::ClusterRole>(),
    root::<rbac::ClusterRoleBinding>(),
    root::<rbac::Role>(),
    root::<rbac::RoleBinding>(),
    root::<resource::DeviceClass>(),
    root::<resource::DeviceTaintRule>(),
    root::<resource::ResourceClaim>(),
    root::<resource::ResourceClaimTemplate>(),
    root::<resource::ResourceSlice>(),
    root::<scheduling::PriorityClass>(),
    root::<storage::CSIDriver>(),
    root::<storage::CSINode>(),
    root::<storage::CSIStorageCapacity>(),
    root::<storage::StorageClass>(),
    root::<storage::VolumeAttachment>(),
    root::<storage::VolumeAttributesClass>(),
    root::<apiextensions::CustomResourceDefinition>(),
    root::<meta::Status>(),
    root::<apiregistration::APIService>(),
    root::<storagemigration::StorageVersionMigration>(),
];
