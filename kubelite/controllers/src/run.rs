//! Starts the caches and the controllers.

use crate::caches::Caches;
use crate::context::Context;
use crate::node_ipam::NodeCidrs;
use crate::{
    cronjob, daemonset, deployment, disruption, endpoints, garbage, job, namespace, node_ipam,
    node_lifecycle, per_namespace, protection, replicaset, statefulset,
};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ReplicationController;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What the controllers must be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The certificates (PEM) that pods trust the API server by; published in every namespace.
    pub cluster_ca_pem: String,
    /// How long a node may be silent before it counts as unreachable.
    pub node_monitor_grace: Duration,
    /// What of the pods' network nodes are given; none: nothing, since the network plugin does it.
    pub node_cidrs: Option<NodeCidrs>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            cluster_ca_pem: String::new(),
            node_monitor_grace: Duration::from_secs(40),
            node_cidrs: None,
        }
    }
}

/// Runs all controllers until `shutdown`.
///
/// # Errors
/// None while running: a failed reconcile is tried again. An error means that a controller could not be set up.
pub async fn run(client: kube::Client, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let ctx = Context { client, caches: Arc::new(Caches::default()), shutdown: shutdown.clone() };
    // Calling a controller's function subscribes it, so that every object of the first lists reaches its queue.
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(replicaset::run::<ReplicaSet>(ctx.clone(), ctx.caches.replica_sets.clone()));
    tasks.spawn(replicaset::run::<ReplicationController>(
        ctx.clone(),
        ctx.caches.replication_controllers.clone(),
    ));
    tasks.spawn(deployment::run(ctx.clone()));
    tasks.spawn(daemonset::run(ctx.clone()));
    tasks.spawn(statefulset::run(ctx.clone()));
    tasks.spawn(job::run(ctx.clone()));
    tasks.spawn(cronjob::run(ctx.clone()));
    tasks.spawn(namespace::run(ctx.clone()));
    tasks.spawn(garbage::run(ctx.clone()));
    tasks.spawn(endpoints::run(ctx.clone()));
    tasks.spawn(node_lifecycle::run(ctx.clone(), config.node_monitor_grace));
    if let Some(cidrs) = config.node_cidrs {
        tasks.spawn(node_ipam::run(ctx.clone(), cidrs));
    }
    tasks.spawn(per_namespace::service_accounts(ctx.clone()));
    tasks.spawn(per_namespace::root_cas(ctx.clone(), config.cluster_ca_pem));
    tasks.spawn(disruption::run(ctx.clone()));
    tasks.spawn(protection::claims(ctx.clone()));
    tasks.spawn(protection::volumes(ctx.clone()));
    ctx.caches.start(&ctx.client, &shutdown);
    tasks.join_all().await;
    Ok(())
}
