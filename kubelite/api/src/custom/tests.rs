use serde_json::{Value, json};

use super::*;

fn schema() -> Structural {
    let schema = json!({
        "type": "object",
        "properties": {
            "spec": {
                "type": "object", "required": ["cronSpec"],
                "properties": {
                    "cronSpec": {"type": "string", "pattern": r"^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$"},
                    "image": {"type": "string", "default": "busybox", "maxLength": 10},
                    "replicas": {"type": "integer", "minimum": 1, "maximum": 10},
                    "mode": {"type": "string", "enum": ["fast", "slow"]},
                    "port": {"x-kubernetes-int-or-string": true},
                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                    "set": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
                    "ports": {
                        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                        "items": {"type": "object", "properties": {"name": {"type": "string"}, "n": {"type": "integer", "default": 80}}},
                    },
                    "either": {
                        "type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                        "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
                    },
                    "maybe": {"type": "string", "nullable": true},
                },
            },
        },
    });
    let mut report = Report::default();
    let read = Structural::read(&schema, "schema", &mut report);
    let errors = report.into_errors();
    assert!(errors.is_empty(), "{errors:?}");
    read
}

fn with(field: &str, value: impl Into<Value>) -> Value {
    json!({"spec": {"cronSpec": "* * * * */5", field: value.into()}})
}

#[test]
fn wrong_values_are_told_in_upstreams_words() {
    let schema = schema();
    for (object, expected) in [
        (json!({"spec": {}}), "spec.cronSpec|Required value"),
        (with("cronSpec", json!("* *")), r"spec.cronSpec|spec.cronSpec in body should match '^(\d+|\*)"),
        (
            with("replicas", json!("3")),
            "spec.replicas|Invalid value: \"string\": spec.replicas in body must be of type integer: \"string\"",
        ),
        (
            with("replicas", json!(0)),
            "spec.replicas|Invalid value: 0: spec.replicas in body should be greater than or equal to 1",
        ),
        (with("replicas", json!(11)), "spec.replicas|should be less than or equal to 10"),
        (
            with("mode", json!("x")),
            "spec.mode|Unsupported value: \"x\": supported values: \"fast\", \"slow\"",
        ),
        (with("image", json!("a long image")), "spec.image|Too long: may not be more than 10 bytes"),
        (with("port", json!(true)), "spec.port|must be of type integer,string: \"boolean\""),
        (with("labels", json!({"a": 1})), "spec.labels.a|must be of type string: \"integer\""),
        (with("set", json!(["a", "a"])), "spec.set[1]|Duplicate value: \"a\""),
        (
            with("ports", json!([{"name": "a"}, {"name": "a", "n": 1}])),
            "spec.ports[1]|Duplicate value: {\"name\":\"a\"}",
        ),
        (
            with("either", json!({})),
            "<nil>|\"spec.either\" must validate one and only one schema (oneOf). Found none valid",
        ),
        (with("either", json!({"a": "", "b": ""})), "<nil>|Found 2 valid alternatives"),
        (with("mode", Value::Null), "spec.mode|must be of type string: \"null\""),
    ] {
        let errors = schema.check(&object);
        let (field, text) = expected.split_once('|').unwrap();
        assert!(errors.iter().any(|e| e.field == field && e.message.contains(text)), "{object}: {errors:?}");
    }
    for right in [
        with("port", json!("http")),
        with("port", json!(80)),
        with("maybe", Value::Null),
        with("either", json!({"b": ""})),
    ] {
        assert_eq!(schema.check(&right), [], "{right}");
    }
}

#[test]
fn what_is_not_known_goes_and_what_is_missing_comes() {
    let mut object = json!({
        "apiVersion": "x/v1", "kind": "X", "metadata": {"name": "a", "nonsense": 1}, "extra": 1,
        "spec": {"cronSpec": "x", "other": 1, "free": {"any": {"thing": 1}}, "ports": [{"name": "a", "x": 1}], "mode": null},
    });
    let schema = schema();
    let found = schema.prune(&mut object);
    assert_eq!(found.unknown, ["extra", "metadata.nonsense", "spec.other", "spec.ports[0].x"]);
    schema.fill(&mut object);
    let expected = json!({"cronSpec": "x", "image": "busybox", "free": {"any": {"thing": 1}}, "ports": [{"name": "a", "n": 80}]});
    assert_eq!(object["spec"], expected);
    assert!(schema.has_defaults());
}

#[test]
fn paths_find_what_printers_show() {
    let object = json!({"metadata": {"annotations": {"a.b/c": "x"}},
        "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Old", "status": "False"}], "n": [1, 2]}});
    for (path, expected) in [
        (".metadata.annotations.a\\.b/c", json!("x")),
        (".metadata.annotations['a.b/c']", json!("x")),
        (".status.conditions[?(@.type==\"Ready\")].status", json!("True")),
        (".status.conditions[?(@.type=='Old')].status", json!("False")),
        ("{.status.n[1]}", json!(2)),
        (".status.n[-1]", json!(2)),
        (".status.n[*]", json!(1)),
        (".status.none", Value::Null),
    ] {
        let found = Path::parse(path).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(found.find(&object).unwrap_or(&Value::Null), &expected, "{path}");
    }
    for wrong in ["status", ".a[", ".a[x]", ".a..b[?(x==1)]"] {
        assert!(Path::parse(wrong).is_err(), "{wrong}");
    }
    // As deep as the bound allows, and no deeper.
    assert!(Path::parse(&".a[?(@".repeat(100_000)).is_err());
}

#[test]
fn owners_have_items_by_the_schemas_keys() {
    let definition = json!({"spec": {"group": "g.io", "names": {"kind": "X", "listKind": "XList"}}});
    let version = json!({"name": "v1", "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "properties": {"name": {"type": "string"}, "n": {"type": "integer"}}}},
    }}}}}});
    let version = Version::of(&definition, &version);
    let mut object = json!({"spec": {"ports": [{"name": "a", "n": 1}]}});
    let manager = crate::managed::Manager {
        name: "m",
        api_version: "g.io/v1",
        subresource: "",
        now: "2026-01-01T00:00:00Z",
    };
    crate::managed::update(&version.schema, &Value::Null, &mut object, &manager, false);
    let owned = object["metadata"]["managedFields"].to_string();
    assert!(owned.contains(r#"k:{\"name\":\"a\"}"#) || owned.contains(r#""k:{\"name\":\"a\"}""#), "{owned}");
}
