use super::*;
use serde_json::{Value, json};

fn cron(spec: &Value, status: &Value) -> CronJob {
    let mut cron = json!({"metadata": {"name": "c", "namespace": "ns", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"schedule": "*/10 * * * *", "concurrencyPolicy": "Allow", "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1,
            "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"template": {}}}},
        "status": status});
    spec.as_object().unwrap().iter().for_each(|(field, value)| cron["spec"][field] = value.clone());
    serde_json::from_value(cron).unwrap()
}

/// `name state [start hour]`: `r` running, `s` succeeded, `f` failed.
fn job(text: &str) -> Arc<Job> {
    let words: Vec<&str> = text.split(' ').collect();
    let time = format!("2026-01-01T{:0>2}:00:00Z", words.get(2).unwrap_or(&"0"));
    let end = match words[1] {
        "s" => json!([{"type": "Complete", "status": "True"}]),
        "f" => json!([{"type": "Failed", "status": "True"}]),
        _ => json!([]),
    };
    let completed = Some(&time).filter(|_| words[1] == "s");
    Arc::new(
        serde_json::from_value(json!({"metadata": {"name": words[0], "namespace": "ns", "uid": words[0]},
            "status": {"conditions": end, "startTime": time, "completionTime": completed}}))
        .unwrap(),
    )
}

fn plan_of(cron: &CronJob, jobs: &[&str], now: &str) -> Plan {
    let jobs: Vec<Arc<Job>> = jobs.iter().map(|text| job(text)).collect();
    plan(&Observed { cron, jobs: &jobs, now: now.parse().unwrap() })
}

/// What is begun and deleted, and the reasons of the notes.
fn steps(cron: &CronJob, jobs: &[&str], now: &str) -> Vec<String> {
    let plan = plan_of(cron, jobs, now);
    let mut steps: Vec<String> = plan.delete.iter().map(|job| format!("-{}", job.name_any())).collect();
    steps.extend(plan.start.iter().map(|start| format!("+{}", start.at)));
    steps.extend(plan.notes.iter().map(|note| note.reason.to_owned()));
    steps
}

fn active(names: &[&str]) -> Value {
    json!({"active": names.iter().map(|name| json!({"name": name, "uid": name})).collect::<Vec<_>>()})
}

#[test]
fn when_it_begins() {
    let plain = cron(&json!({}), &json!({}));
    let had = cron(&json!({}), &json!({"lastScheduleTime": "2026-01-01T00:10:00Z"}));
    let suspended = cron(&json!({"suspend": true}), &json!({}));
    let strict = cron(&json!({"startingDeadlineSeconds": 60}), &json!({}));
    let berlin = cron(&json!({"schedule": "30 1 * * *", "timeZone": "Europe/Berlin"}), &json!({}));
    let nowhere = cron(&json!({"timeZone": "Nowhere/No"}), &json!({}));
    for (cron, now, expected) in [
        (&plain, "2026-01-01T00:09:59Z", &[][..]),
        (&plain, "2026-01-01T00:10:00Z", &["+2026-01-01T00:10:00Z"]),
        (&plain, "2026-01-01T00:34:00Z", &["+2026-01-01T00:30:00Z"]),
        (&plain, "2026-01-02T00:34:00Z", &["+2026-01-02T00:30:00Z", "TooManyMissedTimes"]),
        (&had, "2026-01-01T00:10:01Z", &[]),
        (&had, "2026-01-01T00:20:01Z", &["+2026-01-01T00:20:00Z"]),
        (&suspended, "2026-01-01T00:34:00Z", &[]),
        (&strict, "2026-01-01T00:10:30Z", &["+2026-01-01T00:10:00Z"]),
        (&strict, "2026-01-01T00:14:00Z", &[]),
        (&berlin, "2026-01-01T00:31:00Z", &["+2026-01-01T00:30:00Z"]),
        (&nowhere, "2026-01-01T00:34:00Z", &["UnknownTimeZone"]),
    ] {
        assert_eq!(steps(cron, &[], now), expected, "{now}");
    }
    assert_eq!(plan_of(&plain, &[], "2026-01-01T00:09:30Z").look_again, Some(Duration::from_secs(30)));
    let made = plan_of(&berlin, &[], "2026-01-01T00:31:00Z").start.unwrap().job;
    assert_eq!(made.name_any(), format!("c-{}", 1_767_227_400 / 60));
    assert_eq!(
        (made.annotations()[SCHEDULED].as_str(), made.labels()["a"].as_str()),
        ("2026-01-01T01:30:00+01:00", "b")
    );
    assert_eq!(made.owner_references()[0].controller, Some(true));
}

#[test]
fn two_at_a_time() {
    let now = "2026-01-01T00:10:00Z";
    for (policy, expected) in [
        ("Allow", &["+2026-01-01T00:10:00Z"][..]),
        ("Forbid", &["JobAlreadyActive"]),
        ("Replace", &["-x", "+2026-01-01T00:10:00Z"]),
    ] {
        let cron = cron(&json!({"concurrencyPolicy": policy}), &active(&["x"]));
        assert_eq!(steps(&cron, &["x r"], now), expected, "{policy}");
    }
}

#[test]
fn what_has_become_of_its_jobs() {
    let busy = cron(&json!({"suspend": true}), &active(&["a", "b", "gone", "d"]));
    let jobs = ["a s 1", "b r 2", "d s 3", "e s 2", "f f 1", "g f 2", "new r 4"];
    assert_eq!(
        steps(&busy, &jobs, "2026-01-01T09:00:00Z"),
        ["-a", "-e", "-f", "SawCompletedJob", "MissingJob", "SawCompletedJob", "UnexpectedJob"]
    );
    let status = plan_of(&busy, &jobs, "2026-01-01T09:00:00Z").status;
    assert_eq!(json!(status.active), json!([{"name": "b", "uid": "b"}]));
    assert_eq!(json!(status.last_successful_time), "2026-01-01T03:00:00Z");
    let next = started(status, &job("n r"), Timestamp::UNIX_EPOCH);
    assert_eq!((next.active.unwrap().len(), next.last_schedule_time), (2, Some(Time(Timestamp::UNIX_EPOCH))));
}
