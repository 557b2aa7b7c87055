//! What the conformance suite asks of disruption budgets and evictions.

use crate::cluster::Cluster;
use serde_json::{Value, json};

const BUDGET: &str = "policy/v1/PodDisruptionBudget";
const SET: &str = "apps/v1/ReplicaSet";

/// Evicts; the code of the answer.
async fn evict(cluster: &Cluster, pod: &str) -> u16 {
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}});
    let path = format!("/api/v1/namespaces/default/pods/{pod}/eviction");
    let request = http::Request::post(path).body(serde_json::to_vec(&eviction).unwrap()).unwrap();
    match cluster.client.request::<Value>(request).await {
        Ok(_) => 201,
        Err(kube::Error::Api(status)) => status.code,
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_eviction_waits_until_the_budget_allows_it() {
    let cluster = Cluster::start().await;
    let template = json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    let selector = json!({"matchLabels": {"app": "x"}});
    let set = json!({"metadata": {"name": "r"}, "spec": {"replicas": 3, "selector": selector, "template": template}});
    cluster.create(SET, set).await;
    let pods = cluster.count_pods(3).await;
    cluster
        .create(
            BUDGET,
            json!({"metadata": {"name": "b"}, "spec": {"selector": selector, "minAvailable": "60%"}}),
        )
        .await;
    cluster.field(BUDGET, "b", "/status/desiredHealthy", 2).await;
    cluster.field(BUDGET, "b", "/status/disruptionsAllowed", 0).await;
    for pod in &pods {
        cluster.bind(pod).await;
        cluster.run(pod).await;
    }
    cluster.field(BUDGET, "b", "/status/disruptionsAllowed", 1).await;
    assert_eq!(evict(&cluster, &pods[0]).await, 201);
    let gone = cluster.get("v1/Pod", &pods[0]).await.unwrap();
    assert!(!gone["metadata"]["deletionTimestamp"].is_null());
    let conditions = gone["status"]["conditions"].as_array().unwrap().iter();
    assert!(
        conditions.clone().any(|c| c["type"] == "DisruptionTarget" && c["reason"] == "EvictionByEvictionAPI")
    );
    assert_eq!(evict(&cluster, &pods[1]).await, 429);
    // The new pod is not ready: it may go without asking.
    let new = async || cluster.pods().await.into_iter().find(|pod| !pods.contains(pod));
    cluster.until("the new pod", async || new().await.is_some()).await;
    let new = new().await.unwrap();
    cluster.field(BUDGET, "b", "/status/currentHealthy", 2).await;
    assert_eq!(evict(&cluster, &new).await, 201);
    assert_eq!(evict(&cluster, &pods[1]).await, 429);
    cluster.patch(BUDGET, "b", json!({"spec": {"minAvailable": "30%"}})).await;
    cluster.field(BUDGET, "b", "/status/disruptionsAllowed", 1).await;
    assert_eq!(evict(&cluster, &pods[1]).await, 201);
}
