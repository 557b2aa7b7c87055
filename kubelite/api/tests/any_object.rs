//! Whatever a client sends: no part of the crate panics on it, and each is idempotent where it must be.

use jiff::Timestamp;
use kubelite_api::{patch, schema, table, validate};
use proptest::prelude::*;
use serde_json::{Map, Value};

/// Names that mean something to some kind, so that the walk gets below the surface.
const NAMES: &[&str] = &[
    "metadata",
    "name",
    "labels",
    "ownerReferences",
    "finalizers",
    "spec",
    "status",
    "containers",
    "initContainers",
    "image",
    "ports",
    "containerPort",
    "port",
    "targetPort",
    "protocol",
    "env",
    "valueFrom",
    "volumes",
    "volumeMounts",
    "resources",
    "limits",
    "requests",
    "cpu",
    "template",
    "selector",
    "matchLabels",
    "matchExpressions",
    "strategy",
    "rollingUpdate",
    "maxSurge",
    "livenessProbe",
    "httpGet",
    "conditions",
    "type",
    "data",
    "subsets",
    "addresses",
    "endpoints",
    "rules",
    "subjects",
    "roleRef",
    "schedulingGates",
    "tolerations",
    "$patch",
    "$retainKeys",
    "$setElementOrder/containers",
    "$deleteFromPrimitiveList/finalizers",
    "creationTimestamp",
    "containerStatuses",
    "state",
    "terminated",
    "clusterIP",
];

const TEXTS: &[&str] = &[
    "",
    "a",
    "None",
    "delete",
    "replace",
    "merge",
    "1",
    "100m",
    "YQ==",
    "2026-01-02T03:04:05Z",
    "é",
    "10.0.0.1",
];

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(TEXTS).prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            fields(inner).prop_map(Value::Object),
        ]
    })
}

fn fields(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    let name = prop::sample::select(NAMES).prop_map(str::to_owned);
    prop::collection::vec((name, inner), 0..6).prop_map(|pairs| pairs.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_kind_panics(object in fields(anything()), other in fields(anything())) {
        let (object, other) = (Value::Object(object), Value::Object(other));
        let now = Timestamp::UNIX_EPOCH;
        for (group, _, kind, definition) in schema::kinds() {
            let schema = schema::lookup(definition).unwrap();
            // Raw trees must not panic either: a stored object may be damaged.
            table::cells(group, kind, &object, now);
            validate::object(group, kind, &object, Some(&other));
            let _ = patch::strategic(schema, &object, &other);
            let mut decoded = object.clone();
            schema.decode(&mut decoded);
            let mut again = decoded.clone();
            prop_assert_eq!(schema.decode(&mut again).unknown, Vec::<String>::new());
            prop_assert_eq!(&again, &decoded);
            schema.apply_defaults(&mut decoded);
            let mut again = decoded.clone();
            schema.apply_defaults(&mut again);
            prop_assert_eq!(&again, &decoded, "{} defaults are not idempotent", kind);
        }
    }

    #[test]
    fn an_empty_patch_changes_nothing(object in fields(anything())) {
        let object = Value::Object(object);
        let pod = schema::for_kind("", "v1", "Pod").unwrap();
        prop_assert_eq!(&patch::strategic(pod, &object, &serde_json::json!({})).unwrap(), &object);
        prop_assert_eq!(&patch::merge(&object, &serde_json::json!({})).unwrap(), &object);
        prop_assert_eq!(&patch::json(&object, &serde_json::json!([])).unwrap(), &object);
    }
}
