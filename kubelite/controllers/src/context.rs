//! What every controller gets: the client, the caches, its event recorder.

use crate::caches::Caches;
use k8s_openapi::NamespaceResourceScope;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use kubelite_informer::{Informer, Recorder};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// How many keys of one controller are reconciled at the same time.
pub(crate) const WORKERS: usize = 4;

/// Shared by all reconciles of one controller.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) caches: Arc<Caches>,
    pub(crate) shutdown: CancellationToken,
}

impl Context {
    /// The recorder of a controller's events.
    pub(crate) fn recorder(&self, component: &'static str) -> Recorder {
        Recorder::start(self.client.clone(), component, self.shutdown.clone())
    }

    /// The API of a namespaced kind.
    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Deletes exactly this object (its UID, so that a successor of the same name stays) and tells its cache.
    /// An object that is gone already is a success.
    pub(crate) async fn delete<K>(&self, cache: &Informer<K>, object: &K) -> kube::Result<()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Serialize + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        self.delete_with(cache, object, DeleteParams::background()).await
    }

    /// The same with these parameters.
    pub(crate) async fn delete_with<K>(
        &self,
        cache: &Informer<K>,
        object: &K,
        params: DeleteParams,
    ) -> kube::Result<()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Serialize + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let uid = Preconditions { uid: object.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(uid), ..params };
        let api = self.api::<K>(&object.namespace().unwrap_or_default());
        match api.delete(&object.name_any(), &params).await {
            Ok(either) => {
                // Pods answer with the object while they terminate; a Status or an unmarked object means gone.
                match either.left().filter(|left| left.meta().deletion_timestamp.is_some()) {
                    Some(terminating) if !finished(&terminating) => cache.written(terminating),
                    _ => cache.removed(object),
                }
                Ok(())
            }
            Err(error) if is_status(&error, 404) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Takes one finalizer away and tells the cache, also when the object went with it. One that is gone already is a success.
pub(crate) async fn remove_finalizer<K>(
    api: &Api<K>,
    cache: &Informer<K>,
    object: &K,
    finalizer: &str,
) -> kube::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let rest: Vec<&String> = object.finalizers().iter().filter(|f| *f != finalizer).collect();
    let patch = serde_json::json!({"metadata": {
        "uid": object.uid(), "resourceVersion": object.resource_version(), "finalizers": rest }});
    match api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(last) if last.meta().deletion_timestamp.is_some() && finished(&last) => cache.removed(object),
        Ok(written) => cache.written(written),
        Err(error) if is_status(&error, 404) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// A deletion without grace and without finalizers is complete when it is answered.
fn finished<K: Resource>(object: &K) -> bool {
    object.meta().deletion_grace_period_seconds.unwrap_or(0) == 0
        && object.meta().finalizers.as_ref().is_none_or(Vec::is_empty)
}

/// Whether the API server answered with this HTTP status.
pub(crate) fn is_status(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// The sentence that the API server answered with, as upstream prints it in events.
pub(crate) fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
