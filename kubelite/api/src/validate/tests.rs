use serde_json::json;

use super::*;
use crate::schema;

mod batch;
mod network;

fn defaulted(group: &str, kind: &str, mut object: Value) -> Value {
    schema::for_kind(group, "v1", kind).unwrap().apply_defaults(&mut object);
    object
}

#[allow(clippy::needless_pass_by_value)] // Callers write literals.
fn problems(group: &str, kind: &str, new: Value, old: Option<Value>) -> Vec<String> {
    let (new, old) = (defaulted(group, kind, new), old.map(|old| defaulted(group, kind, old)));
    object(group, kind, &new, old.as_ref()).iter().map(|e| format!("{}: {}", e.field, e.message)).collect()
}

#[allow(clippy::needless_pass_by_value)] // Callers write literals.
fn pod(container: Value) -> Value {
    json!({"metadata": {"name": "p", "namespace": "default"}, "spec": {"containers": [container]}})
}

#[test]
fn a_good_pod_passes() {
    let good = json!({"name": "c", "image": "i:1", "ports": [{"name": "http", "containerPort": 80}],
        "livenessProbe": {"httpGet": {"port": "http"}}, "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}});
    assert_eq!(problems("", "Pod", pod(good), None), Vec::<String>::new());
}

#[test]
fn pods() {
    for (container, expected) in [
        (json!({"name": "c"}), "spec.containers[0].image: Required value"),
        (json!({"image": "i"}), "spec.containers[0].name: Required value"),
        (
            json!({"name": "c", "image": "i", "imagePullPolicy": "x"}),
            r#"spec.containers[0].imagePullPolicy: Unsupported value: "x": supported values: "Always", "IfNotPresent", "Never""#,
        ),
        (
            json!({"name": "c", "image": "i", "ports": [{"containerPort": 70000}]}),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/x"}]}),
            r#"spec.containers[0].volumeMounts[0].name: Not found: "v""#,
        ),
        (
            json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}),
            r#"spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1"#,
        ),
        (
            json!({"name": "c", "image": "i", "livenessProbe": {}}),
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
    ] {
        assert_eq!(problems("", "Pod", pod(container), None), [expected]);
    }
    let mut bad = pod(json!({"name": "c", "image": "i"}));
    bad["metadata"]["name"] = json!("A_b");
    let text = &problems("", "Pod", bad, None)[0];
    assert!(text.starts_with(
        "metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain must consist of"
    ));
}

#[test]
fn pod_updates() {
    let old = || pod(json!({"name": "c", "image": "i:1"}));
    let mut image = pod(json!({"name": "c", "image": "i:2", "imagePullPolicy": "IfNotPresent"}));
    assert_eq!(problems("", "Pod", image.clone(), Some(old())), Vec::<String>::new());
    image["spec"]["hostname"] = json!("x");
    let text = &problems("", "Pod", image, Some(old()))[0];
    assert!(text.starts_with("spec: Forbidden: pod updates may not change fields other than"));
}

#[test]
fn services() {
    let service = |spec: Value| json!({"metadata": {"name": "s"}, "spec": spec});
    assert_eq!(problems("", "Service", service(json!({})), None), ["spec.ports: Required value"]);
    assert_eq!(problems("", "Service", service(json!({"clusterIP": "None"})), None), Vec::<String>::new());
    assert_eq!(
        problems("", "Service", service(json!({"ports": [{"port": 80}, {"name": "b", "port": 81}]})), None),
        ["spec.ports[0].name: Required value"]
    );
    let at = |ip: &str| service(json!({"clusterIP": ip, "ports": [{"port": 80}]}));
    assert_eq!(
        problems("", "Service", at("10.0.0.2"), Some(at("10.0.0.1"))),
        [r#"spec.clusterIPs[0]: Invalid value: ["10.0.0.2"]: may not change once set"#]
    );
    let slice = json!({"metadata": {"name": "x"}, "addressType": "IPv4", "endpoints": [{"addresses": ["127.0.0.1"]}]});
    assert!(problems("discovery.k8s.io", "EndpointSlice", slice, None)[0].contains("loopback range"));
}

#[test]
fn workloads() {
    let deployment = |selector: &str, policy: &str| {
        json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": selector}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]}}}})
    };
    assert_eq!(problems("apps", "Deployment", deployment("b", "Always"), None), Vec::<String>::new());
    assert_eq!(
        problems("apps", "Deployment", deployment("x", "Always"), None),
        [
            r#"spec.template.metadata.labels: Invalid value: {"a":"b"}: `selector` does not match template `labels`"#
        ]
    );
    assert_eq!(
        problems("apps", "Deployment", deployment("b", "Never"), None),
        [r#"spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always""#]
    );
    assert_eq!(
        problems("apps", "DaemonSet", json!({"metadata": {"name": "d"}}), None)[0],
        "spec.selector: Required value"
    );
}

#[test]
fn configuration_is_bounded_and_may_be_frozen() {
    let map = |data: Value| json!({"metadata": {"name": "m"}, "data": data, "immutable": true});
    assert!(
        problems("", "ConfigMap", map(json!({"a b": "x"})), None)[0]
            .starts_with("data[a b]: Invalid value: \"a b\": a valid config key")
    );
    assert_eq!(
        problems("", "ConfigMap", map(json!({"a": "y"})), Some(map(json!({"a": "x"})))),
        ["data: Forbidden: field is immutable when `immutable` is set"]
    );
    assert_eq!(
        problems("", "ConfigMap", map(json!({"a": "x".repeat(DATA_LIMIT + 1)})), None),
        [": Too long: may not be more than 1048576 bytes"]
    );
}

const DATA_LIMIT: usize = 1 << 20;
