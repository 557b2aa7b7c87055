use serde_json::json;

use super::*;

#[test]
fn every_reference_leads_somewhere() {
    fn check(owner: &str, shape: &Shape) {
        match shape {
            Shape::Ref(name) => assert!(shape.definition().is_some(), "{owner} → {name}"),
            Shape::List(inner) | Shape::Map(inner) => check(owner, inner),
            Shape::Object(fields) => fields.iter().for_each(|f| check(owner, &f.shape)),
            _ => {}
        }
    }
    for name in names() {
        check(name, lookup(name).unwrap().shape());
    }
    assert!(names().count() > 400);
    assert!(for_kind("", "v1", "Pod").is_some() && for_kind("apps", "v1", "Pod").is_none());
}

#[test]
fn unknown_fields_and_nulls_go() {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "creationTimestamp": null, "labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "foo": 1}], "bar": {}}, "baz": 1});
    let decoded = for_kind("", "v1", "Pod").unwrap().decode(&mut pod);
    assert_eq!(decoded.errors, []);
    let mut unknown = decoded.unknown;
    unknown.sort();
    assert_eq!(unknown, ["baz", "spec.bar", "spec.containers[0].foo"]);
    assert_eq!(
        pod,
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c"}]}})
    );
}

#[test]
fn types_are_checked() {
    let deployment = for_kind("apps", "v1", "Deployment").unwrap();
    for (spec, text) in [
        (
            json!({"replicas": "3"}),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            json!({"replicas": 1.5}),
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            json!({"template": {"spec": {"containers": "x"}}}),
            "json: cannot unmarshal string into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
        ),
        (
            json!({"template": {"spec": {"containers": [{"image": 5}]}}}),
            "json: cannot unmarshal number into Go struct field Container.spec.template.spec.containers.image of type string",
        ),
    ] {
        let decoded = deployment.decode(&mut json!({"spec": spec}));
        assert_eq!(decoded.errors.first().map(|e| e.message.as_str()), Some(text));
    }
}

#[test]
fn scalars_become_canonical() {
    let mut pod = json!({"metadata": {"creationTimestamp": "2026-01-02T03:04:05+01:00"},
        "spec": {"containers": [{"resources": {"limits": {"cpu": 0.5, "memory": "1024Ki"}}}]}});
    let decoded = for_kind("", "v1", "Pod").unwrap().decode(&mut pod);
    assert_eq!(decoded, Decoded::default());
    assert_eq!(pod["metadata"]["creationTimestamp"], "2026-01-02T02:04:05Z");
    assert_eq!(pod["spec"]["containers"][0]["resources"]["limits"], json!({"cpu": "500m", "memory": "1Mi"}));
    let mut lease = json!({"spec": {"renewTime": "2026-01-02T03:04:05.1Z"}});
    for_kind("coordination.k8s.io", "v1", "Lease").unwrap().decode(&mut lease);
    assert_eq!(lease["spec"]["renewTime"], "2026-01-02T03:04:05.100000Z");
    for data in ["a", "YQ=", "Y Q=", "YQ==YQ=="] {
        let decoded = for_kind("", "v1", "Secret").unwrap().decode(&mut json!({"data": {"k": data}}));
        assert_eq!(decoded.errors.len(), 1, "{data}");
    }
}
