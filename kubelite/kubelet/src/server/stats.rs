//! What pods use, measured by the runtime, in the shape of upstream's `/stats/summary`.

use super::{Answer, Server, find};
use crate::runtime::ContainerStats;
use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// `GET /stats/summary`.
pub(super) async fn summary(State(server): State<Server>) -> Answer {
    let context = &server.context;
    let stats = context.runtime.container_stats(None).await.map_err(|e| find::of_runtime(&e))?;
    Ok(Json(shape(&context.config.node_name, &stats)).into_response())
}

fn shape(node: &str, stats: &[ContainerStats]) -> Value {
    let mut pods: BTreeMap<&str, Vec<&ContainerStats>> = BTreeMap::new();
    for container in stats {
        pods.entry(&container.pod_uid).or_default().push(container);
    }
    let pods: Vec<Value> = pods.values().filter_map(|containers| pod(containers)).collect();
    json!({ "node": { "nodeName": node }, "pods": pods })
}

fn pod(containers: &[&ContainerStats]) -> Option<Value> {
    let first = containers.first()?;
    let sum = |field: fn(&ContainerStats) -> u64| containers.iter().map(|c| field(c)).sum::<u64>();
    let time = containers.iter().map(|c| c.timestamp).max().map(time);
    Some(json!({
        "podRef": { "name": first.pod_name, "namespace": first.pod_namespace, "uid": first.pod_uid },
        "containers": containers.iter().map(|c| container(c)).collect::<Vec<_>>(),
        "cpu": { "time": time, "usageCoreNanoSeconds": sum(|c| c.cpu_nanoseconds) },
        "memory": { "time": time, "usageBytes": sum(|c| c.memory_usage), "workingSetBytes": sum(|c| c.memory_working_set) },
    }))
}

fn container(stats: &ContainerStats) -> Value {
    let time = time(stats.timestamp);
    json!({
        "name": stats.name,
        "cpu": { "time": time, "usageCoreNanoSeconds": stats.cpu_nanoseconds },
        "memory": { "time": time, "usageBytes": stats.memory_usage, "workingSetBytes": stats.memory_working_set },
        "rootfs": { "time": time, "usedBytes": stats.filesystem_used },
    })
}

fn time(nanoseconds: i64) -> Option<String> {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).ok().map(|t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_summed_by_pod() {
        let stats = |pod: &str, name: &str, memory| ContainerStats {
            pod_uid: pod.into(),
            pod_name: pod.into(),
            name: name.into(),
            memory_working_set: memory,
            timestamp: 1_000_000_000,
            ..ContainerStats::default()
        };
        let all = [stats("a", "x", 1), stats("b", "y", 2), stats("a", "z", 4)];
        let summary = shape("n", &all);
        assert_eq!(summary["pods"][0]["memory"]["workingSetBytes"], 5);
        assert_eq!(summary["pods"][0]["containers"][1]["name"], "z");
        assert_eq!(summary["pods"][1]["podRef"]["name"], "b");
        assert_eq!(summary["pods"][1]["memory"]["time"], "1970-01-01T00:00:01Z");
    }
}
