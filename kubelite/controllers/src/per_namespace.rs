//! What every namespace gets: the ServiceAccount `default`, and the ConfigMap `kube-root-ca.crt` by which pods trust
//! the API server. Both come back when they are deleted; the ConfigMap also when it is changed.

use crate::context::{Context, WORKERS, is_status};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::api::{ObjectMeta, PostParams};
use kubelite_informer::{Key, Queue};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

const DEFAULT_ACCOUNT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";
const ROOT_CA_NOTE: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
    endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
    distributions of Kubernetes clusters.";

/// Keeps a service account `default` in each namespace.
pub(crate) fn service_accounts(ctx: Context) -> impl Future<Output = ()> + Send {
    let queue = subscribe(&ctx);
    let deleted = queue.clone();
    ctx.caches.service_accounts.on_change(move |change| {
        let gone = change.old.filter(|_| change.new.is_none()).map(Key::of);
        gone.filter(|key| key.name == DEFAULT_ACCOUNT).into_iter().for_each(|key| deleted.add(key.namespace));
    });
    async move {
        ctx.caches.synced().await;
        let shutdown = ctx.shutdown.clone();
        let reconcile = move |namespace: String| {
            let ctx = ctx.clone();
            async move {
                let key = Key::new(&namespace, DEFAULT_ACCOUNT);
                if is_active(&ctx, &namespace) && ctx.caches.service_accounts.get(&key).is_none() {
                    let account = ServiceAccount { metadata: metadata(&key), ..ServiceAccount::default() };
                    let created = ctx.api(&namespace).create(&PostParams::default(), &account).await;
                    ignore_conflict(created)?
                        .into_iter()
                        .for_each(|a| ctx.caches.service_accounts.written(a));
                }
                Ok::<_, kube::Error>(None)
            }
        };
        queue.run(WORKERS, shutdown, reconcile).await;
    }
}

/// Keeps the cluster's certificate authority in each namespace.
pub(crate) fn root_cas(ctx: Context, pem: String) -> impl Future<Output = ()> + Send {
    let queue = subscribe(&ctx);
    let changed = queue.clone();
    ctx.caches.root_cas.on_change(move |change| {
        change.object().into_iter().for_each(|object| changed.add(Key::of(object).namespace));
    });
    let data: BTreeMap<String, String> = [("ca.crt".to_string(), pem)].into();
    let data = Arc::new(data);
    async move {
        ctx.caches.synced().await;
        let shutdown = ctx.shutdown.clone();
        queue.run(WORKERS, shutdown, move |namespace| publish(ctx.clone(), data.clone(), namespace)).await;
    }
}

async fn publish(
    ctx: Context,
    data: Arc<BTreeMap<String, String>>,
    namespace: String,
) -> kube::Result<Option<std::time::Duration>> {
    let key = Key::new(&namespace, ROOT_CA);
    let api = ctx.api::<ConfigMap>(&namespace);
    let written = match ctx.caches.root_cas.get(&key) {
        _ if !is_active(&ctx, &namespace) => None,
        None => {
            let mut metadata = metadata(&key);
            metadata.annotations =
                Some([("kubernetes.io/description".to_string(), ROOT_CA_NOTE.to_string())].into());
            let map = ConfigMap { metadata, data: Some((*data).clone()), ..ConfigMap::default() };
            ignore_conflict(api.create(&PostParams::default(), &map).await)?
        }
        Some(found) if found.data.as_ref() != Some(&*data) || found.binary_data.is_some() => {
            let map = ConfigMap { data: Some((*data).clone()), binary_data: None, ..(*found).clone() };
            Some(api.replace(ROOT_CA, &PostParams::default(), &map).await?)
        }
        Some(_) => None,
    };
    written.into_iter().for_each(|map| ctx.caches.root_cas.written(map));
    Ok(None)
}

fn subscribe(ctx: &Context) -> Arc<Queue<String>> {
    let queue = Queue::new();
    let added = queue.clone();
    ctx.caches.namespaces.on_change(move |change| {
        change.new.into_iter().for_each(|namespace| added.add(Key::of(namespace).name));
    });
    queue
}

fn is_active(ctx: &Context, name: &str) -> bool {
    let terminating = |namespace: &Namespace| namespace.metadata.deletion_timestamp.is_some();
    ctx.caches.namespaces.get(&Key::new("", name)).is_some_and(|namespace| !terminating(&namespace))
}

fn metadata(key: &Key) -> ObjectMeta {
    ObjectMeta {
        name: Some(key.name.clone()),
        namespace: Some(key.namespace.clone()),
        ..ObjectMeta::default()
    }
}

/// Another one was faster: the watch will bring its object.
fn ignore_conflict<K>(created: kube::Result<K>) -> kube::Result<Option<K>> {
    match created {
        Ok(object) => Ok(Some(object)),
        Err(error) if is_status(&error, 409) || is_status(&error, 404) => Ok(None),
        Err(error) => Err(error),
    }
}
