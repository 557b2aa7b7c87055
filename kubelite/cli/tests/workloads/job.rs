//! What the conformance suite asks of jobs, and more.

use crate::cluster::{Cluster, name};
use kube::api::DeleteParams;
use serde_json::{Value, json};

const JOB: &str = "batch/v1/Job";
const POD: &str = "v1/Pod";

fn job(spec: &Value) -> Value {
    let mut job = json!({"metadata": {"name": "j"}, "spec": {
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}}}});
    spec.as_object().unwrap().iter().for_each(|(field, value)| job["spec"][field] = value.clone());
    job
}

async fn has_condition(cluster: &Cluster, type_: &str, status: &str) -> bool {
    let job = cluster.get(JOB, "j").await.unwrap();
    let conditions = job["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == type_ && condition["status"] == status)
}

async fn reaches(cluster: &Cluster, type_: &str) {
    cluster.until(type_, async || has_condition(cluster, type_, "True").await).await;
}

#[tokio::test]
async fn to_the_end_with_a_failure_on_the_way() {
    let cluster = Cluster::start().await;
    let made = cluster.create(JOB, job(&json!({"completions": 2, "parallelism": 2}))).await;
    let uid = made["metadata"]["uid"].as_str().unwrap();
    assert_eq!(made["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}));
    let pods = cluster.count_pods(2).await;
    let pod = cluster.get(POD, &pods[0]).await.unwrap();
    assert_eq!(pod["metadata"]["labels"]["job-name"], "j");
    assert_eq!(pod["metadata"]["finalizers"], json!(["batch.kubernetes.io/job-tracking"]));
    cluster.field(JOB, "j", "/status/active", 2).await;
    cluster.run(&pods[0]).await;
    cluster.field(JOB, "j", "/status/ready", 1).await;
    cluster.fail(&pods[0], 1).await;
    cluster.field(JOB, "j", "/status/failed", 1).await;
    cluster.field(POD, &pods[0], "/metadata/finalizers", Value::Null).await;
    let pods = cluster.count_pods(3).await;
    for pod in pods {
        if cluster.get(POD, &pod).await.unwrap()["status"]["phase"] == "Pending" {
            cluster.succeed(&pod).await;
        }
    }
    reaches(&cluster, "Complete").await;
    let status = cluster.get(JOB, "j").await.unwrap()["status"].clone();
    assert_eq!((&status["succeeded"], &status["failed"]), (&json!(2), &json!(1)));
    assert_eq!(status["uncountedTerminatedPods"], json!({}));
    assert!(
        has_condition(&cluster, "SuccessCriteriaMet", "True").await && !status["completionTime"].is_null()
    );
    cluster.until("the event", async || cluster.events("j").await.contains(&"Completed".to_owned())).await;
}

#[tokio::test]
async fn too_many_failures_end_it_and_what_runs() {
    let cluster = Cluster::start().await;
    cluster.create(JOB, job(&json!({"completions": 2, "parallelism": 2, "backoffLimit": 0}))).await;
    let pods = cluster.count_pods(2).await;
    cluster.bind(&pods[1]).await;
    cluster.run(&pods[1]).await;
    cluster.fail(&pods[0], 1).await;
    reaches(&cluster, "FailureTarget").await;
    cluster.field(JOB, "j", "/status/terminating", 1).await;
    assert!(!has_condition(&cluster, "Failed", "True").await, "a pod still runs");
    cluster.gone(&pods[1]).await;
    reaches(&cluster, "Failed").await;
    cluster.field(JOB, "j", "/status/failed", 2).await;
    let events = async || cluster.events("j").await.contains(&"BackoffLimitExceeded".to_owned());
    cluster.until("the event", events).await;
}

#[tokio::test]
async fn indexed_with_a_policy() {
    let cluster = Cluster::start().await;
    let rules = json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
                       {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [42]}}]);
    let spec = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3, "backoffLimitPerIndex": 1,
                      "podFailurePolicy": {"rules": rules}});
    cluster.create(JOB, job(&spec)).await;
    cluster.count_pods(3).await;
    let of = async |index: i32| {
        let prefix = format!("j-{index}-");
        let pods = cluster.pods().await;
        pods.into_iter().filter(|pod| pod.starts_with(&prefix)).collect::<Vec<_>>()
    };
    let pod = cluster.get(POD, &of(1).await[0]).await.unwrap();
    assert_eq!(pod["spec"]["hostname"], "j-1");
    assert_eq!(pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"], "1");
    assert_eq!(pod["spec"]["containers"][0]["env"][0]["name"], "JOB_COMPLETION_INDEX");
    cluster.succeed(name(&pod)).await;
    cluster.field(JOB, "j", "/status/completedIndexes", "1").await;
    cluster.fail(&of(2).await[0], 42).await;
    cluster.field(JOB, "j", "/status/failedIndexes", "2").await;
    // A failure that counts, then one too many.
    let first = of(0).await;
    cluster.fail(&first[0], 1).await;
    cluster.until("the next attempt", async || of(0).await.len() == 2).await;
    let second = of(0).await.into_iter().find(|pod| *pod != first[0]).unwrap();
    let attempt = cluster.get(POD, &second).await.unwrap();
    assert_eq!(attempt["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"], "1");
    cluster.fail(&second, 1).await;
    reaches(&cluster, "Failed").await;
    let status = cluster.get(JOB, "j").await.unwrap()["status"].clone();
    assert_eq!((&status["failedIndexes"], &status["failed"]), (&json!("0,2"), &json!(3)));
}

