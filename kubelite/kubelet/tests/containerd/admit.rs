//! What this node can't give a pod is refused and said, never left out in silence.

use crate::api::Api;
use crate::node::{Node, wait};
use crate::{pod, ready, sh};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Waits until an event begins with `text`.
async fn event(api: &Api, text: &str) {
    let began = Instant::now();
    while !api.events().iter().any(|e| e.starts_with(text)) {
        assert!(began.elapsed() < Duration::from_secs(20), "no event {text}: {:#?}", api.events());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn sysctl(name: &str, value: &str) -> Value {
    let script = format!("cat /proc/sys/{}; while :; do sleep 0.1; done", name.replace('.', "/"));
    json!({ "containers": [sh("c", &script)],
        "securityContext": { "sysctls": [{ "name": name, "value": value }] } })
}

fn runtime_class(api: &Api, name: &str, handler: &str) {
    let object = json!({ "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
        "metadata": { "name": name }, "handler": handler });
    api.put(&format!("/apis/node.k8s.io/v1/runtimeclasses/{name}"), object);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_node_cannot_give_is_refused() {
    let node = Node::start();
    let api = Api::new();
    runtime_class(&api, "plain", "runc");
    runtime_class(&api, "boxed", "no-such-handler");
    let (shutdown, task) = node.kubelet(&api);
    let sleep = || json!([sh("c", "while :; do sleep 0.1; done")]);
    let cases = [
        ("safe", sysctl("kernel.shm_rmid_forced", "1")),
        ("unsafe", sysctl("kernel.msgmax", "8193")),
        ("plain", json!({ "runtimeClassName": "plain", "containers": sleep() })),
        ("boxed", json!({ "runtimeClassName": "boxed", "containers": sleep() })),
        ("ghost", json!({ "runtimeClassName": "ghost", "containers": sleep() })),
    ];
    let paths: Vec<String> = cases
        .into_iter()
        .map(|(name, spec)| {
            let (path, object) = pod(name, spec);
            api.put(&path, object);
            path
        })
        .collect();

    wait(&api, &paths[0], "ready", ready).await;
    let log = node.path("pods/default_safe_uid-safe/c/0.log");
    let began = Instant::now();
    while !std::fs::read_to_string(&log).is_ok_and(|text| text.ends_with("stdout F 1\n")) {
        assert!(began.elapsed() < Duration::from_secs(20), "the sysctl is not set");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    wait(&api, &paths[2], "ready", ready).await;

    let refused = wait(&api, &paths[1], "refused", |p| p["status"]["phase"] == "Failed").await;
    assert_eq!(refused["status"]["reason"], "SysctlForbidden");
    let message = "Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted";
    assert_eq!(refused["status"]["message"], message);
    assert!(refused["status"]["containerStatuses"].is_null(), "{:#}", refused["status"]);
    event(&api, "SysctlForbidden forbidden sysctl: \"kernel.msgmax\" not allowlisted").await;

    event(&api, "FailedCreatePodSandBox Failed to create pod sandbox: RuntimeClass \"ghost\" not found")
        .await;
    let began = Instant::now();
    while !api.events().iter().any(|e| e.contains("no runtime for \"no-such-handler\" is configured")) {
        assert!(began.elapsed() < Duration::from_secs(20), "{:#?}", api.events());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for path in [&paths[3], &paths[4]] {
        assert_eq!(api.get(path).unwrap()["status"]["phase"], "Pending");
    }
    // Of the refused ones the runtime has nothing: two containers run, each in its sandbox.
    assert_eq!(node.ctr(&["tasks", "ls", "-q"]).lines().count(), 4);

    api.delete_gracefully(&paths[1], 0);
    let began = Instant::now();
    while api.get(&paths[1]).is_some() {
        assert!(began.elapsed() < Duration::from_secs(20), "a refused pod does not go");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    shutdown.cancel();
    task.await.unwrap().unwrap();
}
