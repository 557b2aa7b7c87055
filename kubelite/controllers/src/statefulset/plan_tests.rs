use super::*;
use serde_json::{Value, json};

fn set(spec: &Value) -> StatefulSet {
    let mut set = json!({ "metadata": {"name": "web", "namespace": "ns", "uid": "s", "generation": 1},
        "spec": {"serviceName": "svc", "replicas": 3, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}} });
    for (field, value) in spec.as_object().unwrap() {
        set["spec"][field] = value.clone();
    }
    serde_json::from_value(set).unwrap()
}

/// `ordinal state`: `+` ready, `-` running but not ready, `p` pending, `f` failed, `t` terminating; `old` or `new`.
fn pod(set: &StatefulSet, text: &str) -> Arc<Pod> {
    let mut words = text.split(' ');
    let (ordinal, state, revision) =
        (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or("new"));
    let revision = Revision { name: revision.into(), template: set.spec.template.clone() };
    let mut pod = identity::pod(set, &revision, ordinal.parse().unwrap());
    let (phase, ready) = match state {
        "+" | "t" => ("Running", "True"),
        "-" => ("Running", "False"),
        "p" => ("Pending", "False"),
        _ => ("Failed", "False"),
    };
    pod.status =
        serde_json::from_value(json!({"phase": phase, "conditions": [{"type": "Ready", "status": ready,
        "lastTransitionTime": "1970-01-01T00:01:30Z"}]}))
        .unwrap();
    if state == "t" {
        pod.metadata.deletion_timestamp = serde_json::from_value(json!("1970-01-01T00:01:40Z")).unwrap();
    }
    Arc::new(pod)
}

fn plan_of(set: &StatefulSet, pods: &[&str], claims: &[PersistentVolumeClaim]) -> Plan {
    let pods: Vec<Arc<Pod>> = pods.iter().map(|text| pod(set, text)).collect();
    let claims = claims.iter().map(|claim| (claim.name_any(), Arc::new(claim.clone()))).collect();
    let [current, update] =
        ["old", "new"].map(|name| Revision { name: name.into(), template: set.spec.template.clone() });
    plan(&Observed {
        set,
        pods: &pods,
        claims: &claims,
        current: &current,
        update: &update,
        now: Timestamp::from_second(100).unwrap(),
    })
}

/// The actions as words: `+web-0 new` creates a pod, `-web-0` deletes one, `claim x` makes one.
fn steps(set: &StatefulSet, pods: &[&str]) -> Vec<String> {
    words(&plan_of(set, pods, &[]).actions)
}

fn words(actions: &[Action]) -> Vec<String> {
    let word = |action: &Action| match action {
        Action::CreateClaim { claim, .. } => format!("claim {}", claim.name_any()),
        Action::OwnClaim { claim, owners } => {
            format!("own {} {}", claim.name_any(), owners.first().map_or("-", |owner| &owner.name))
        }
        Action::CreatePod(pod) => format!("+{} {}", pod.name_any(), identity::revision_of(pod)),
        Action::DeletePod(pod) => format!("-{}", pod.name_any()),
        Action::Label { pod, .. } => format!("label {}", pod.name_any()),
    };
    actions.iter().map(word).collect()
}

#[test]
fn in_order() {
    let three = set(&json!({}));
    for (pods, expected) in [
        (&[][..], &["+web-0 new"][..]),
        (&["0 -"], &[]),
        (&["0 +"], &["+web-1 new"]),
        (&["0 +", "1 +", "2 p"], &[]),
        (&["0 +", "1 +", "2 +"], &[]),
        // A hole is filled before what is above it matters.
        (&["1 +", "2 +"], &["+web-0 new"]),
        (&["0 f", "1 +", "2 +"], &["-web-0"]),
        (&["0 t", "1 +"], &[]),
        // Too many: the last one first, and the rest waits for it.
        (&["0 +", "1 +", "2 +", "3 +", "4 +"], &["-web-4"]),
        (&["0 +", "1 +", "2 +", "3 +", "4 t"], &[]),
        (&["0 +", "1 -", "2 +", "3 +"], &[]),
        // The lowest one that is ill may go, a higher one waits for it to become well.
        (&["0 +", "1 +", "2 +", "3 -", "4 -"], &[]),
        (&["0 +", "1 +", "2 +", "3 +", "4 -"], &["-web-4"]),
    ] {
        assert_eq!(steps(&three, pods), expected, "{pods:?}");
    }
}

#[test]
fn in_parallel() {
    let three = set(&json!({"podManagementPolicy": "Parallel"}));
    for (pods, expected) in [
        (&[][..], &["+web-0 new", "+web-1 new", "+web-2 new"][..]),
        (&["0 -", "2 f"], &["+web-1 new", "-web-2"]),
        (&["0 -", "1 -", "2 -", "3 -", "4 t", "5 +"], &["-web-5", "-web-3"]),
    ] {
        assert_eq!(steps(&three, pods), expected, "{pods:?}");
    }
    let gone = set(&json!({"replicas": 0}));
    assert_eq!(steps(&gone, &["0 -", "1 -", "2 -"]), [""; 0], "in order, the pods below must be well");
    let from_five = set(&json!({"replicas": 2, "ordinals": {"start": 5}}));
    assert_eq!(steps(&from_five, &["5 +", "0 +"]), ["+web-6 new"]);
    assert_eq!(steps(&from_five, &["5 +", "6 +", "0 +"]), ["-web-0"]);
}

