//! Takes the finalizers of volumes and claims away when nobody uses them any more: a claim that a pod still mounts, and a
//! volume that is bound to a claim, outlive their deletion.

use crate::context::{Context, WORKERS, remove_finalizer};
use crate::pods;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::{Api, Resource, ResourceExt};
use kubelite_informer::{Key, Queue};
use std::future::Future;
use std::time::Duration;

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";

/// Lets claims go.
pub(crate) fn claims(ctx: Context) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let (own, from_pods) = (queue.clone(), queue.clone());
    ctx.caches.persistent_volume_claims.on_change(move |change| {
        change
            .new
            .filter(|claim| waits(*claim, CLAIM_FINALIZER))
            .into_iter()
            .for_each(|c| own.add(Key::of(c)));
    });
    ctx.caches.pods.on_change(move |change| {
        if let Some(pod) = change.old.filter(|_| change.new.is_none_or(pods::is_finished)) {
            let namespace = pod.namespace().unwrap_or_default();
            claims_of(pod).for_each(|name| from_pods.add(Key::new(&namespace, name)));
        }
    });
    async move {
        ctx.caches.synced().await;
        let shutdown = ctx.shutdown.clone();
        queue.run(WORKERS, shutdown, move |key| release_claim(ctx.clone(), key)).await;
    }
}

/// Lets volumes go.
pub(crate) fn volumes(ctx: Context) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let own = queue.clone();
    ctx.caches.persistent_volumes.on_change(move |change| {
        let waiting = change.new.filter(|volume| waits(*volume, VOLUME_FINALIZER));
        waiting.into_iter().for_each(|volume| own.add(Key::of(volume)));
    });
    async move {
        ctx.caches.synced().await;
        let shutdown = ctx.shutdown.clone();
        queue.run(WORKERS, shutdown, move |key| release_volume(ctx.clone(), key)).await;
    }
}

/// Whether its deletion waits for us.
fn waits<K: Resource>(object: &K, finalizer: &str) -> bool {
    object.meta().deletion_timestamp.is_some() && object.finalizers().iter().any(|f| f == finalizer)
}

/// The names of the claims that a pod mounts, its own ephemeral ones too.
fn claims_of(pod: &Pod) -> impl Iterator<Item = String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", pod.name_any(), volume.name)),
        (None, None) => None,
    })
}

/// Whether some pod that has not ended mounts the claim. One that was never given to a node can't have it mounted, but may
/// be given one at any time.
fn in_use<'a>(claim: &str, pods: impl IntoIterator<Item = &'a Pod>) -> bool {
    pods.into_iter().any(|pod| !pods::is_finished(pod) && claims_of(pod).any(|name| name == claim))
}

async fn release_claim(ctx: Context, key: Key) -> kube::Result<Option<Duration>> {
    let cache = &ctx.caches.persistent_volume_claims;
    let Some(claim) = cache.get(&key).filter(|claim| waits(&**claim, CLAIM_FINALIZER)) else {
        return Ok(None);
    };
    if !in_use(&key.name, ctx.caches.pods.list(&key.namespace).iter().map(|pod| &**pod)) {
        let api = ctx.api::<PersistentVolumeClaim>(&key.namespace);
        remove_finalizer(&api, cache, &*claim, CLAIM_FINALIZER).await?;
    }
    Ok(None)
}

async fn release_volume(ctx: Context, key: Key) -> kube::Result<Option<Duration>> {
    let cache = &ctx.caches.persistent_volumes;
    let bound = |volume: &PersistentVolume| {
        volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
    };
    match cache.get(&key).filter(|volume| waits(&**volume, VOLUME_FINALIZER)) {
        Some(volume) if !bound(&volume) => {
            remove_finalizer(&Api::all(ctx.client.clone()), cache, &*volume, VOLUME_FINALIZER).await?;
        }
        _ => {}
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_is_in_use_until_its_pods_have_ended() {
        let pod = |phase: &str, volume: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {"phase": phase},
                "spec": {"containers": [], "volumes": [volume]}}))
            .unwrap()
        };
        let mounted = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
        let ephemeral = json!({"name": "v", "ephemeral": {}});
        for (claim, pod, expected) in [
            ("c", pod("Running", mounted.clone()), true),
            ("c", pod("Pending", mounted.clone()), true),
            ("c", pod("Failed", mounted.clone()), false),
            ("d", pod("Running", mounted), false),
            ("p-v", pod("Running", ephemeral), true),
        ] {
            assert_eq!(in_use(claim, [&pod]), expected, "{claim} {}", pods::phase(&pod));
        }
    }
}
