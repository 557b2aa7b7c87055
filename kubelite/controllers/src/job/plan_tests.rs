use super::super::pod;
use super::*;
use kube::ResourceExt;
use serde_json::{Value, json};

const NOW: i64 = 100_000;

/// A job that started a thousand seconds ago; `spec` and `status` are laid over it.
fn job(spec: &Value, status: &Value) -> Job {
    let mut job = json!({"metadata": {"name": "j", "namespace": "ns", "uid": "u"},
        "spec": {"completions": 2, "parallelism": 2, "backoffLimit": 6, "template": {"spec": {"containers": [], "restartPolicy": "Never"}}},
        "status": {"startTime": Timestamp::from_second(NOW - 1000).unwrap()}});
    for (part, given) in [("spec", spec), ("status", status)] {
        given.as_object().unwrap().iter().for_each(|(field, value)| job[part][field] = value.clone());
    }
    serde_json::from_value(job).unwrap()
}

/// `name state [index] [attempts]`: `r` running, `R` ready, `s` succeeded, `f` failed, `t` terminating; a `-` before the
/// state takes the finalizer away. They ended a thousand seconds ago, those with `!` just now.
fn pod_of(job: &Job, text: &str) -> Arc<Pod> {
    let mut words = text.split(' ');
    let (name, state) = (words.next().unwrap(), words.next().unwrap());
    let index = words.next().map(|index| index.parse().unwrap());
    let attempts = words.next().map(|n| Attempts { failures: n.parse().unwrap(), ignored: 0 });
    let mut made = pod::pod(job, index, attempts);
    made.metadata.name = Some(name.into());
    made.metadata.uid = Some(name.into());
    let (phase, ready, code) = match state.trim_start_matches('-').chars().next().unwrap() {
        'R' => ("Running", "True", None),
        's' => ("Succeeded", "False", Some(0)),
        'f' => ("Failed", "False", Some(3)),
        _ => ("Running", "False", None),
    };
    let ended = Timestamp::from_second(if state.ends_with('!') { NOW } else { NOW - 1000 }).unwrap();
    let terminated = code.map(|code| json!({"exitCode": code, "finishedAt": ended}));
    made.status = serde_json::from_value(json!({"phase": phase, "conditions": [{"type": "Ready", "status": ready}],
        "containerStatuses": [{"name": "c", "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": {"terminated": terminated}}]}))
    .unwrap();
    if state.starts_with('-') {
        made.metadata.finalizers = None;
    }
    if state.contains('t') {
        made.metadata.deletion_timestamp = Some(Time(ended));
    }
    Arc::new(made)
}

fn plan_of(job: &Job, pods: &[&str]) -> Plan {
    let pods: Vec<Arc<Pod>> = pods.iter().map(|text| pod_of(job, text)).collect();
    plan(&Observed { job, pods: &pods, now: Timestamp::from_second(NOW).unwrap() })
}

/// `+` makes a pod (of an index), `-` deletes one, `x` discards one, `~` takes a finalizer away, `!` is the condition.
fn steps(job: &Job, pods: &[&str]) -> Vec<String> {
    let plan = plan_of(job, pods);
    let names = |sign: char, pods: &[Arc<Pod>]| {
        pods.iter().map(|p| format!("{sign}{}", p.name_any())).collect::<Vec<_>>()
    };
    let mut steps = names('~', &plan.release);
    steps.extend(names('-', &plan.delete));
    steps.extend(names('x', &plan.discard));
    let made = |(index, attempts): &(Option<i32>, Option<Attempts>)| {
        let part = |n: Option<i32>| n.map(|n| n.to_string()).unwrap_or_default();
        format!("+{}{}", part(*index), attempts.map(|a| format!("/{}", a.total())).unwrap_or_default())
    };
    steps.extend(plan.create.iter().map(made));
    let before = job.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let new = plan.status.conditions.unwrap_or_default().into_iter().filter(|c| !before.contains(c));
    let truth = |status: &str| if status == "True" { "" } else { "not " };
    steps.extend(new.map(|c| format!("!{}{} {}", truth(&c.status), c.type_, c.reason.unwrap())));
    steps
}

