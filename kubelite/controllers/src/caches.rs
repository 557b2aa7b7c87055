//! The caches of all kinds that more than one controller looks at. One watch per kind.

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
    ReplicationController, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ObjectMeta;
use kube::discovery::ApiResource;
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use kubelite_informer::Informer;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Told of an object's kind and of its metadata before and after a change.
pub(crate) trait Observer:
    Fn(&Arc<ApiResource>, Option<&ObjectMeta>, Option<&ObjectMeta>) + Send + Sync + 'static
{
}

impl<F: Fn(&Arc<ApiResource>, Option<&ObjectMeta>, Option<&ObjectMeta>) + Send + Sync + 'static> Observer
    for F
{
}

macro_rules! caches {
    ($($(#[$doc:meta])* $field:ident: $kind:ty $(where $selector:expr)?,)*) => {
        /// One informer per kind.
        #[derive(Default)]
        pub(crate) struct Caches {
            $($(#[$doc])* pub(crate) $field: Informer<$kind>,)*
        }

        impl Caches {
            /// Starts all watches.
            pub(crate) fn start(&self, client: &Client, shutdown: &CancellationToken) {
                $(
                    let config = watcher::Config::default();
                    $(let config = config.fields($selector);)?
                    start(&self.$field, client, config, shutdown);
                )*
            }

            /// Calls `observer` with the metadata, before and after, at every change of the kinds that are cached
            /// completely, and returns these kinds.
            pub(crate) fn observe(&self, observer: impl Observer) -> Vec<Arc<ApiResource>> {
                let observer = Arc::new(observer);
                let mut kinds = Vec::new();
                $(
                    let parts: &[&str] = &[$($selector)?];
                    if parts.is_empty() {
                        let kind = Arc::new(ApiResource::erase::<$kind>(&()));
                        let (observer, resource) = (observer.clone(), kind.clone());
                        self.$field.on_change(move |change| {
                            observer(&resource, change.old.map(|o| &o.metadata), change.new.map(|o| &o.metadata));
                        });
                        kinds.push(kind);
                    }
                )*
                kinds
            }

            /// Waits until each cache has its first list: before that, absence means nothing.
            pub(crate) async fn synced(&self) {
                $(self.$field.synced().await;)*
            }
        }
    };
}

caches! {
    pods: Pod,
    namespaces: Namespace,
    service_accounts: ServiceAccount,
    /// Only the one ConfigMap of each namespace that the root CA publisher writes.
    root_cas: ConfigMap where "metadata.name=kube-root-ca.crt",
    replica_sets: ReplicaSet,
    replication_controllers: ReplicationController,
    deployments: Deployment,
    daemon_sets: DaemonSet,
    stateful_sets: StatefulSet,
    controller_revisions: ControllerRevision,
    jobs: Job,
    cron_jobs: CronJob,
    pod_disruption_budgets: PodDisruptionBudget,
    persistent_volumes: PersistentVolume,
    persistent_volume_claims: PersistentVolumeClaim,
    nodes: Node,
    /// The heartbeats of the nodes.
    leases: Lease where "metadata.namespace=kube-node-lease",
    services: Service,
    endpoints: Endpoints,
    endpoint_slices: EndpointSlice,
}

fn start<K>(informer: &Informer<K>, client: &Client, config: watcher::Config, shutdown: &CancellationToken)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let api = Api::<K>::all(client.clone());
    tokio::spawn(informer.clone().run(api, config, shutdown.clone()));
}
