//! What every part of the kubelet shares: the settings, the API, the runtime, and the pods that are bound to this node.

use crate::Config;
use crate::probes::Probes;
use crate::runtime::{Readiness, Runtime};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::ResourceExt;
use kubelite_informer::{Queue, Recorder};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// Shared by all workers, probes and the server; passed as `Arc<Context>`.
pub(crate) struct Context {
    /// Settings.
    pub(crate) config: Config,
    /// The API, as this node.
    pub(crate) client: kube::Client,
    /// What runs containers.
    pub(crate) runtime: Arc<dyn Runtime>,
    /// Its name, the scheme of container IDs.
    pub(crate) runtime_name: String,
    /// Events for users.
    pub(crate) recorder: Recorder,
    /// The pods of this node as last seen at the API.
    pub(crate) pods: PodTable,
    /// UIDs of pods whose worker is to look again. Adding one is cheap and never blocks.
    pub(crate) queue: Arc<Queue<String>>,
    /// UIDs of pods whose status is to be written.
    pub(crate) writes: Arc<Queue<String>>,
    /// Results of probes.
    pub(crate) probes: Probes,
    /// The node's memory in bytes.
    pub(crate) node_memory: u64,
    /// Whether the runtime's network can start pods.
    pub(crate) network: RwLock<Readiness>,
}

impl Context {
    /// Whether the runtime's network can start pods; the message is the one that users see.
    pub(crate) fn network(&self) -> Readiness {
        self.network.read().clone()
    }

    /// The pod's primary address, once its status has one.
    pub(crate) async fn pod_ip(&self, pod: &Pod) -> Option<String> {
        let sandboxes = self.runtime.list_sandboxes(pod.uid().as_deref()).await.ok()?;
        let ready = sandboxes.iter().find(|s| s.ready)?;
        self.runtime.sandbox_ips(&ready.id).await.ok()?.first().map(ToString::to_string)
    }
}

/// A pod of this node.
#[derive(Clone)]
pub(crate) struct Entry {
    /// As last seen at the API.
    pub(crate) pod: Arc<Pod>,
    /// The status that the kubelet computed last; None before the first time. Newer than `pod.status`.
    pub(crate) status: Option<Arc<PodStatus>>,
    /// Nothing of it is left on the node; it is to be deleted at the API.
    pub(crate) finished: bool,
}

/// The pods of this node by UID. Bounded by the pods that the API has.
pub(crate) struct PodTable {
    pods: RwLock<HashMap<String, Entry>>,
    changed: watch::Sender<()>,
    synced: AtomicBool,
}

impl Default for PodTable {
    fn default() -> Self {
        PodTable { pods: RwLock::default(), changed: watch::channel(()).0, synced: AtomicBool::new(false) }
    }
}

impl PodTable {
    /// One pod.
    pub(crate) fn get(&self, uid: &str) -> Option<Entry> {
        self.pods.read().get(uid).cloned()
    }

    /// One pod by its name; of two pods with one name (the elder being deleted) the younger.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<Entry> {
        let pods = self.pods.read();
        let named = |e: &&Entry| e.pod.name_any() == name && e.pod.namespace().as_deref() == Some(namespace);
        pods.values().filter(named).max_by_key(|e| e.pod.creation_timestamp()).cloned()
    }

    /// All pods.
    pub(crate) fn all(&self) -> Vec<Entry> {
        self.pods.read().values().cloned().collect()
    }

    /// Takes in what the watch brought.
    pub(crate) fn put(&self, pod: Arc<Pod>) {
        let Some(uid) = pod.uid() else { return };
        {
            let mut pods = self.pods.write();
            let (status, finished) = pods.get(&uid).map_or((None, false), |e| (e.status.clone(), e.finished));
            pods.insert(uid, Entry { pod, status, finished });
        }
        self.changed.send_replace(());
    }

    /// Forgets a pod that is gone from the API.
    pub(crate) fn remove(&self, uid: &str) {
        self.pods.write().remove(uid);
        self.changed.send_replace(());
    }

    /// Keeps the status that was computed.
    pub(crate) fn set_status(&self, uid: &str, status: Arc<PodStatus>) {
        if let Some(entry) = self.pods.write().get_mut(uid) {
            entry.status = Some(status);
        }
    }

    /// Nothing of the pod is left on the node.
    pub(crate) fn set_finished(&self, uid: &str) {
        if let Some(entry) = self.pods.write().get_mut(uid) {
            entry.finished = true;
        }
    }

    /// The first list of pods is complete: a pod that isn't here doesn't exist.
    pub(crate) fn set_synced(&self) {
        self.synced.store(true, Ordering::Release);
    }

    /// Whether the first list of pods is complete.
    pub(crate) fn synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// Waits until `test` holds; it is tried whenever the API's pods change.
    pub(crate) async fn until(&self, test: impl Fn(&PodTable) -> bool) {
        let mut changes = self.changed.subscribe();
        while !test(self) {
            if changes.changed().await.is_err() {
                // The sender lives as long as self, so this is never reached.
                return;
            }
        }
    }
}
