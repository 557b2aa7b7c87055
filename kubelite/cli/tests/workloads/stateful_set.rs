//! What the conformance suite asks of stateful sets, and more.

use crate::cluster::{Cluster, name, names};
use kube::api::DeleteParams;
use serde_json::{Value, json};

const SET: &str = "apps/v1/StatefulSet";

fn web(spec: &Value) -> Value {
    let mut set = json!({"metadata": {"name": "web"}, "spec": {"serviceName": "svc", "replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}});
    spec.as_object().unwrap().iter().for_each(|(field, value)| set["spec"][field] = value.clone());
    set
}

fn image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

async fn image_of(cluster: &Cluster, pod: &str) -> Value {
    cluster.get("v1/Pod", pod).await.map_or(Value::Null, |pod| pod["spec"]["containers"][0]["image"].clone())
}

#[tokio::test]
async fn in_order_up_and_down() {
    let cluster = Cluster::start().await;
    cluster.create(SET, web(&json!({}))).await;
    cluster.has_pods(&["web-0"]).await;
    cluster.sicken("web-0").await;
    cluster.stays("web-1 waits for web-0", async || cluster.pods().await == ["web-0"]).await;
    cluster.run("web-0").await;
    cluster.has_pods(&["web-0", "web-1"]).await;
    cluster.run("web-1").await;
    cluster.field(SET, "web", "/status/readyReplicas", 2).await;
    let pod = cluster.get("v1/Pod", "web-1").await.unwrap();
    assert_eq!((&pod["spec"]["hostname"], &pod["spec"]["subdomain"]), (&json!("web-1"), &json!("svc")));
    assert_eq!(pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"], "1");
    // A failed one is replaced, under its name.
    let before = cluster.get("v1/Pod", "web-0").await.unwrap();
    cluster.fail("web-0", 1).await;
    cluster.field("v1/Pod", "web-0", "/status/phase", "Pending").await;
    let after = cluster.get("v1/Pod", "web-0").await.unwrap();
    assert_ne!(before["metadata"]["uid"], after["metadata"]["uid"]);
    cluster.run("web-0").await;
    // Down to none, in order; the one that terminates is waited for.
    cluster.bind("web-1").await;
    cluster.patch(SET, "web", json!({"spec": {"replicas": 0}})).await;
    cluster.has_pods(&["web-0"]).await;
    cluster.stays("web-0 waits for web-1", async || cluster.pods().await == ["web-0"]).await;
    cluster.gone("web-1").await;
    cluster.has_pods(&[]).await;
    cluster.field(SET, "web", "/status/replicas", 0).await;
    assert!(cluster.events("web").await.contains(&"SuccessfulCreate".to_owned()));
}

#[tokio::test]
async fn a_canary_then_all_then_back() {
    let cluster = Cluster::start().await;
    let set = web(
        &json!({"replicas": 3, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}),
    );
    cluster.create(SET, set).await;
    for pod in ["web-0", "web-1", "web-2"] {
        cluster.until(pod, async || cluster.get("v1/Pod", pod).await.is_some()).await;
        cluster.run(pod).await;
    }
    cluster.field(SET, "web", "/status/readyReplicas", 3).await;
    let first = cluster.get(SET, "web").await.unwrap()["status"]["currentRevision"].clone();
    let updated = async |pod: &str, image: &str| {
        cluster.until(&format!("{pod} with {image}"), async || image_of(&cluster, pod).await == image).await;
        cluster.run(pod).await;
    };
    cluster.patch(SET, "web", image("i:2")).await;
    updated("web-2", "i:2").await;
    cluster.field(SET, "web", "/status/updatedReplicas", 1).await;
    cluster.delete("v1/Pod", "web-0", DeleteParams::default()).await;
    updated("web-0", "i:1").await;
    cluster.field(SET, "web", "/status/readyReplicas", 3).await;
    cluster.field(SET, "web", "/status/currentRevision", first.clone()).await;
    cluster.patch(SET, "web", json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}})).await;
    updated("web-1", "i:2").await;
    updated("web-0", "i:2").await;
    cluster
        .until("the update is complete", async || {
            let status = cluster.get(SET, "web").await.unwrap()["status"].clone();
            status["currentRevision"] == status["updateRevision"] && status["currentRevision"] != first
        })
        .await;
    // The old template is known: the old revision is the newest again.
    cluster.patch(SET, "web", image("i:1")).await;
    cluster.field(SET, "web", "/status/updateRevision", first.clone()).await;
    let revisions = cluster.list("apps/v1/ControllerRevision").await;
    assert_eq!(revisions.len(), 2);
    let again = revisions.iter().find(|revision| revision["metadata"]["name"] == first).unwrap();
    assert_eq!(again["revision"], 3);
    updated("web-2", "i:1").await;
}

#[tokio::test]
async fn claims_stay_or_go_as_the_policy_says() {
    let cluster = Cluster::start().await;
    let claims = json!([{"metadata": {"name": "www"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]);
    let policy = json!({"whenScaled": "Delete", "whenDeleted": "Delete"});
    let set = web(&json!({"podManagementPolicy": "Parallel", "volumeClaimTemplates": claims,
                          "persistentVolumeClaimRetentionPolicy": policy}));
    cluster.create(SET, set).await;
    cluster.has_pods(&["web-0", "web-1"]).await;
    let claims = cluster.list("v1/PersistentVolumeClaim").await;
    assert_eq!(names(&claims), ["www-web-0", "www-web-1"]);
    assert_eq!(claims[0]["metadata"]["ownerReferences"][0]["kind"], "StatefulSet");
    cluster.run("web-0").await;
    cluster.run("web-1").await;
    cluster.patch(SET, "web", json!({"spec": {"replicas": 1}})).await;
    cluster.has_pods(&["web-0"]).await;
    cluster
        .until("one claim", async || names(&cluster.list("v1/PersistentVolumeClaim").await) == ["www-web-0"])
        .await;
    cluster.delete(SET, "web", DeleteParams::foreground()).await;
    cluster.until("no claim", async || cluster.list("v1/PersistentVolumeClaim").await.is_empty()).await;
    cluster.until("no set", async || cluster.get(SET, "web").await.is_none()).await;
    assert_eq!(name(&claims[1]), "www-web-1");
}
