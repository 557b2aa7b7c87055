//! Services on a node: the proxy, over caches that a watch fills.

use std::fmt::Debug;

use anyhow::{Context, Result};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use kubelite_informer::Informer;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::node::Identity;

/// Runs until `shutdown`; its rules stay, so that connections go on.
pub async fn run(client: Client, identity: &Identity, shutdown: CancellationToken) -> Result<()> {
    let services = watch(&client, &shutdown);
    let slices = watch(&client, &shutdown);
    let config = kubelite_proxy::Config { node_name: identity.name.clone(), only_by_service: Vec::new() };
    kubelite_proxy::run(services, slices, config, shutdown).await.context("the service proxy ended")
}

fn watch<K>(client: &Client, shutdown: &CancellationToken) -> Informer<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let informer = Informer::default();
    let filled = informer.clone().run(Api::all(client.clone()), watcher::Config::default(), shutdown.clone());
    tokio::spawn(filled);
    informer
}
