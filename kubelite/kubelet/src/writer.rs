//! Writes pods' statuses to the API, and deletes the pods that are done.
//!
//! A patch carries only what changed, under the pod's UID and resourceVersion: a status that someone else changed
//! meanwhile is never overwritten, it is computed anew.

use crate::context::{Context, Entry};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Error, ResourceExt};
use kubelite_informer::Informer;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Statuses that are written side by side.
pub(crate) const WRITERS: usize = 8;
/// A write that takes longer is tried again.
const LIMIT: Duration = Duration::from_secs(15);

/// Why a write did not come about; the queue tries again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The API refused it or can't be reached.
    #[error("writing a pod's status: {0}")]
    Api(#[from] Error),
    /// The API didn't answer in time.
    #[error("writing a pod's status: no answer within {LIMIT:?}")]
    Timeout,
}

/// Writes the status of the pod with this UID if it differs, then deletes the pod if it is done.
pub(crate) async fn write(
    context: Arc<Context>,
    informer: Informer<Pod>,
    uid: String,
) -> Result<Option<Duration>, WriteError> {
    let Some(entry) = context.pods.get(&uid) else { return Ok(None) };
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &entry.pod.namespace().unwrap_or_default());
    tokio::time::timeout(LIMIT, write_once(&api, &informer, &entry))
        .await
        .map_err(|_| WriteError::Timeout)??;
    Ok(None)
}

async fn write_once(api: &Api<Pod>, informer: &Informer<Pod>, entry: &Entry) -> Result<(), WriteError> {
    let name = entry.pod.name_any();
    if let Some(patch) = patch(&entry.pod, entry.status.as_deref()) {
        match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(pod) => informer.written(pod),
            Err(error) if is(&error, 404) => return Ok(()),
            Err(error) => {
                if is(&error, 409) {
                    // Someone else wrote: the next try starts from what is there now.
                    informer.written(api.get(&name).await?);
                }
                return Err(error.into());
            }
        }
    }
    if entry.finished {
        delete(api, informer, &entry.pod).await?;
    }
    Ok(())
}

async fn delete(api: &Api<Pod>, informer: &Informer<Pod>, pod: &Pod) -> Result<(), WriteError> {
    let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
    let parameters = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(preconditions),
        ..DeleteParams::default()
    };
    match api.delete(&pod.name_any(), &parameters).await {
        // Finalizers may keep it a while.
        Ok(either) => {
            let finalizers = either.left().is_some_and(|pod| !pod.finalizers().is_empty());
            if !finalizers {
                informer.removed(pod);
            }
        }
        Err(error) if is(&error, 404) || is(&error, 409) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn is(error: &Error, code: u16) -> bool {
    matches!(error, Error::Api(status) if status.code == code)
}

/// The merge patch that makes the API's status be `wanted`; None if nothing differs.
fn patch(pod: &Pod, wanted: Option<&PodStatus>) -> Option<Value> {
    let current = pod.status.clone().unwrap_or_default();
    let wanted = serde_json::to_value(merged(&current, wanted?)).ok()?;
    let current = serde_json::to_value(current).ok()?;
    let changes = difference(current.as_object()?, wanted.as_object()?);
    (!changes.is_empty()).then(|| {
        json!({
            "metadata": { "uid": pod.uid(), "resourceVersion": pod.resource_version() },
            "status": changes,
        })
    })
}

/// Conditions that the kubelet computes; all others belong to others.
const OWN: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// The kubelet's conditions of `own`, and those of others as they are at the API, not as they were when the status was
/// computed.
pub(crate) fn with_foreign(
    own: Option<Vec<PodCondition>>,
    at_api: Option<Vec<PodCondition>>,
) -> Option<Vec<PodCondition>> {
    let is_own = |c: &PodCondition| OWN.contains(&c.type_.as_str());
    let own = own.into_iter().flatten().filter(is_own);
    let all: Vec<_> = own.chain(at_api.into_iter().flatten().filter(|c| !is_own(c))).collect();
    (!all.is_empty()).then_some(all)
}

/// What the status says now, with the parts that are not the kubelet's taken from the API.
fn merged(current: &PodStatus, wanted: &PodStatus) -> PodStatus {
    let (current, mut wanted) = (current.clone(), wanted.clone());
    wanted.conditions = with_foreign(wanted.conditions, current.conditions);
    wanted.qos_class = current.qos_class.or(wanted.qos_class);
    wanted.nominated_node_name = current.nominated_node_name;
    wanted.resize = current.resize;
    wanted
}

/// Top-level fields that differ; those that are gone are null.
fn difference(current: &Map<String, Value>, wanted: &Map<String, Value>) -> Map<String, Value> {
    let changed = wanted.iter().filter(|(key, value)| current.get(*key) != Some(value));
    let gone = current.keys().filter(|key| !wanted.contains_key(*key));
    changed.map(|(k, v)| (k.clone(), v.clone())).chain(gone.map(|k| (k.clone(), Value::Null))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_holds_what_differs_and_leaves_others_conditions_alone() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p", "uid": "u", "resourceVersion": "7" },
            "status": { "phase": "Running", "reason": "Old", "qosClass": "Burstable",
                "conditions": [{ "type": "example.com/gate", "status": "True" }] },
        }))
        .unwrap();
        let wanted: PodStatus = serde_json::from_value(json!({
            "phase": "Running", "podIP": "10.1.0.1",
            "conditions": [{ "type": "Ready", "status": "True" }, { "type": "example.com/gate", "status": "False" }],
        }))
        .unwrap();
        let patch = patch(&pod, Some(&wanted)).unwrap();
        assert_eq!(
            patch,
            json!({
                "metadata": { "uid": "u", "resourceVersion": "7" },
                "status": { "podIP": "10.1.0.1", "reason": null, "conditions": [
                    { "type": "Ready", "status": "True" }, { "type": "example.com/gate", "status": "True" } ] },
            })
        );
        let same = pod.status.clone().unwrap();
        assert!(super::patch(&pod, Some(&same)).is_none());
    }
}
