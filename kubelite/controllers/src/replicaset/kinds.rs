//! The two kinds that own replicas, seen as one.

use crate::claim;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{PodTemplateSpec, ReplicationController};
use kube::Resource;
use kube::core::{Selector, SelectorExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;

/// What the controller needs of a spec.
pub(crate) struct View {
    pub(crate) replicas: usize,
    pub(crate) min_ready_seconds: i32,
    pub(crate) selector: Selector,
    pub(crate) template_labels: BTreeMap<String, String>,
    pub(crate) generation: Option<i64>,
}

impl View {
    pub(crate) fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selector.matches(labels)
    }
}

/// A kind that owns interchangeable pods.
pub(crate) trait ReplicaOwner:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Serialize
    + DeserializeOwned
    + Clone
    + Debug
    + Send
    + Sync
    + 'static
{
    /// The name that its events come from.
    const COMPONENT: &'static str;
    /// The spec; none if it has no usable selector.
    fn view(&self) -> Option<View>;
    fn template(&self) -> Option<&PodTemplateSpec>;
    fn replica_status(&self) -> ReplicaSetStatus;
    fn set_replica_status(&mut self, status: ReplicaSetStatus);
}

impl ReplicaOwner for ReplicaSet {
    const COMPONENT: &'static str = "replicaset-controller";

    fn view(&self) -> Option<View> {
        let spec = &self.spec;
        Some(View {
            replicas: usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            selector: claim::selector(&spec.selector)?,
            template_labels: labels(spec.template.as_ref()),
            generation: self.metadata.generation,
        })
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.template.as_ref()
    }

    fn replica_status(&self) -> ReplicaSetStatus {
        self.status.clone().unwrap_or_default()
    }

    fn set_replica_status(&mut self, status: ReplicaSetStatus) {
        self.status = Some(status);
    }
}

impl ReplicaOwner for ReplicationController {
    const COMPONENT: &'static str = "replication-controller";

    fn view(&self) -> Option<View> {
        let spec = self.spec.as_ref()?;
        let selector = spec.selector.clone().unwrap_or_default();
        Some(View {
            replicas: usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            selector: Some(Selector::from_iter(selector)).filter(|selector| !selector.selects_all())?,
            template_labels: labels(spec.template.as_ref()),
            generation: self.metadata.generation,
        })
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn replica_status(&self) -> ReplicaSetStatus {
        same_fields(self.status.as_ref()).unwrap_or_default()
    }

    fn set_replica_status(&mut self, status: ReplicaSetStatus) {
        self.status = same_fields(Some(&status));
    }
}

/// The two status types have the same fields under different names of types; their common form is JSON.
fn same_fields<A: Serialize, B: DeserializeOwned>(from: Option<&A>) -> Option<B> {
    serde_json::from_value(serde_json::to_value(from?).ok()?).ok()
}

fn labels(template: Option<&PodTemplateSpec>) -> BTreeMap<String, String> {
    template.and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.clone()).unwrap_or_default()
}