fn condition(type_: &str) -> Value {
    json!({"conditions": [{"type": type_, "status": "True", "reason": "BackoffLimitExceeded", "message": "m",
                           "lastTransitionTime": Timestamp::from_second(NOW - 60).unwrap()}]})
}

#[test]
fn as_many_pods_as_are_needed() {
    let (plain, queue) =
        (job(&json!({}), &json!({})), job(&json!({"completions": null, "parallelism": 3}), &json!({})));
    let wide = job(&json!({"completions": 5, "parallelism": 3}), &json!({"succeeded": 3}));
    let patient = job(&json!({"podReplacementPolicy": "Failed"}), &json!({}));
    for (job, pods, expected) in [
        (&plain, &[][..], &["+", "+"][..]),
        (&plain, &["a r"], &["+"]),
        (&plain, &["a r", "b R", "c R"], &["xa"]),
        (&plain, &["a s", "b r"], &["~a"]),
        (&plain, &["a s", "b s"], &["~a", "~b", "!SuccessCriteriaMet CompletionsReached"]),
        (&plain, &["a f", "b r"], &["~a", "+"]),
        (&plain, &["a f!", "b r"], &["~a"]),
        (&wide, &["a r", "b r"], &[]),
        (&wide, &[], &["+", "+"]),
        // A pod that goes counts as failed at once, or is waited for.
        (&plain, &["a t", "b r"], &["~a", "+"]),
        (&patient, &["a t", "b r"], &[]),
        (&queue, &[], &["+", "+", "+"]),
        (&queue, &["a s", "b r"], &["~a"]),
        (&queue, &["a s", "b f"], &["~a", "~b", "!SuccessCriteriaMet CompletionsReached"]),
    ] {
        assert_eq!(steps(job, pods), expected, "{pods:?}");
    }
    assert_eq!(
        plan_of(&plain, &["a f!", "b r"]).look_again(Timestamp::from_second(NOW).unwrap()),
        Some(Duration::from_secs(10))
    );
    assert_eq!(
        steps(&job(&json!({"completions": 0}), &json!({})), &[]),
        ["!SuccessCriteriaMet CompletionsReached"]
    );
}

