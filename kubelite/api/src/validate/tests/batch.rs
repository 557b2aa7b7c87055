//! Jobs, cron jobs, stateful sets, volumes and budgets.

use super::*;

fn template() -> Value {
    json!({"metadata": {"labels": {"a": "b"}},
           "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}})
}

/// A Job as it stands after the strategy has given it labels and selector; `spec` is laid over it.
fn job(spec: &Value) -> Value {
    let mut job = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": template()}});
    for (key, value) in [("controller-uid", "u"), ("job-name", "j")] {
        for key in [key.to_owned(), format!("batch.kubernetes.io/{key}")] {
            job["spec"]["template"]["metadata"]["labels"][key] = json!(value);
        }
    }
    job["spec"]["selector"] = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}});
    for (field, value) in spec.as_object().unwrap() {
        job["spec"][field] = value.clone();
    }
    job
}

#[test]
fn jobs() {
    assert_eq!(problems("batch", "Job", job(&json!({})), None), Vec::<String>::new());
    let rule = |rule: Value| json!({"podFailurePolicy": {"rules": [rule]}});
    let success = |rule: Value| json!({"completionMode": "Indexed", "completions": 3, "successPolicy": {"rules": [rule]}});
    for (spec, expected) in [
        (
            json!({"parallelism": -1}),
            "spec.parallelism: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            json!({"completionMode": "Indexed", "completions": null, "parallelism": 1}),
            "spec.completions: Required value: when completion mode is Indexed",
        ),
        (
            json!({"backoffLimitPerIndex": 1}),
            "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
        ),
        (
            json!({"completionMode": "Indexed", "completions": 2, "maxFailedIndexes": 1}),
            "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
        ),
        (
            json!({"managedBy": "x"}),
            "spec.managedBy: Invalid value: \"x\": must be a domain-prefixed path (such as \"acme.io/foo\")",
        ),
        (
            rule(json!({"action": "Count"})),
            "spec.podFailurePolicy.rules[0]: Invalid value: {\"action\":\"Count\"}: specifying one of OnExitCodes and OnPodConditions is required",
        ),
        (
            rule(json!({"action": "FailJob", "onExitCodes": {"operator": "In", "values": [0]}})),
            "spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator",
        ),
        (
            rule(json!({"action": "FailIndex", "onPodConditions": [{"type": "T"}]})),
            "spec.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
        ),
        (
            success(json!({})),
            "spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified",
        ),
        (
            success(json!({"succeededIndexes": "0-3"})),
            "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"0-3\": error parsing succeededIndexes: too large index: \"3\"",
        ),
        (
            success(json!({"succeededIndexes": "0-1", "succeededCount": 3})),
            "spec.successPolicy.rules[0].succeededCount: Invalid value: 3: must be less than or equal to 2 (the number of indexes in the specified succeededIndexes field)",
        ),
    ] {
        assert_eq!(problems("batch", "Job", job(&spec), None), [expected], "{spec}");
    }
    let mut always = job(&json!({}));
    always["spec"]["template"]["spec"]["restartPolicy"] = json!("Always");
    let expected = "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"";
    assert_eq!(problems("batch", "Job", always, None), [expected]);
    let mut foreign = job(&json!({}));
    foreign["spec"]["template"]["metadata"]["labels"]["job-name"] = json!("other");
    let expected = "spec.template.metadata.labels[job-name]: Invalid value: \"other\": must be 'j'";
    assert_eq!(problems("batch", "Job", foreign, None), [expected]);
}

#[test]
fn job_updates() {
    let indexed = |n: i32, parallelism: i32| {
        job(&json!({"completionMode": "Indexed", "completions": n, "parallelism": parallelism}))
    };
    let none = Vec::<String>::new();
    assert_eq!(
        problems("batch", "Job", job(&json!({"parallelism": 3})), Some(job(&json!({"parallelism": 1})))),
        none
    );
    assert_eq!(problems("batch", "Job", indexed(3, 3), Some(indexed(2, 2))), none);
    assert_eq!(
        problems("batch", "Job", indexed(3, 2), Some(indexed(2, 2))),
        ["spec.completions: Invalid value: 3: can only be modified in tandem with spec.parallelism"]
    );
    let placed = |suspend: bool| {
        let mut job = job(&json!({"suspend": suspend}));
        job["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"});
        job
    };
    assert_eq!(problems("batch", "Job", placed(true), Some(job(&json!({"suspend": true})))), none);
    let text = &problems("batch", "Job", placed(false), Some(job(&json!({"suspend": false}))))[0];
    assert!(
        text.starts_with("spec.template: Invalid value") && text.ends_with("field is immutable"),
        "{text}"
    );
}

