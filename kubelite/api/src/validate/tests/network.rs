use super::*;

const NET: &str = "networking.k8s.io";

/// Asserts what is told of a spec; nothing for an empty text.
fn told(group: &str, kind: &str, cases: &[(Value, &str)]) {
    for (spec, expected) in cases {
        let found = problems(
            group,
            kind,
            json!({"metadata": {"name": "x", "namespace": "default"}, "spec": spec}),
            None,
        );
        if expected.is_empty() {
            assert_eq!(found, Vec::<String>::new(), "{spec}");
        } else {
            assert!(found.iter().any(|text| text == expected), "{spec}: {found:#?}");
        }
    }
}

fn path(path: &Value) -> Value {
    json!({"rules": [{"host": "a.example", "http": {"paths": [path]}}]})
}

#[test]
fn ingresses() {
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    let at = "spec.rules[0].http.paths[0]";
    told(
        NET,
        "Ingress",
        &[
            (path(&json!({"path": "/a", "pathType": "Prefix", "backend": backend})), ""),
            (json!({"defaultBackend": backend, "tls": [{"hosts": ["*.a.example"]}]}), ""),
            (json!({}), "spec: Invalid value: {}: either `defaultBackend` or `rules` must be specified"),
            (
                path(&json!({"path": "/a", "backend": backend})),
                &format!("{at}.pathType: Required value: pathType must be specified"),
            ),
            (
                path(&json!({"path": "a", "pathType": "Exact", "backend": backend})),
                &format!("{at}.path: Invalid value: \"a\": must be an absolute path"),
            ),
            (
                path(&json!({"path": "/a/../b", "pathType": "Prefix", "backend": backend})),
                &format!("{at}.path: Invalid value: \"/a/../b\": must not contain '/../'"),
            ),
            (
                path(&json!({"path": "/", "pathType": "Best", "backend": backend})),
                &format!(
                    "{at}.pathType: Unsupported value: \"Best\": supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\""
                ),
            ),
            (
                path(&json!({"path": "/", "pathType": "Exact", "backend": {}})),
                &format!("{at}.backend: Required value: resource or service backend is required"),
            ),
            (
                path(
                    &json!({"path": "/", "pathType": "Exact", "backend": {"service": {"name": "s", "port": {"number": 1, "name": "x"}}}}),
                ),
                &format!("{at}.backend: Invalid value: \"\": cannot set both port name & port number"),
            ),
            (
                json!({"rules": [{"host": "10.0.0.1"}]}),
                "spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address",
            ),
        ],
    );
    told(
        NET,
        "IngressClass",
        &[(json!({"controller": "a.example/c"}), ""), (json!({}), "spec.controller: Required value")],
    );
}

#[test]
fn network_policies() {
    let with = |rule: Value| json!({"podSelector": {}, "ingress": [rule]});
    told(
        NET,
        "NetworkPolicy",
        &[
            (
                with(
                    json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}], "ports": [{"port": 80, "endPort": 90}]}),
                ),
                "",
            ),
            (with(json!({"from": [{}]})), "spec.ingress[0].from[0]: Required value: must specify a peer"),
            (
                with(json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]})),
                "spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer",
            ),
            (
                with(json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]})),
                "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
            ),
            (
                with(json!({"ports": [{"port": "http", "endPort": 90}]})),
                "spec.ingress[0].ports[0].endPort: Invalid value: 90: may not be specified when `port` is non-numeric",
            ),
            (
                with(json!({"ports": [{"protocol": "ICMP"}]})),
                "spec.ingress[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ),
            (
                json!({"podSelector": {}, "policyTypes": ["Both"]}),
                "spec.policyTypes[0]: Unsupported value: \"Both\": supported values: \"Egress\", \"Ingress\"",
            ),
        ],
    );
}

#[test]
fn storage_classes() {
    let class = |more: Value| {
        let mut class = json!({"metadata": {"name": "fast"}, "provisioner": "a.example/disks"});
        class.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        class
    };
    let group = "storage.k8s.io";
    assert_eq!(problems(group, "StorageClass", class(json!({})), None), Vec::<String>::new());
    assert_eq!(
        problems(group, "StorageClass", class(json!({"reclaimPolicy": "Recycle"})), None),
        ["reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\""]
    );
    assert_eq!(
        problems(group, "StorageClass", class(json!({"parameters": {"a": "b"}})), Some(class(json!({})))),
        ["parameters: Forbidden: updates to parameters are forbidden."]
    );
    let attachment =
        json!({"metadata": {"name": "x"}, "spec": {"attacher": "a.example", "nodeName": "n", "source": {}}});
    let expected =
        "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    assert_eq!(problems(group, "VolumeAttachment", attachment, None), [expected]);
}
