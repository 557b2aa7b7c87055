//! What every part of the kubelet shares: the settings, the API, the runtime, and the pods that are bound to this node.

use crate::Config;
use crate::probes::Probes;
use crate::runtime::Runtime;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::ResourceExt;
use kubelite_informer::{Queue, Recorder};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;

/// Shared by all workers, probes and the server; passed as `Arc<Context>`.
pub(crate) struct Context {
    /// Settings.
    pub(crate) config: Config,
    /// The API, as this node.
    pub(crate) client: kube::Client,
    /// What runs containers.
    pub(crate) runtime: Arc<dyn Runtime>,
    /// Events for users.
    pub(crate) recorder: Recorder,
    /// The pods of this node as last seen at the API.
    pub(crate) pods: PodTable,
    /// UIDs of pods whose worker is to look again. Adding one is cheap and never blocks.
    pub(crate) queue: Arc<Queue<String>>,
    /// Results of probes.
    pub(crate) probes: Probes,
}

/// A pod of this node.
#[derive(Clone)]
pub(crate) struct Entry {
    /// As last seen at the API.
    pub(crate) pod: Arc<Pod>,
    /// The status that the kubelet computed last; None before the first time. Newer than `pod.status`.
    pub(crate) status: Option<Arc<PodStatus>>,
}

/// The pods of this node by UID.
#[derive(Default)]
pub(crate) struct PodTable {
    pods: RwLock<HashMap<String, Entry>>,
}

impl PodTable {
    /// One pod.
    pub(crate) fn get(&self, uid: &str) -> Option<Entry> {
        self.pods.read().get(uid).cloned()
    }

    /// One pod by its name; of two pods with one name (the elder being deleted) the younger.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<Entry> {
        let pods = self.pods.read();
        let named =
            |e: &&Entry| e.pod.name_any() == name && e.pod.namespace().as_deref() == Some(namespace);
        pods.values().filter(named).max_by_key(|e| e.pod.creation_timestamp()).cloned()
    }

    /// All pods.
    pub(crate) fn all(&self) -> Vec<Entry> {
        self.pods.read().values().cloned().collect()
    }

    /// Takes in what the watch brought.
    pub(crate) fn put(&self, pod: Arc<Pod>) {
        let Some(uid) = pod.uid() else { return };
        let mut pods = self.pods.write();
        let status = pods.get(&uid).and_then(|e| e.status.clone());
        pods.insert(uid, Entry { pod, status });
    }

    /// Forgets a pod that is gone from the API.
    pub(crate) fn remove(&self, uid: &str) {
        self.pods.write().remove(uid);
    }

    /// Keeps the status that was computed.
    pub(crate) fn set_status(&self, uid: &str, status: Arc<PodStatus>) {
        if let Some(entry) = self.pods.write().get_mut(uid) {
            entry.status = Some(status);
        }
    }
}
