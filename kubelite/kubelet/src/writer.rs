//! Writes pods' statuses to the API, and deletes the pods that are done.
//!
//! A patch carries only what changed, under the pod's UID and resourceVersion: a status that someone else changed
//! meanwhile is never overwritten, it is computed anew.

use crate::context::{Context, Entry};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
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
    let current = serde_json::to_value(pod.status.clone().unwrap_or_default()).ok()?;
    let mut wanted = serde_json::to_value(wanted?).ok()?;
    keep_foreign(&current, &mut wanted);
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

/// Conditions of others are taken as they are now, not as they were when the status was computed.
fn keep_foreign(current: &Value, wanted: &mut Value) {
    let own = |c: &&Value| c["type"].as_str().is_some_and(|t| OWN.contains(&t));
    let list = |v: &Value| v["conditions"].as_array().cloned().unwrap_or_default();
    let mut conditions: Vec<Value> = list(wanted).iter().filter(own).cloned().collect();
    conditions.extend(list(current).iter().filter(|c| !own(c)).cloned());
    if !conditions.is_empty() {
        wanted["conditions"] = conditions.into();
    }
    for field in ["nominatedNodeName", "qosClass", "resize"] {
        if let Some(value) = current.get(field) {
            wanted[field] = value.clone();
        }
    }
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
