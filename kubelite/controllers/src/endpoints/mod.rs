//! EndpointSlices and Endpoints: which pods stand behind a service with a selector.

mod plan;

use crate::context::{Context, WORKERS, is_status};
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};
use kubelite_informer::{Key, Queue};
use plan::Change;
use std::future::Future;
use std::time::Duration;

/// Subscribes the controller, and runs it.
pub(crate) fn run(ctx: Context) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let (own, from_pods, from_slices) = (queue.clone(), queue.clone(), queue.clone());
    ctx.caches.services.on_change(move |change| {
        change.object().into_iter().for_each(|service| own.add(Key::of(service)));
    });
    let services = ctx.caches.services.clone();
    ctx.caches.pods.on_change(move |change| {
        if change.old.zip(change.new).is_some_and(|(old, new)| plan::same_endpoint(old, new)) {
            return;
        }
        let Some(namespace) = change.object().and_then(ResourceExt::namespace) else { return };
        for service in services.list(&namespace) {
            let selected = |pod: &Pod| plan::selects(&service, pod);
            if change.old.is_some_and(selected) || change.new.is_some_and(selected) {
                from_pods.add(Key::of(&*service));
            }
        }
    });
    ctx.caches.endpoint_slices.on_change(move |change| {
        let Some(slice) = change.object().filter(|slice| plan::is_managed(slice)) else { return };
        let service = slice.labels().get(plan::SERVICE_LABEL).cloned();
        service
            .into_iter()
            .for_each(|name| from_slices.add(Key::new(slice.namespace().unwrap_or_default(), name)));
    });
    async move {
        ctx.caches.synced().await;
        queue.run(WORKERS, ctx.shutdown.clone(), move |key| reconcile(ctx.clone(), key)).await;
    }
}

async fn reconcile(ctx: Context, key: Key) -> kube::Result<Option<Duration>> {
    let cache = &ctx.caches.endpoint_slices;
    let mine = |slice: &EndpointSlice| {
        plan::is_managed(slice) && slice.labels().get(plan::SERVICE_LABEL) == Some(&key.name)
    };
    let slices: Vec<_> = cache.list(&key.namespace).into_iter().filter(|slice| mine(slice)).collect();
    let service = ctx.caches.services.get(&key);
    let selecting = service
        .filter(|service| plan::has_selector(service) && service.metadata.deletion_timestamp.is_none());
    let pods = ctx.caches.pods.list(&key.namespace);
    let nodes = ctx.caches.nodes.all();
    let wanted = selecting.as_deref().map(|service| plan::slices(service, &pods, &nodes)).unwrap_or_default();
    let api = ctx.api::<EndpointSlice>(&key.namespace);
    for change in plan::difference(wanted, &slices) {
        match change {
            Change::Create(slice) => cache.written(api.create(&PostParams::default(), &slice).await?),
            Change::Replace(slice) => {
                cache.written(api.replace(&slice.name_any(), &PostParams::default(), &slice).await?);
            }
            Change::Delete(slice) => ctx.delete(cache, &*slice).await?,
        }
    }
    match selecting {
        Some(service) => write_endpoints(&ctx, &service, &pods).await?,
        None if ctx.caches.services.get(&key).is_none() => delete_endpoints(&ctx, &key).await?,
        None => {}
    }
    Ok(None)
}

async fn write_endpoints(ctx: &Context, service: &Service, pods: &[std::sync::Arc<Pod>]) -> kube::Result<()> {
    let key = Key::of(service);
    let wanted = plan::endpoints(service, pods);
    let api = ctx.api::<Endpoints>(&key.namespace);
    let written = match ctx.caches.endpoints.get(&key) {
        None => match api.create(&PostParams::default(), &wanted).await {
            Err(error) if is_status(&error, 404) => return Ok(()),
            created => created?,
        },
        Some(found) if found.subsets == wanted.subsets && found.metadata.labels == wanted.metadata.labels => {
            return Ok(());
        }
        Some(found) => {
            let mut changed = (*found).clone();
            changed.subsets = wanted.subsets;
            changed.metadata.labels = wanted.metadata.labels;
            api.replace(&key.name, &PostParams::default(), &changed).await?
        }
    };
    ctx.caches.endpoints.written(written);
    Ok(())
}

async fn delete_endpoints(ctx: &Context, key: &Key) -> kube::Result<()> {
    let Some(found) = ctx.caches.endpoints.get(key) else { return Ok(()) };
    match ctx.api::<Endpoints>(&key.namespace).delete(&key.name, &DeleteParams::default()).await {
        Err(error) if !is_status(&error, 404) => Err(error),
        _ => {
            ctx.caches.endpoints.removed(&found);
            Ok(())
        }
    }
}
