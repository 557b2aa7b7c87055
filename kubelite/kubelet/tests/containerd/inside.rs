//! What a container finds inside: volumes of all kinds, parts of them, its environment; and what probes make of it.

use crate::api::Api;
use crate::node::{Node, wait};
use crate::{pod, ready, sh};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const SCRIPT: &str = "
echo map $(cat /map/key) $(cat /sub/key);
echo secret $(cat /projected/s/pass);
echo labels $(cat /projected/labels);
echo env $KEY $WHOLE_other $ME $CPU $KUBERNETES_SERVICE_HOST;
echo tmpfs $(grep -c ' /mem tmpfs ' /proc/mounts);
echo group $(stat -c '%g %a' /disk /mem) $(echo x > /part/file && echo wrote);
mkdir /disk/web; echo ok > /disk/web/healthy;
while :; do
  if [ \"$(cat /map/key)\" = two ] && [ \"$(cat /sub/key)\" = one ]; then echo updated; fi
  sleep 1;
done";

fn objects(api: &Api) {
    let map = |name: &str, value: &str| {
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": "default" },
            "data": { "key": value, "other": "whole" } })
    };
    api.put("/api/v1/namespaces/default/configmaps/m", map("m", "one"));
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s", "namespace": "default" },
        "data": { "pass": "d29yZA==" } });
    api.put("/api/v1/namespaces/default/secrets/s", secret);
    let service = json!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "kubernetes", "namespace": "default" },
        "spec": { "clusterIP": "10.43.0.1", "ports": [{ "name": "https", "port": 443 }] } });
    api.put("/api/v1/namespaces/default/services/kubernetes", service);
}

fn spec() -> Value {
    let mut container = sh("c", SCRIPT);
    container["env"] = json!([
        { "name": "KEY", "valueFrom": { "configMapKeyRef": { "name": "m", "key": "key" } } },
        { "name": "ME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
        { "name": "CPU", "valueFrom": { "resourceFieldRef": { "resource": "limits.cpu", "divisor": "1m" } } },
    ]);
    container["envFrom"] = json!([{ "prefix": "WHOLE_", "configMapRef": { "name": "m" } }]);
    container["resources"] = json!({ "limits": { "cpu": "1500m" } });
    container["volumeMounts"] = json!([
        { "name": "map", "mountPath": "/map" },
        { "name": "map", "mountPath": "/sub/key", "subPath": "key" },
        { "name": "projected", "mountPath": "/projected", "readOnly": true },
        { "name": "disk", "mountPath": "/disk" },
        { "name": "mem", "mountPath": "/mem" },
        { "name": "disk", "mountPath": "/part", "subPathExpr": "parts/$(ME)" },
    ]);
    container["readinessProbe"] = json!({ "exec": { "command": ["/bin/sh", "-c", "cat /disk/web/healthy"] },
        "periodSeconds": 1, "failureThreshold": 1 });
    json!({
        "securityContext": { "fsGroup": 4321 },
        "containers": [container],
        "volumes": [
            { "name": "map", "configMap": { "name": "m" } },
            { "name": "projected", "projected": { "sources": [
                { "secret": { "name": "s", "items": [{ "key": "pass", "path": "s/pass" }] } },
                { "downwardAPI": { "items": [{ "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } }] } },
                { "configMap": { "name": "none", "optional": true } } ] } },
            { "name": "disk", "emptyDir": {} },
            { "name": "mem", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } },
        ],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_environment_and_probes() {
    let node = Node::start();
    let api = Api::new();
    objects(&api);
    let (shutdown, task) = node.kubelet(&api);
    let (path, mut object) = pod("inside", spec());
    object["metadata"]["labels"] = json!({ "app": "web" });
    api.put(&path, object);
    wait(&api, &path, "ready", ready).await;
    let log = node.path("pods/default_inside_uid-inside/c/0.log");
    let expected = [
        "map one one",
        "secret word",
        "labels app=\"web\"",
        "env one whole inside 1500 10.43.0.1",
        "tmpfs 1",
        "group 4321 2777 4321 2777 wrote",
    ];
    let text = || std::fs::read_to_string(&log).unwrap_or_default();
    for line in expected {
        until(|| text().contains(&format!("stdout F {line}")), || format!("{line}:\n{}", text())).await;
    }

    // A changed map arrives, though not in a part of it; a probe that fails makes the pod unready and says why.
    let mut map = api.get("/api/v1/namespaces/default/configmaps/m").unwrap();
    map["data"]["key"] = "two".into();
    api.put("/api/v1/namespaces/default/configmaps/m", map);
    let pods = node.path("kubelet/pods/uid-inside");
    std::fs::remove_file(pods.join("volumes/kubernetes.io~empty-dir/disk/web/healthy")).unwrap();
    wait(&api, &path, "unready", |p| !ready(p)).await;
    let said = |api: &Api| {
        api.events().iter().any(|e| e.starts_with("Unhealthy Readiness probe failed: cat: can't open"))
    };
    until(|| said(&api), || format!("{:#?}", api.events())).await;
    until(|| text().contains("updated"), text).await;

    api.delete_gracefully(&path, 0);
    let mounts = || std::fs::read_to_string("/proc/self/mounts").unwrap();
    let gone = || !pods.join("volumes").exists() && !mounts().contains("uid-inside");
    until(gone, mounts).await;
    shutdown.cancel();
    task.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named() {
    let node = Node::start();
    let api = Api::new();
    let (shutdown, task) = node.kubelet(&api);
    let volumes = [
        (json!({ "configMap": { "name": "y" } }), "configmap \"y\" not found"),
        (
            json!({ "hostPath": { "path": "/none", "type": "Directory" } }),
            "hostPath type check failed: /none is not a directory",
        ),
        (
            json!({ "nfs": { "server": "s", "path": "/" } }),
            "this kind of volume is not supported by this kubelet",
        ),
    ];
    for (at, (mut volume, text)) in volumes.into_iter().enumerate() {
        volume["name"] = "x".into();
        let (path, object) =
            pod(&format!("p{at}"), json!({ "containers": [sh("c", "true")], "volumes": [volume] }));
        api.put(&path, object);
        let event = format!("FailedMount MountVolume.SetUp failed for volume \"x\" : {text}");
        until(|| api.events().contains(&event), || format!("{event}: {:#?}", api.events())).await;
    }
    let mut container = sh("c", "true");
    container["env"] = json!([{ "name": "A", "valueFrom": { "secretKeyRef": { "name": "y", "key": "k" } } }]);
    let (path, object) = pod("env", json!({ "containers": [container] }));
    api.put(&path, object);
    let waiting = |p: &Value| p["status"]["containerStatuses"][0]["state"]["waiting"].clone();
    let refused =
        wait(&api, &path, "refused", |p| waiting(p)["reason"] == "CreateContainerConfigError").await;
    assert_eq!(waiting(&refused)["message"], "secret \"y\" not found");
    shutdown.cancel();
    task.await.unwrap().unwrap();
}

/// Longer than a running pod's volumes go without a look.
async fn until(test: impl Fn() -> bool, otherwise: impl Fn() -> String) {
    let began = Instant::now();
    while !test() {
        assert!(began.elapsed() < Duration::from_secs(130), "{}", otherwise());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