#[tokio::test]
async fn suspended_resumed_and_made_smaller() {
    let cluster = Cluster::start().await;
    cluster.create(JOB, job(&json!({"suspend": true, "parallelism": 2}))).await;
    reaches(&cluster, "Suspended").await;
    assert!(cluster.pods().await.is_empty());
    cluster.patch(JOB, "j", json!({"spec": {"suspend": false}})).await;
    cluster.count_pods(2).await;
    assert!(has_condition(&cluster, "Suspended", "False").await);
    cluster.patch(JOB, "j", json!({"spec": {"parallelism": 1}})).await;
    cluster.count_pods(1).await;
    cluster.patch(JOB, "j", json!({"spec": {"suspend": true}})).await;
    cluster.count_pods(0).await;
    cluster.field(JOB, "j", "/status/active", Value::Null).await;
    let status = cluster.get(JOB, "j").await.unwrap()["status"].clone();
    assert_eq!(status["failed"], Value::Null, "what the controller takes away is no failure");
}

#[tokio::test]
async fn orphans_are_adopted_and_strangers_released() {
    let cluster = Cluster::start().await;
    cluster.create(JOB, job(&json!({"parallelism": 2, "completions": 4}))).await;
    let pods = cluster.count_pods(2).await;
    cluster.patch(POD, &pods[0], json!({"metadata": {"ownerReferences": null}})).await;
    cluster.field(POD, &pods[0], "/metadata/ownerReferences/0/name", "j").await;
    cluster.field(POD, &pods[0], "/metadata/finalizers/0", "batch.kubernetes.io/job-tracking").await;
    cluster.patch(POD, &pods[0], json!({"metadata": {"labels": null}})).await;
    cluster.field(POD, &pods[0], "/metadata/ownerReferences", Value::Null).await;
    cluster.field(POD, &pods[0], "/metadata/finalizers", Value::Null).await;
    cluster.count_pods(3).await;
}

#[tokio::test]
async fn its_end_and_that_of_its_pods() {
    let cluster = Cluster::start().await;
    // Older than the garbage collector: without a word the pods stay, and nothing holds them.
    cluster.create(JOB, job(&json!({}))).await;
    let pods = cluster.count_pods(1).await;
    cluster.delete(JOB, "j", DeleteParams::default()).await;
    cluster.until("no job", async || cluster.get(JOB, "j").await.is_none()).await;
    cluster.field(POD, &pods[0], "/metadata/finalizers", Value::Null).await;
    cluster.delete(POD, &pods[0], DeleteParams::default()).await;
    cluster.count_pods(0).await;
    for params in [DeleteParams::foreground(), DeleteParams::background()] {
        cluster.create(JOB, job(&json!({}))).await;
        cluster.count_pods(1).await;
        cluster.delete(JOB, "j", params).await;
        cluster
            .until("nothing", async || {
                cluster.get(JOB, "j").await.is_none() && cluster.list(POD).await.is_empty()
            })
            .await;
    }
    cluster.create(JOB, job(&json!({"ttlSecondsAfterFinished": 0}))).await;
    let pods = cluster.count_pods(1).await;
    cluster.succeed(&pods[0]).await;
    cluster
        .until("nothing", async || {
            cluster.get(JOB, "j").await.is_none() && cluster.list(POD).await.is_empty()
        })
        .await;
}

#[tokio::test]
async fn a_pod_whose_node_is_gone_has_failed() {
    let cluster = Cluster::start().await;
    let rules = json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]);
    cluster.create(JOB, job(&json!({"backoffLimit": 0, "podFailurePolicy": {"rules": rules}}))).await;
    let pods = cluster.count_pods(1).await;
    cluster.bind_to(&pods[0], "nowhere").await;
    cluster.until("the pod is gone", async || cluster.get(POD, &pods[0]).await.is_none()).await;
    let again = cluster.count_pods(1).await;
    cluster.succeed(&again[0]).await;
    reaches(&cluster, "Complete").await;
    assert_eq!(cluster.get(JOB, "j").await.unwrap()["status"]["failed"], Value::Null);
}
