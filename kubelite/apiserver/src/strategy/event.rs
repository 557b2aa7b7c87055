//! Events: one storage, two kinds (core/v1 and events.k8s.io/v1), and an end after an hour.

use serde_json::{Value, json};

use super::{Strategy, text_at};

/// What events can be selected by.
pub const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

/// Seconds that an event is kept (upstream's `--event-ttl`).
const TIME_TO_LIVE: i64 = 3600;
/// Names of the same thing: in core/v1, in events.k8s.io/v1.
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// Events are stored as core/v1 has them.
pub struct Event;

impl Strategy for Event {
    fn field(&self, object: &Value, path: &str) -> String {
        match path {
            "source" => {
                let component = text_at(object, "source.component");
                if component.is_empty() { text_at(object, "reportingComponent") } else { component }
            }
            path => text_at(object, path),
        }
    }

    fn time_to_live(&self) -> Option<i64> {
        Some(TIME_TO_LIVE)
    }
}

/// An event of events.k8s.io/v1 as it is stored.
pub fn to_stored(object: &mut Value) {
    rename(object, "v1", |(core, new)| (new, core));
}

/// A stored event as events.k8s.io/v1 has it.
pub fn from_stored(object: &mut Value) {
    rename(object, "events.k8s.io/v1", |names| names);
}

fn rename(
    object: &mut Value,
    version: &str,
    direction: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str),
) {
    let Some(map) = object.as_object_mut() else { return };
    for names in RENAMED {
        let (from, to) = direction(*names);
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
    map.insert("apiVersion".to_owned(), json!(version));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_changes_nothing() {
        let core = json!({"apiVersion": "v1", "kind": "Event", "message": "m", "count": 2,
                          "involvedObject": {"name": "p"}, "source": {"component": "kubelet"}});
        let mut event = core.clone();
        from_stored(&mut event);
        assert_eq!(event["note"], "m");
        assert_eq!(event["regarding"]["name"], "p");
        to_stored(&mut event);
        assert_eq!(event, core);
    }
}
