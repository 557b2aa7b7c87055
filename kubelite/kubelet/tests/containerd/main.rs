//! Pods in a real containerd, told by an API server in memory. Needs root, containerd, runc and busybox-static.

// A test's helper ends the test where something is missing.
#![allow(clippy::unwrap_used)]

mod admit;
mod api;
mod channels;
mod front;
mod image;
mod inside;
mod node;
mod streaming;
mod tls;

use api::Api;
use node::{IMAGE, Node, wait};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn pod(name: &str, spec: impl Into<Value>) -> (String, Value) {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "default", "uid": format!("uid-{name}"),
            "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1 },
        "spec": { "nodeName": "test-node", "hostNetwork": true, "terminationGracePeriodSeconds": 2 },
        "status": { "phase": "Pending", "qosClass": "BestEffort" },
    });
    for (key, value) in spec.into().as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    (format!("/api/v1/namespaces/default/pods/{name}"), pod)
}

fn sh(name: &str, script: &str) -> Value {
    json!({ "name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["/bin/sh", "-c", script] })
}

fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_is_adopted_and_ends() {
    let node = Node::start();
    let api = Api::new();
    let (shutdown, task) = node.kubelet(&api);
    let began = Instant::now();
    let (path, object) = pod(
        "web",
        json!({ "initContainers": [sh("init", "echo first > /data/first")],
            "containers": [{ "name": "web", "image": IMAGE, "command": ["/bin/sh", "-c", "trap 'exit 0' TERM; cat /data/first; echo $(NAME); while :; do sleep 0.1; done"],
                "env": [{ "name": "NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
                "volumeMounts": [{ "name": "data", "mountPath": "/data" }] }],
            "volumes": [{ "name": "data", "emptyDir": {} }] }),
    );
    let mut object = object;
    object["spec"]["initContainers"][0]["volumeMounts"] = json!([{ "name": "data", "mountPath": "/data" }]);
    api.put(&path, object);
    let running = wait(&api, &path, "ready", ready).await;
    println!("ready after {:?}", began.elapsed());
    let status = &running["status"];
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["podIP"], "127.0.0.1");
    assert_eq!(status["qosClass"], "BestEffort");
    assert_eq!(status["initContainerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    let id = status["containerStatuses"][0]["containerID"].as_str().unwrap().to_string();
    assert!(id.starts_with("containerd://"), "{id}");
    let log = node.path("pods/default_web_uid-web/web/0.log");
    let began = Instant::now();
    loop {
        // Ready means started; what it says may come a moment later.
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if text.contains("stdout F first") && text.contains("stdout F web") {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // A kubelet that is started anew adopts what runs.
    shutdown.cancel();
    task.await.unwrap().unwrap();
    let (shutdown, task) = node.kubelet(&api);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let adopted = wait(&api, &path, "ready", ready).await;
    assert_eq!(adopted["status"]["containerStatuses"][0]["containerID"], id.as_str());
    assert_eq!(adopted["status"]["containerStatuses"][0]["restartCount"], 0);

    api.delete_gracefully(&path, 2);
    let began = Instant::now();
    while api.get(&path).is_some() {
        assert!(began.elapsed() < Duration::from_secs(20), "the pod does not go: {:#?}", api.events());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("gone after {:?}", began.elapsed());
    let began = Instant::now();
    while !node.ctr(&["containers", "ls", "-q"]).trim().is_empty()
        || node.path("kubelet/pods/uid-web").exists()
    {
        assert!(began.elapsed() < Duration::from_secs(20), "something of the pod stays");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let events = api.events();
    for event in
        ["Created Created container: web", "Started Started container web", "Killing Stopping container web"]
    {
        assert!(events.iter().any(|e| e == event), "{event} is not among {events:#?}");
    }
    shutdown.cancel();
    task.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_end_crash_or_cannot_start() {
    let node = Node::start();
    let api = Api::new();
    let (shutdown, task) = node.kubelet(&api);
    let cases = [
        (
            "done",
            json!({ "restartPolicy": "Never", "containers": [sh("c", "echo bye > /dev/termination-log")] }),
        ),
        ("failed", json!({ "restartPolicy": "Never", "containers": [sh("c", "exit 7")] })),
        ("crash", json!({ "containers": [sh("c", "exit 1")] })),
        ("image", json!({ "containers": [{ "name": "c", "image": "127.0.0.1:1/none:1" }] })),
        ("never", json!({ "containers": [{ "name": "c", "image": "none:1", "imagePullPolicy": "Never" }] })),
        (
            "oom",
            json!({ "restartPolicy": "Never", "containers": [{ "name": "c", "image": IMAGE,
            "command": ["/bin/sh", "-c", "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done"],
            "resources": { "limits": { "memory": "20Mi" } } }] }),
        ),
        ("waits", json!({ "hostNetwork": false, "containers": [sh("c", "sleep 100")] })),
    ];
    let mut paths = vec![];
    for (name, spec) in cases {
        let (path, object) = pod(name, spec);
        api.put(&path, object);
        paths.push(path);
    }
    let state = |p: &Value| p["status"]["containerStatuses"][0]["state"].clone();
    let done = wait(&api, &paths[0], "Succeeded", |p| p["status"]["phase"] == "Succeeded").await;
    assert_eq!(state(&done)["terminated"]["message"], "bye\n");
    let failed = wait(&api, &paths[1], "Failed", |p| p["status"]["phase"] == "Failed").await;
    assert_eq!(state(&failed)["terminated"]["exitCode"], 7);
    let crash =
        wait(&api, &paths[2], "in a crash loop", |p| state(p)["waiting"]["reason"] == "CrashLoopBackOff")
            .await;
    let message = state(&crash)["waiting"]["message"].as_str().unwrap().to_string();
    assert_eq!(message, "back-off 10s restarting failed container=c pod=crash_default(uid-crash)");
    assert_eq!(crash["status"]["containerStatuses"][0]["restartCount"], 1);
    assert_eq!(crash["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 1);
    let image =
        wait(&api, &paths[3], "backed off", |p| state(p)["waiting"]["reason"] == "ImagePullBackOff").await;
    assert!(
        state(&image)["waiting"]["message"].as_str().unwrap().starts_with("Back-off pulling image"),
        "{image:#}"
    );
    wait(&api, &paths[4], "refused", |p| state(p)["waiting"]["reason"] == "ErrImageNeverPull").await;
    let oom = wait(&api, &paths[5], "Failed", |p| p["status"]["phase"] == "Failed").await;
    assert_eq!(state(&oom)["terminated"]["reason"], "OOMKilled", "{:#}", state(&oom));
    wait(&api, &paths[6], "waiting", |p| state(p)["waiting"]["reason"] == "ContainerCreating").await;
    let began = Instant::now();
    while !api.events().iter().any(|e| {
        e.starts_with(
            "NetworkNotReady network is not ready: container runtime network not ready: NetworkReady=false",
        )
    }) {
        assert!(began.elapsed() < Duration::from_secs(20), "{:#?}", api.events());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    check_node(&api);
    shutdown.cancel();
    task.await.unwrap().unwrap();
}

fn check_node(api: &Api) {
    let object = api.get("/api/v1/nodes/test-node").unwrap();
    let conditions = object["status"]["conditions"].as_array().unwrap();
    let ready = conditions.iter().find(|c| c["type"] == "Ready").unwrap();
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("KubeletNotReady")));
    assert_eq!(object["metadata"]["labels"]["kubernetes.io/hostname"], "test-node");
    assert_eq!(object["spec"]["taints"][0]["key"], "node.kubernetes.io/not-ready");
    assert!(object["status"]["images"].as_array().is_some_and(|i| !i.is_empty()), "{object:#}");
    let lease = api.get("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/test-node").unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], "test-node");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_over_the_in_memory_runtime() {
    let api = Api::new();
    let dir = tempfile::tempdir().unwrap();
    let runtime = std::sync::Arc::new(kubelite_kubelet::runtime::testing::Memory::new(&[IMAGE]));
    let shutdown = tokio_util::sync::CancellationToken::new();
    let config = node::config_at(dir.path(), &dir.path().join("none.sock"));
    let task =
        tokio::spawn(kubelite_kubelet::run_with(api.client(), config, runtime.clone(), shutdown.clone()));
    let (path, object) = pod("web", json!({ "hostNetwork": false, "containers": [sh("c", "sleep 100")] }));
    api.put(&path, object);
    let running = wait(&api, &path, "ready", ready).await;
    assert_eq!(running["status"]["podIP"], "10.1.0.1");
    assert!(runtime.exit("uid-web", "c", 3));
    let restarts = |p: &Value| p["status"]["containerStatuses"][0]["restartCount"].clone();
    let again = wait(&api, &path, "restarted", |p| restarts(p) == 1 && ready(p)).await;
    assert_eq!(again["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 3);
    api.delete_gracefully(&path, 2);
    let expected = [
        "run-sandbox web",
        "create c",
        "start c",
        "create c",
        "start c",
        "stop c 2s",
        "stop-sandbox web",
        "stop-sandbox web",
        "remove-sandbox web",
    ];
    let began = Instant::now();
    while runtime.calls() != expected {
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", runtime.calls());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(api.get(&path).is_none());
    shutdown.cancel();
    task.await.unwrap().unwrap();
}