#[test]
fn cron_jobs() {
    let cron = |spec: Value| {
        let mut cron =
            json!({"metadata": {"name": "c"}, "spec": {"jobTemplate": {"spec": {"template": template()}}}});
        spec.as_object().unwrap().iter().for_each(|(k, v)| cron["spec"][k] = v.clone());
        cron
    };
    for (spec, expected) in [
        (json!({"schedule": "@daily", "timeZone": "Europe/Berlin"}), None),
        (json!({}), Some("spec.schedule: Required value")),
        (
            json!({"schedule": "61 * * * *"}),
            Some("spec.schedule: Invalid value: \"61 * * * *\": minute 61 is not between 0 and 59"),
        ),
        (
            json!({"schedule": "TZ=UTC 1 * * * *"}),
            Some(
                "spec.schedule: Invalid value: \"TZ=UTC 1 * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
            ),
        ),
        (
            json!({"schedule": "* * * * *", "timeZone": "Mars"}),
            Some("spec.timeZone: Invalid value: \"Mars\": unknown time zone Mars"),
        ),
        (
            json!({"schedule": "* * * * *", "concurrencyPolicy": "No"}),
            Some(
                "spec.concurrencyPolicy: Unsupported value: \"No\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
            ),
        ),
    ] {
        let found = problems("batch", "CronJob", cron(spec.clone()), None);
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{spec}");
    }
}

#[test]
fn stateful_sets() {
    let set = |extra: Value| {
        let mut set = json!({"metadata": {"name": "s"}, "spec": {"serviceName": "svc", "selector": {"matchLabels": {"a": "b"}}, "template": template()}});
        set["spec"]["template"]["spec"]["restartPolicy"] = json!("Always");
        set["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] =
            json!([{"name": "data", "mountPath": "/d"}]);
        set["spec"]["volumeClaimTemplates"] =
            json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]);
        extra.as_object().unwrap().iter().for_each(|(k, v)| set["spec"][k] = v.clone());
        set
    };
    let forbidden = "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
    for (new, expected) in [
        (json!({"replicas": 3, "ordinals": {"start": 2}}), None),
        (json!({"serviceName": "other"}), Some(forbidden)),
        (
            json!({"ordinals": {"start": -1}}),
            Some("spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0"),
        ),
        (
            json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": "0%"}}}),
            Some("spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": cannot be 0"),
        ),
        (
            json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": {}}}),
            Some(
                "spec.updateStrategy.rollingUpdate: Invalid value: {\"maxUnavailable\":1,\"partition\":0}: only allowed for updateStrategy 'RollingUpdate'",
            ),
        ),
    ] {
        let found = problems("apps", "StatefulSet", set(new.clone()), Some(set(json!({}))));
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{new}");
    }
}

#[test]
fn volumes_claims_and_budgets() {
    let claim = |size: &str, volume: Option<&str>, phase: &str| {
        json!({"metadata": {"name": "c"}, "status": {"phase": phase},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}, "volumeName": volume}})
    };
    let none = Vec::<String>::new();
    let update = |new: Value, old: Value| problems("", "PersistentVolumeClaim", new, Some(old));
    assert_eq!(update(claim("1Gi", Some("v"), "Pending"), claim("1Gi", None, "Pending")), none);
    assert_eq!(update(claim("2Gi", Some("v"), "Bound"), claim("1Gi", Some("v"), "Bound")), none);
    assert_eq!(update(claim("1Gi", Some("w"), "Bound"), claim("1Gi", Some("v"), "Bound")).len(), 1);
    assert_eq!(
        problems("", "PersistentVolumeClaim", claim("0", None, ""), None),
        ["spec.resources.requests.storage: Invalid value: \"0\": must be greater than zero"]
    );
    let volume = json!({"metadata": {"name": "v"}, "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}}});
    assert_eq!(
        problems("", "PersistentVolume", volume, None),
        ["spec: Required value: must specify a volume type"]
    );
    let budget = |spec: Value| {
        problems("policy", "PodDisruptionBudget", json!({"metadata": {"name": "b"}, "spec": spec}), None)
    };
    assert_eq!(budget(json!({"minAvailable": "50%", "selector": {"matchLabels": {"a": "b"}}})), none);
    assert_eq!(budget(json!({"minAvailable": 1, "maxUnavailable": 1})).len(), 1);
    assert_eq!(
        budget(json!({"maxUnavailable": "101%"})),
        ["spec.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%"]
    );
}
