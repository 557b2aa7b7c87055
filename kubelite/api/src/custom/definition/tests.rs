use super::*;

fn definition() -> Value {
    json!({
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {
            "group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "kind": "CronTab", "shortNames": ["ct"]},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "properties": {"replicas": {"type": "integer"}}}},
            }}}],
        },
    })
}

/// Where something else is put in, and what is told of it.
fn wrong() -> Vec<(String, Value, &'static str)> {
    let version = "/spec/versions/0";
    let schema = "/spec/versions/0/schema/openAPIV3Schema";
    vec![
        ("/spec/group".to_owned(), json!("example"), "spec.group: should be a domain with at least one dot"),
        ("/metadata/name".to_owned(), json!("x"), "metadata.name: must be spec.names.plural"),
        ("/spec/scope".to_owned(), json!("Galaxy"), "spec.scope: Unsupported value: \"Galaxy\""),
        ("/spec/names/plural".to_owned(), json!("Cron"), "metadata.name: must be"),
        (
            format!("{version}/storage"),
            json!(false),
            "spec.versions: must have exactly one version marked as storage version",
        ),
        (
            format!("{version}/schema"),
            json!({}),
            "spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required",
        ),
        (
            format!("{schema}/type"),
            json!("array"),
            "spec.validation.openAPIV3Schema.type: must be object at the root",
        ),
        (
            format!("{schema}/properties/spec/properties/replicas"),
            json!({}),
            "spec.validation.openAPIV3Schema.properties[spec].properties[replicas].type: Required value: must not be empty for specified object fields",
        ),
        (
            format!("{schema}/properties/spec/properties/replicas"),
            json!({"type": "integer", "default": "many"}),
            "spec.validation.openAPIV3Schema.properties[spec].properties[replicas].default",
        ),
        (
            format!("{schema}/properties/spec/properties/replicas"),
            json!({"type": "string", "pattern": "["}),
            "must be a valid regular expression",
        ),
        (
            "/spec/conversion".to_owned(),
            json!({"strategy": "Webhook"}),
            "spec.conversion.strategy: Forbidden",
        ),
        (
            format!("{version}/subresources"),
            json!({"scale": {"specReplicasPath": ".status.x", "statusReplicasPath": ".status.replicas"}}),
            "spec.versions[0].subresources.scale.specReplicasPath: should be a json path under .spec",
        ),
    ]
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (at, value, expected) in wrong() {
        let mut definition = definition();
        let (parent, field) = at.rsplit_once('/').unwrap();
        definition.pointer_mut(parent).unwrap()[field] = value;
        fill(&mut definition);
        let mut report = Report::default();
        check(&mut report, &definition, None);
        let told: Vec<String> =
            report.into_errors().iter().map(|error| format!("{}: {}", error.field, error.message)).collect();
        let found = told.iter().any(|text| expected.split(": ").all(|part| text.contains(part)));
        assert!(found, "{at}: {expected:?} is not among {told:#?}");
    }
    let mut right = definition();
    fill(&mut right);
    let mut report = Report::default();
    check(&mut report, &right, None);
    assert!(report.into_errors().is_empty());
    assert_eq!(right["spec"]["names"]["listKind"], "CronTabList");
}
