//! Events for users (`kubectl describe`, `kubectl get events`).
//!
//! An event that happens again is counted in the one that is there. Recording never blocks and never fails: events are
//! best effort, so what doesn't fit into the bounded channel is dropped and counted in the log.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use std::collections::{HashMap, VecDeque};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Events that may wait for the API server.
const MAX_WAITING: usize = 1024;
/// Events whose repetition is recognised.
const MAX_KNOWN: usize = 2048;

/// How serious an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Something happened as intended.
    Normal,
    /// Something needs a user's attention.
    Warning,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Note {
    namespace: String,
    kind: String,
    api_version: String,
    name: String,
    uid: String,
    warning: bool,
    reason: &'static str,
    message: String,
}

/// Records events under one component's name.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Note>,
}

impl Recorder {
    /// Starts the task that writes the events of `component` until `shutdown`.
    pub fn start(client: Client, component: &'static str, shutdown: CancellationToken) -> Recorder {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        tokio::spawn(shutdown.run_until_cancelled_owned(write_all(client, component, receiver)));
        Recorder { sender }
    }

    /// Records that `reason` happened to `object`.
    pub fn record<K>(&self, object: &K, type_: EventType, reason: &'static str, message: impl Into<String>)
    where
        K: Resource<DynamicType = ()>,
    {
        let note = Note {
            namespace: object.namespace().unwrap_or_default(),
            kind: K::kind(&()).into_owned(),
            api_version: K::api_version(&()).into_owned(),
            name: object.name_any(),
            uid: object.uid().unwrap_or_default(),
            warning: type_ == EventType::Warning,
            reason,
            message: message.into(),
        };
        if self.sender.try_send(note).is_err() {
            tracing::debug!(reason, "event dropped: too many are waiting");
        }
    }
}

async fn write_all(client: Client, component: &'static str, mut notes: mpsc::Receiver<Note>) {
    let mut known: HashMap<Note, (String, i32)> = HashMap::new();
    let mut order: VecDeque<Note> = VecDeque::new();
    while let Some(note) = notes.recv().await {
        let namespace = if note.namespace.is_empty() { "default" } else { &note.namespace };
        let api: Api<Event> = Api::namespaced(client.clone(), namespace);
        if let Some((name, count)) = known.get_mut(&note) {
            *count += 1;
            let now = Time(Timestamp::now());
            let patch = serde_json::json!({ "count": *count, "lastTimestamp": now });
            if api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.is_ok() {
                continue;
            }
        }
        match api
            .create(&PostParams::default(), &new_event(&note, namespace, component, Timestamp::now()))
            .await
        {
            Ok(event) => {
                if known.insert(note.clone(), (event.name_any(), 1)).is_none() {
                    order.push_back(note);
                }
            }
            Err(error) => tracing::debug!(%error, reason = note.reason, "event not written"),
        }
        while order.len() > MAX_KNOWN {
            order.pop_front().map(|oldest| known.remove(&oldest));
        }
    }
}

fn new_event(note: &Note, namespace: &str, component: &str, now: Timestamp) -> Event {
    let mut event = Event {
        involved_object: ObjectReference {
            api_version: Some(note.api_version.clone()),
            kind: Some(note.kind.clone()),
            name: Some(note.name.clone()),
            namespace: Some(note.namespace.clone()).filter(|n| !n.is_empty()),
            uid: Some(note.uid.clone()),
            ..ObjectReference::default()
        },
        reason: Some(note.reason.to_string()),
        message: Some(note.message.clone()),
        type_: Some(if note.warning { "Warning" } else { "Normal" }.to_string()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        event_time: Some(MicroTime(now)),
        action: Some(note.reason.to_string()),
        reporting_component: Some(component.to_string()),
        reporting_instance: Some(component.to_string()),
        source: Some(EventSource { component: Some(component.to_string()), host: None }),
        ..Event::default()
    };
    event.metadata.name = Some(format!("{}.{:x}", note.name, now.as_nanosecond()));
    event.metadata.namespace = Some(namespace.to_string());
    event
}
