//! The loop: takes a pod from the queue, decides, binds. One pod at a time, so that each decision sees the one before.

use crate::cycle::select;
use crate::snapshot::{self, Snapshot};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::Status;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use kubelite_informer::{Change, EventType, Informer, Key, Queue, Recorder};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The scheduler whose pods these are.
const NAME: &str = "default-scheduler";
/// An unschedulable pod is tried again after this time even if nothing happened that could help it.
const LONGEST_PARKING: Duration = Duration::from_secs(300);

/// What the scheduler must be told: nothing so far.
#[derive(Clone, Debug, Default)]
pub struct Config {}

struct Scheduler {
    client: Client,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    recorder: Recorder,
    /// The node of each pod (by UID) that was bound, until the watch shows it.
    assumed: Mutex<HashMap<String, String>>,
    /// Pods that no node could take, until something changes.
    parked: Mutex<HashSet<Key>>,
    queue: Arc<Queue<Key>>,
}

/// Schedules pods until `shutdown`.
///
/// # Errors
/// None while running: what fails is tried again.
pub async fn run(client: Client, _config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let scheduler = Arc::new(Scheduler {
        recorder: Recorder::start(client.clone(), NAME, shutdown.clone()),
        pods: Informer::default(),
        nodes: Informer::default(),
        assumed: Mutex::default(),
        parked: Mutex::default(),
        queue: Queue::new(),
        client: client.clone(),
    });
    let (for_pods, for_nodes) = (scheduler.clone(), scheduler.clone());
    scheduler.pods.on_change(move |change| for_pods.pod_changed(change));
    scheduler.nodes.on_change(move |change| for_nodes.node_changed(change));
    let config = watcher::Config::default();
    tokio::spawn(scheduler.pods.clone().run(Api::all(client.clone()), config.clone(), shutdown.clone()));
    tokio::spawn(scheduler.nodes.clone().run(Api::all(client), config, shutdown.clone()));
    scheduler.nodes.synced().await;
    scheduler.pods.synced().await;
    let queue = scheduler.queue.clone();
    queue.run(1, shutdown, move |key| scheduler.clone().schedule(key)).await;
    Ok(())
}

/// A pod that this scheduler has to place.
fn is_pending(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    let ours = spec.scheduler_name.as_deref().is_none_or(|name| name == NAME);
    let unbound = snapshot::node_of(pod).is_none() && !snapshot::is_finished(pod);
    unbound && ours && !gated && pod.metadata.deletion_timestamp.is_none()
}

impl Scheduler {
    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let Some(pod) = change.object() else { return };
        let pending = change.new.is_some_and(is_pending);
        if pending {
            // Our own report in its status must not make it run again.
            let same = change
                .old
                .is_some_and(|old| old.spec == pod.spec && old.metadata.labels == pod.metadata.labels);
            if !same {
                self.queue.add(Key::of(pod));
            }
            return;
        }
        let uid = pod.uid().unwrap_or_default();
        self.assumed.lock().remove(&uid);
        self.parked.lock().remove(&Key::of(pod));
        let freed = change.new.is_none_or(snapshot::is_finished);
        let bound = change.old.is_some_and(is_pending) || change.old.is_none();
        // A pod that leaves frees resources; one that comes may be what an affinity waits for.
        if freed || bound {
            self.unpark();
        }
    }

    fn node_changed(&self, change: &Change<'_, Node>) {
        let (Some(old), Some(new)) = (change.old, change.new) else { return self.unpark() };
        let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
        if old.spec != new.spec
            || old.metadata.labels != new.metadata.labels
            || allocatable(old) != allocatable(new)
        {
            self.unpark();
        }
    }

    fn unpark(&self) {
        self.parked.lock().drain().for_each(|key| self.queue.add(key));
    }

    async fn schedule(self: Arc<Self>, key: Key) -> kube::Result<Option<Duration>> {
        let Some(pod) = self.pods.get(&key).filter(|pod| is_pending(pod)) else { return Ok(None) };
        if self.assumed.lock().contains_key(&pod.uid().unwrap_or_default()) {
            return Ok(None);
        }
        // Parked before looking: a change during the decision then brings the pod back.
        self.parked.lock().insert(key.clone());
        let snapshot = Snapshot::new(self.nodes.all(), &self.pods.all(), &self.assumed.lock());
        let decision = select(&pod, &snapshot);
        drop(snapshot);
        match decision {
            Ok(node) => {
                self.parked.lock().remove(&key);
                self.bind(&pod, &node).await?;
                Ok(None)
            }
            Err(reason) => {
                self.report(&pod, &reason).await?;
                Ok(Some(LONGEST_PARKING))
            }
        }
    }

    async fn bind(&self, pod: &Pod, node: &str) -> kube::Result<()> {
        let namespace = pod.namespace().unwrap_or_default();
        let target = ObjectReference {
            kind: Some("Node".into()),
            name: Some(node.into()),
            ..ObjectReference::default()
        };
        let metadata = ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectMeta::default()
        };
        let uid = pod.uid().unwrap_or_default();
        self.assumed.lock().insert(uid.clone(), node.to_string());
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let binding = Binding { metadata, target };
        let (name, params) = (pod.name_any(), PostParams::default());
        let bound = api.create_subresource::<_, Status>("binding", &name, &params, &binding).await;
        if let Err(error) = bound {
            self.assumed.lock().remove(&uid);
            return match error {
                // Gone or bound in the meantime: the watch tells.
                kube::Error::Api(status) if matches!(status.code, 404 | 409) => Ok(()),
                error => Err(error),
            };
        }
        let seen = self.pods.get(&Key::of(pod)).is_none_or(|pod| !is_pending(&pod));
        if seen {
            self.assumed.lock().remove(&uid);
        }
        let text = format!("Successfully assigned {namespace}/{} to {node}", pod.name_any());
        self.recorder.record(pod, EventType::Normal, "Scheduled", text);
        Ok(())
    }

    async fn report(&self, pod: &Pod, reason: &str) -> kube::Result<()> {
        self.recorder.record(pod, EventType::Warning, "FailedScheduling", reason);
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let before = conditions.into_iter().flatten().find(|condition| condition.type_ == "PodScheduled");
        let said = before.is_some_and(|c| c.status == "False" && c.message.as_deref() == Some(reason));
        if said {
            return Ok(());
        }
        let since = before.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
        let condition = serde_json::json!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": reason, "lastTransitionTime": since.unwrap_or(Time(Timestamp::now())) });
        let patch =
            serde_json::json!({ "metadata": { "uid": pod.uid() }, "status": { "conditions": [condition] } });
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        match api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(written) => self.pods.written(written),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
