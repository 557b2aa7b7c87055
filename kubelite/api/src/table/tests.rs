use super::*;

fn now() -> Timestamp {
    "2026-01-02T00:00:00Z".parse().unwrap()
}

fn row(group: &str, kind: &str, object: &Value) -> Vec<String> {
    let cells = cells(group, kind, object, now());
    assert_eq!(cells.len(), columns(group, kind).len(), "{kind}");
    cells.iter().map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned)).collect()
}

#[test]
fn durations() {
    for (seconds, text) in [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (130, "2m10s"),
        (600, "10m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 720, "3h12m"),
        (8 * 3600 + 60, "8h"),
        (47 * 3600, "47h"),
        (51 * 3600, "2d3h"),
        (8 * 86400 + 3600, "8d"),
        (729 * 86400, "729d"),
        (731 * 86400, "2y1d"),
        (3000 * 86400, "8y"),
    ] {
        assert_eq!(human_duration(seconds), text, "{seconds}");
    }
}

#[test]
fn every_kind_has_as_many_cells_as_columns() {
    for kind in KINDS {
        assert_eq!(row(kind.group, kind.kind, &json!({})).len(), kind.columns.len());
    }
}

#[test]
fn pod_statuses() {
    let run = |ready| json!({"name": "c", "ready": ready, "restartCount": 0, "state": {"running": {}}});
    let crash = json!({"name": "c", "ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"finishedAt": "2026-01-01T23:55:00Z"}}});
    let done = |code: i64, reason: &str| json!({"name": "c", "ready": false, "state": {"terminated": {"exitCode": code, "reason": reason}}});
    for (status, deleted, ready, text, restarts) in [
        (json!({"phase": "Running", "containerStatuses": [run(true)]}), false, "1/1", "Running", "0"),
        (
            json!({"phase": "Running", "containerStatuses": [crash]}),
            false,
            "0/1",
            "CrashLoopBackOff",
            "3 (5m ago)",
        ),
        (
            json!({"phase": "Succeeded", "containerStatuses": [done(0, "Completed")]}),
            false,
            "0/1",
            "Completed",
            "0",
        ),
        (json!({"phase": "Failed", "containerStatuses": [done(2, "")]}), false, "0/1", "ExitCode:2", "0"),
        (json!({"phase": "Failed", "reason": "Evicted"}), false, "0/1", "Evicted", "0"),
        (json!({"phase": "Running", "containerStatuses": [run(true)]}), true, "1/1", "Terminating", "0"),
        (
            json!({"phase": "Pending", "initContainerStatuses": [done(1, "Error")]}),
            false,
            "0/1",
            "Init:Error",
            "0",
        ),
        (json!({"phase": "Pending", "initContainerStatuses": [run(false)]}), false, "0/1", "Init:0/1", "0"),
        (json!({"phase": "Pending"}), false, "0/1", "Pending", "0"),
    ] {
        let mut pod = json!({"metadata": {"name": "p"}, "status": status,
            "spec": {"containers": [{"name": "c"}], "initContainers": []}});
        if deleted {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        if pod.pointer("/status/initContainerStatuses").is_some() {
            pod["spec"]["initContainers"] = json!([{"name": "i"}]);
        }
        assert_eq!(row("", "Pod", &pod)[1..4], [ready, text, restarts]);
    }
}

#[test]
fn nodes_services_and_deployments() {
    let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": ""}}, "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}});
    assert_eq!(
        row("", "Node", &node)[1..6],
        ["Ready,SchedulingDisabled", "control-plane", "<unknown>", "", "10.0.0.1"]
    );
    let service = json!({"metadata": {"name": "s", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"type": "NodePort", "clusterIP": "10.96.0.1",
        "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}], "selector": {"a": "b"}}});
    assert_eq!(
        row("", "Service", &service)[1..],
        ["NodePort", "10.96.0.1", "<none>", "80:30080/TCP,53/UDP", "24h", "a=b"]
    );
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}},
        "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}, "status": {"readyReplicas": 2}});
    assert_eq!(row("apps", "Deployment", &deployment)[1..], ["2/3", "0", "0", "<unknown>", "c", "i", "a=b"]);
}

#[test]
fn jobs_and_claims() {
    let job = json!({"metadata": {"name": "j"}, "spec": {"completions": 3}, "status": {"succeeded": 3,
        "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:05:00Z", "conditions": [{"type": "Complete", "status": "True"}]}});
    assert_eq!(row("batch", "Job", &job)[1..4], ["Complete", "3/3", "5m"]);
    let claim = json!({"metadata": {"name": "c"}, "spec": {"volumeName": "v"}, "status": {"phase": "Bound",
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}});
    assert_eq!(row("", "PersistentVolumeClaim", &claim)[1..5], ["Bound", "v", "1Gi", "RWO"]);
}