#[test]
fn each_pod_is_counted_once() {
    let counts = |job: &Job, pods: &[&str]| {
        let status = json!(plan_of(job, pods).status);
        let uids = |list: &str| {
            status["uncountedTerminatedPods"][list].as_array().cloned().unwrap_or_default().len()
        };
        let number = |field: &str| status[field].as_i64().unwrap_or(0);
        (
            [number("succeeded"), number("failed"), number("active"), number("terminating")],
            [uids("succeeded"), uids("failed")],
        )
    };
    let waiting = |succeeded: Value, failed: Value| json!({"uncountedTerminatedPods": {"succeeded": succeeded, "failed": failed}});
    let ten = json!({"completions": 10, "parallelism": 3});
    let fresh = job(&ten, &json!({}));
    let noted = job(&ten, &waiting(json!(["a"]), json!(["b"])));
    for (job, pods, expected) in [
        (&fresh, &["a s", "b f", "c r", "d t"][..], ([0, 0, 1, 1], [1, 2])),
        // In the list, with the finalizer: nothing new.
        (&noted, &["a s", "b f"], ([0, 0, 0, 0], [1, 1])),
        // The finalizer is away: now they are in the numbers, be the pods there or not.
        (&noted, &["a -s", "b f"], ([1, 0, 0, 0], [0, 1])),
        (&noted, &[], ([1, 1, 0, 0], [0, 0])),
        (&fresh, &["a -s", "b -f"], ([0, 0, 0, 0], [0, 0])),
    ] {
        assert_eq!(counts(job, pods), expected, "{pods:?}");
    }
    let many: Vec<String> = (0..600).map(|i| format!("p{i} s")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(counts(&fresh, &many), ([0; 4], [500, 0]));
    assert_eq!(plan_of(&fresh, &many).release.len(), 500);
}

#[test]
fn the_end_comes_in_two_steps() {
    let limit = job(&json!({"backoffLimit": 1}), &json!({"failed": 1}));
    assert_eq!(steps(&limit, &["a f", "b r"]), ["~a", "-b", "!FailureTarget BackoffLimitExceeded"]);
    let late = job(&json!({"activeDeadlineSeconds": 1000}), &json!({}));
    assert_eq!(steps(&late, &["b r"]), ["-b", "!FailureTarget DeadlineExceeded"]);
    let early = job(&json!({"activeDeadlineSeconds": 1010}), &json!({}));
    assert_eq!(
        plan_of(&early, &["a r", "b r"]).look_again(Timestamp::from_second(NOW).unwrap()),
        Some(Duration::from_secs(10))
    );
    let failing = job(&json!({}), &condition("FailureTarget"));
    assert_eq!(steps(&failing, &["a r", "b t"]), ["~b", "-a"]);
    assert_eq!(steps(&failing, &["b -t"]), [""; 0], "it still runs");
    assert_eq!(steps(&failing, &["b -f"]), ["!Failed BackoffLimitExceeded"]);
    let note = plan_of(&failing, &[]).note.unwrap();
    assert_eq!((note.warning, note.reason), (true, "BackoffLimitExceeded"));
    let done = job(&json!({}), &condition("SuccessCriteriaMet"));
    let well = plan_of(&done, &["a -s"]);
    assert!(well.status.completion_time.is_some() && well.note.unwrap().reason == "Completed");
    let restarting = job(
        &json!({"template": {"spec": {"containers": [], "restartPolicy": "OnFailure"}}, "backoffLimit": 0}),
        &json!({}),
    );
    let mut pod = (*pod_of(&restarting, "a r")).clone();
    pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0].restart_count = 1;
    let pods = [Arc::new(pod)];
    let ended = plan(&Observed { job: &restarting, pods: &pods, now: Timestamp::from_second(NOW).unwrap() });
    assert_eq!(ended.delete.len(), 1);
}

#[test]
fn what_is_over_goes_by_itself_and_holds_nobody() {
    for (ttl, expired, wait) in [(60, true, 0), (61, false, 1)] {
        let job = job(&json!({"ttlSecondsAfterFinished": ttl}), &condition("Complete"));
        let plan = plan_of(&job, &["a s"]);
        assert_eq!((plan.expired, plan.release.len()), (expired, 1));
        assert_eq!(plan.look_again(Timestamp::from_second(NOW).unwrap()), Some(Duration::from_secs(wait)));
    }
    let mut leaving = job(&json!({}), &json!({}));
    leaving.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    assert_eq!(steps(&leaving, &["a r", "b t", "c s"]), ["~b", "~c"]);
}

#[test]
fn suspended_and_resumed() {
    let suspended = job(&json!({"suspend": true}), &json!({}));
    assert_eq!(steps(&suspended, &["a r"]), ["xa", "!Suspended JobSuspended"]);
    let new = job(&json!({"suspend": true}), &json!({"startTime": null}));
    assert_eq!(plan_of(&new, &[]).status.start_time, None);
    let resumed = job(&json!({}), &condition("Suspended"));
    assert_eq!(steps(&resumed, &[]), ["+", "+", "!not Suspended JobResumed"]);
    let late = job(&json!({"activeDeadlineSeconds": 10}), &condition("Suspended"));
    assert_eq!(steps(&late, &[]), steps(&resumed, &[]), "the deadline counts from the new start");
    assert_eq!(plan_of(&resumed, &[]).status.start_time, Some(Time(Timestamp::from_second(NOW).unwrap())));
}