#[test]
fn updates() {
    let rolling = |policy: &str, rolling: Value| {
        set(
            &json!({"podManagementPolicy": policy, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling}}),
        )
    };
    let (plain, canary) = (set(&json!({})), rolling("OrderedReady", json!({"partition": 2})));
    let two = rolling("Parallel", json!({"maxUnavailable": 2}));
    let share = rolling("Parallel", json!({"maxUnavailable": "70%"}));
    let on_delete = set(&json!({"updateStrategy": {"type": "OnDelete"}}));
    let old = ["0 + old", "1 + old", "2 + old"];
    for (set, pods, expected) in [
        (&plain, &old[..], &["-web-2"][..]),
        (&plain, &["0 + old", "1 + old", "2 t old"], &[]),
        (&plain, &["0 + old", "1 + old", "2 -"], &[]),
        (&plain, &["0 + old", "1 + old", "2 +"], &["-web-1"]),
        (&canary, &old, &["-web-2"]),
        (&canary, &["0 + old", "1 + old", "2 +"], &[]),
        // What is deleted meanwhile comes back as what it was, or as new from the partition on.
        (&canary, &["0 + old", "2 +"], &["+web-1 old"]),
        (&canary, &["0 + old", "1 + old"], &["+web-2 new"]),
        (&plain, &["0 + old", "2 +"], &["+web-1 new"]),
        (&two, &old, &["-web-2", "-web-1"]),
        (&two, &["0 + old", "1 + old", "2 t old"], &["-web-1"]),
        (&share, &old, &["-web-2", "-web-1"]),
        // Nobody misses a pod that doesn't work.
        (&two, &["0 - old", "1 - old", "2 - old"], &["-web-2", "-web-1", "-web-0"]),
        (&on_delete, &old, &[]),
        (&on_delete, &["0 + old", "1 + old"], &["+web-2 new"]),
    ] {
        assert_eq!(steps(set, pods), expected, "{pods:?} {:?}", set.spec.update_strategy);
    }
}

#[test]
fn what_it_reports() {
    let status = |set: &StatefulSet, pods: &[&str]| {
        let status = json!(plan_of(set, pods, &[]).status);
        let number = |field: &str| status[field].as_i64().unwrap_or(0);
        let counts = ["replicas", "readyReplicas", "availableReplicas", "currentReplicas", "updatedReplicas"]
            .map(number);
        (counts, status["currentRevision"].as_str().unwrap().to_owned())
    };
    let three = set(&json!({"minReadySeconds": 20}));
    assert_eq!(status(&three, &["0 + old", "1 t old", "2 -"]), ([3, 2, 0, 1, 1], "old".into()));
    assert_eq!(plan_of(&three, &["0 +"], &[]).look_again, Some(Duration::from_secs(10)));
    assert_eq!(status(&set(&json!({})), &["0 +", "1 +", "2 +"]), ([3, 3, 3, 3, 3], "new".into()));
    assert_eq!(
        status(&set(&json!({"replicas": 2})), &["0 +", "1 +", "2 +"]),
        ([3, 3, 3, 0, 3], "old".into())
    );
}

#[test]
fn claims_come_first_and_a_stale_one_is_waited_for() {
    let with = |spec: Value| {
        let mut all =
            json!({"replicas": 1, "volumeClaimTemplates": [{"metadata": {"name": "www"}, "spec": {}}]});
        spec.as_object().unwrap().iter().for_each(|(k, v)| all[k] = v.clone());
        set(&all)
    };
    let one = with(json!({}));
    assert_eq!(steps(&one, &[]), ["claim www-web-0", "+web-0 new"]);
    assert_eq!(steps(&one, &["0 p"]), ["claim www-web-0"]);
    assert_eq!(steps(&one, &["0 +"]), [""; 0]);
    let claim = identity::claims(&one, 0).remove(0);
    assert_eq!(words(&plan_of(&one, &[], std::slice::from_ref(&claim)).actions), ["+web-0 new"]);
    let mut stale = claim.clone();
    stale.metadata.deletion_timestamp = serde_json::from_value(json!("1970-01-01T00:01:00Z")).unwrap();
    assert_eq!(words(&plan_of(&one, &[], &[stale]).actions), [""; 0]);
    // A pod that goes takes its claim with it, if the policy says so.
    let none = with(json!({"replicas": 0, "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete"}}));
    assert_eq!(words(&plan_of(&none, &["0 +"], &[claim]).actions), ["own www-web-0 web-0", "-web-0"]);
}
