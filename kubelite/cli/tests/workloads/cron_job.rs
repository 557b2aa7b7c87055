//! What the conformance suite asks of cron jobs, without the waiting: the last time is put back by hand.

use crate::cluster::{Cluster, name, names};
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::tz::TimeZone;
use kube::api::DeleteParams;
use serde_json::{Value, json};

const CRON: &str = "batch/v1/CronJob";
const JOB: &str = "batch/v1/Job";
const YEARLY: &str = "0 0 1 1 *";
const DAILY: &str = "0 0 * * *";

/// A cron job whose yearly time has come, and its first job.
async fn first(cluster: &Cluster, policy: &str) -> Value {
    let template = json!({"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}}}});
    let spec = json!({"schedule": YEARLY, "suspend": true, "concurrencyPolicy": policy,
                      "successfulJobsHistoryLimit": 1, "jobTemplate": template});
    let made = cluster.create(CRON, json!({"metadata": {"name": "c"}, "spec": spec})).await;
    assert_eq!(made["spec"]["failedJobsHistoryLimit"], 1);
    cluster.patch_status(CRON, "c", json!({"lastScheduleTime": "2020-06-01T00:00:00Z"})).await;
    cluster.stays("suspended", async || cluster.list(JOB).await.is_empty()).await;
    cluster.patch(CRON, "c", json!({"spec": {"suspend": false}})).await;
    cluster.until("a job", async || !cluster.list(JOB).await.is_empty()).await;
    cluster.list(JOB).await.remove(0)
}

async fn finish(cluster: &Cluster, job: &str) {
    let pod = async || cluster.pods().await.into_iter().find(|pod| pod.starts_with(job));
    cluster.until("its pod", async || pod().await.is_some()).await;
    cluster.succeed(&pod().await.unwrap()).await;
}

#[tokio::test]
async fn one_after_the_other() {
    let cluster = Cluster::start().await;
    let job = first(&cluster, "Forbid").await;
    let now = Timestamp::now().to_zoned(TimeZone::UTC);
    let minutes = format!("{}-01-01T00:00:00Z", now.year());
    assert_eq!(
        job["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"],
        minutes.as_str()
    );
    cluster.field(CRON, "c", "/status/active/0/name", name(&job)).await;
    cluster.field(CRON, "c", "/status/lastScheduleTime", minutes).await;
    cluster.patch(CRON, "c", json!({"spec": {"schedule": DAILY}})).await;
    let told = async || cluster.events("c").await.contains(&"JobAlreadyActive".to_owned());
    cluster.until("it is told", told).await;
    assert_eq!(cluster.list(JOB).await.len(), 1);
    finish(&cluster, name(&job)).await;
    cluster.until("the next job", async || cluster.list(JOB).await.len() == 2).await;
    let next = cluster.list(JOB).await.into_iter().find(|other| name(other) != name(&job)).unwrap();
    finish(&cluster, name(&next)).await;
    cluster.field(CRON, "c", "/status/active", Value::Null).await;
    cluster.until("the older one is gone", async || names(&cluster.list(JOB).await) == [name(&next)]).await;
    assert!(!cluster.get(CRON, "c").await.unwrap()["status"]["lastSuccessfulTime"].is_null());
    cluster.delete(CRON, "c", DeleteParams::default()).await;
    cluster
        .until("nothing", async || cluster.list(JOB).await.is_empty() && cluster.pods().await.is_empty())
        .await;
}

#[tokio::test]
async fn the_new_one_in_place_of_the_old() {
    let cluster = Cluster::start().await;
    let job = first(&cluster, "Replace").await;
    cluster.patch(CRON, "c", json!({"spec": {"schedule": DAILY}})).await;
    let replaced = async || {
        let jobs = cluster.list(JOB).await;
        jobs.len() == 1 && name(&jobs[0]) != name(&job)
    };
    cluster.until("the other job", replaced).await;
    cluster.until("one pod", async || cluster.pods().await.len() == 1).await;
}

#[tokio::test]
async fn both() {
    let cluster = Cluster::start().await;
    first(&cluster, "Allow").await;
    cluster.patch(CRON, "c", json!({"spec": {"schedule": DAILY}})).await;
    cluster.until("two jobs", async || cluster.list(JOB).await.len() == 2).await;
    cluster
        .until("two active ones", async || {
            cluster.get(CRON, "c").await.unwrap()["status"]["active"].as_array().map(Vec::len) == Some(2)
        })
        .await;
}