#[test]
fn indexes() {
    let spec = |extra: Value| {
        let mut spec = json!({"completionMode": "Indexed", "completions": 4, "parallelism": 3});
        extra.as_object().unwrap().iter().for_each(|(k, v)| spec[k] = v.clone());
        spec
    };
    let plain = job(&spec(json!({})), &json!({"completedIndexes": "1"}));
    let some = job(
        &spec(json!({"successPolicy": {"rules": [{"succeededIndexes": "0-1"}]}})),
        &json!({"completedIndexes": "1"}),
    );
    for (job, pods, expected) in [
        (&plain, &[][..], &["+0", "+2", "+3"][..]),
        (&plain, &["a s 0", "b r 3"], &["~a", "+2"]),
        // Doubles, and those of no index, go; a second success changes nothing.
        (&plain, &["a r 0", "b R 0", "c r 9"], &["xa", "xc"]),
        (&plain, &["a s 1", "b r 0", "c r 2", "d r 3"], &["~a"]),
        (&plain, &["a s 0", "b s 2", "c s 3"], &["~a", "~b", "~c", "!SuccessCriteriaMet CompletionsReached"]),
        (&some, &["a s 0", "b r 2"], &["~a", "-b", "!SuccessCriteriaMet SuccessPolicy"]),
    ] {
        assert_eq!(steps(job, pods), expected, "{pods:?}");
    }
    assert_eq!(plan_of(&plain, &["a s 0", "b s 2"]).status.completed_indexes.as_deref(), Some("0-2"));
}

#[test]
fn each_index_with_failures_of_its_own() {
    let spec = json!({"completionMode": "Indexed", "completions": 2, "backoffLimitPerIndex": 1, "backoffLimit": i32::MAX});
    let fresh = job(&spec, &json!({}));
    let half = job(&spec, &json!({"failedIndexes": "0", "completedIndexes": ""}));
    let mut strict = spec.clone();
    strict["maxFailedIndexes"] = json!(0);
    let strict = job(&strict, &json!({}));
    for (job, pods, expected) in [
        (&fresh, &[][..], &["+0/0", "+1/0"][..]),
        // The failed pod stays until its successor, which knows of it.
        (&fresh, &["a f 0 0", "b r 1 0"], &["+0/1"]),
        (&fresh, &["a f! 0 0", "b r 1 0"], &[]),
        (&fresh, &["a f 0 0", "c r 0 1", "b r 1 0"], &["~a"]),
        (&fresh, &["c f 0 1", "b r 1 0"], &["~c"]),
        (&half, &["b r 1 0"], &[]),
        (&half, &["b s 1 0"], &["~b", "!FailureTarget FailedIndexes"]),
        (&strict, &["c f 0 1", "b r 1 0"], &["~c", "-b", "!FailureTarget MaxFailedIndexesExceeded"]),
    ] {
        assert_eq!(steps(job, pods), expected, "{pods:?}");
    }
    assert_eq!(plan_of(&fresh, &["c f 0 1", "b r 1 0"]).status.failed_indexes.as_deref(), Some("0"));
}

#[test]
fn policies_of_failure() {
    let by = |action: &str| {
        let rule = json!({"action": action, "onExitCodes": {"operator": "In", "values": [3]}});
        job(&json!({"podFailurePolicy": {"rules": [rule]}, "backoffLimit": 0}), &json!({}))
    };
    assert_eq!(steps(&by("FailJob"), &["a f", "b r"]), ["~a", "-b", "!FailureTarget PodFailurePolicy"]);
    assert_eq!(steps(&by("Count"), &["a f", "b r"]), ["~a", "-b", "!FailureTarget BackoffLimitExceeded"]);
    assert_eq!(steps(&by("Ignore"), &["a f", "b r"]), ["~a", "+"]);
    assert_eq!(json!(plan_of(&by("Ignore"), &["a f"]).status)["failed"], Value::Null);
}
