use serde_json::json;

use super::*;
use crate::schema;

#[test]
fn every_row_names_a_real_field() {
    for (definition, field, literal) in LITERALS {
        let schema = schema::lookup(&format!("io.k8s.api.{definition}"));
        assert!(schema.is_some_and(|s| s.field(field).is_some()), "{definition} {field}");
        assert!(serde_json::from_str::<Value>(literal).is_ok(), "{definition} {field}");
    }
}

#[test]
fn a_pod_is_filled_in() {
    let mut pod = json!({"metadata": {"name": "x"}, "spec": {"containers": [{
        "name": "c", "image": "reg:5000/a", "ports": [{"containerPort": 80}],
        "resources": {"limits": {"cpu": "1"}}, "livenessProbe": {"httpGet": {"port": 80}},
    }], "volumes": [{"name": "v", "configMap": {"name": "c"}}]}});
    schema::for_kind("", "v1", "Pod").unwrap().apply_defaults(&mut pod);
    let spec = &pod["spec"];
    assert_eq!(spec["restartPolicy"], "Always");
    assert_eq!(spec["terminationGracePeriodSeconds"], 30);
    let container = &spec["containers"][0];
    assert_eq!(container["imagePullPolicy"], "Always");
    assert_eq!(container["ports"][0]["protocol"], "TCP");
    assert_eq!(container["resources"]["requests"]["cpu"], "1");
    assert_eq!(container["livenessProbe"]["httpGet"]["scheme"], "HTTP");
    assert_eq!(container["livenessProbe"]["periodSeconds"], 10);
    assert_eq!(spec["volumes"][0]["configMap"]["defaultMode"], 420);
}

#[test]
fn workloads_and_services() {
    let mut d = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "a:1"}]}}}});
    schema::for_kind("apps", "v1", "Deployment").unwrap().apply_defaults(&mut d);
    assert_eq!(d["spec"]["replicas"], 1);
    assert_eq!(
        d["spec"]["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
    );
    assert_eq!(d["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");

    let mut s = json!({"spec": {"ports": [{"port": 80}]}});
    schema::for_kind("", "v1", "Service").unwrap().apply_defaults(&mut s);
    assert_eq!(s["spec"]["ports"][0], json!({"port": 80, "protocol": "TCP", "targetPort": 80}));
    assert_eq!(s["spec"]["internalTrafficPolicy"], "Cluster");

    let mut rc = json!({"metadata": {}, "spec": {"template": {"metadata": {"labels": {"a": "b"}}}}});
    schema::for_kind("", "v1", "ReplicationController").unwrap().apply_defaults(&mut rc);
    assert_eq!(rc["spec"]["selector"], json!({"a": "b"}));
}

#[test]
fn a_job_has_defaults_that_its_template_in_a_cron_job_has_not() {
    let applied = |kind: &str, mut object: Value| {
        schema::for_kind("batch", "v1", kind).unwrap().apply_defaults(&mut object);
        object
    };
    let job = applied("Job", json!({"metadata": {}, "spec": {"template": {}}}));
    for (field, value) in [
        ("backoffLimit", json!(6)),
        ("completions", json!(1)),
        ("parallelism", json!(1)),
        ("completionMode", json!("NonIndexed")),
        ("podReplacementPolicy", json!("TerminatingOrFailed")),
        ("suspend", json!(false)),
    ] {
        assert_eq!(job["spec"][field], value, "{field}");
    }
    let policy = json!({"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]});
    let job = applied(
        "Job",
        json!({"metadata": {}, "spec": {"template": {}, "backoffLimitPerIndex": 1, "podFailurePolicy": policy}}),
    );
    assert_eq!(job["spec"]["backoffLimit"], i32::MAX);
    assert_eq!(job["spec"]["podReplacementPolicy"], "Failed");
    assert_eq!(job["spec"]["podFailurePolicy"]["rules"][0]["onPodConditions"][0]["status"], "True");
    let cron = applied(
        "CronJob",
        json!({"spec": {"schedule": "@daily", "jobTemplate": {"spec": {"template": {}}}}}),
    );
    assert_eq!(cron["spec"]["jobTemplate"]["spec"].get("backoffLimit"), None);
    assert_eq!(cron["spec"]["failedJobsHistoryLimit"], 1);
}
