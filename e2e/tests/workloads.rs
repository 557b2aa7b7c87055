//! Workloads beyond deployments, with real containers: a stateful set with stable names, a job, a cron job.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::lab::Lab;
use e2e::probe;
use e2e::run::{run, wait_for};
use serde_json::{Value, json};

/// An object that is deleted when it goes out of scope, with what belongs to it.
struct Made<'a>(&'a Lab, String);

impl<'a> Made<'a> {
    fn apply(lab: &'a Lab, object: &Value) -> Result<Made<'a>> {
        probe::apply(lab, object)?;
        let name = format!("{}/{}", probe::text(object, "/kind"), probe::text(object, "/metadata/name"));
        Ok(Made(lab, name))
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        let _ = run(&mut self.0.kubectl(&["delete", &self.1, "--ignore-not-found"]));
    }
}

fn pod(command: &str, restart: &str) -> Value {
    json!({ "restartPolicy": restart, "terminationGracePeriodSeconds": 0,
        "containers": [{ "name": "main", "image": probe::IMAGE, "command": ["sh", "-c", command] }] })
}

#[test]
fn a_stateful_set_keeps_its_names() -> Result<()> {
    let lab = Lab::attach()?;
    let labels = json!({ "app": "state" });
    let _service = Made::apply(
        &lab,
        &json!({ "apiVersion": "v1", "kind": "Service", "metadata": {"name": "state"},
            "spec": { "clusterIP": "None", "selector": labels, "ports": [{"name": "http", "port": 8080}] } }),
    )?;
    let mut spec = pod("echo $HOSTNAME > /www/index.html; exec httpd -f -p 8080 -h /www", "Always");
    spec["containers"][0]["readinessProbe"] =
        json!({ "httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1 });
    let _set = Made::apply(
        &lab,
        &json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "state"},
            "spec": { "serviceName": "state", "replicas": 3, "selector": {"matchLabels": labels},
                "template": { "metadata": {"labels": labels}, "spec": spec } } }),
    )?;
    run(&mut lab.kubectl(&["rollout", "status", "statefulset/state", "--timeout=60s"]))?;
    let uid =
        |name: &str| Ok::<_, anyhow::Error>(probe::text(&probe::get(&lab, &["pod", name])?, "/metadata/uid"));
    let before = uid("state-1")?;
    run(&mut lab.kubectl(&["delete", "pod", "state-1", "--now"]))?;
    wait_for("another pod of the same name", Duration::from_secs(30), || {
        let pod = probe::get(&lab, &["pod", "state-1"])?;
        Ok((probe::text(&pod, "/metadata/uid") != before && probe::ready(&pod)).then_some(()))
    })?;
    // Each is reached by its own name from another.
    let answer = wait_for("state-1 to be found by its name", Duration::from_secs(20), || {
        let asked = ["exec", "state-0", "--", "wget", "-qO-", "http://state-1.state:8080/"];
        Ok(run(&mut lab.kubectl(&asked)).ok())
    })?;
    ensure!(answer.trim() == "state-1", "{answer}");
    Ok(())
}

#[test]
fn a_job_runs_to_its_end_and_one_that_fails_says_so() -> Result<()> {
    let lab = Lab::attach()?;
    let job = |name: &str, command: &str| {
        json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
            "spec": { "completions": 3, "parallelism": 2, "completionMode": "Indexed", "backoffLimit": 0,
                "template": { "spec": pod(command, "Never") } } })
    };
    let _good = Made::apply(&lab, &job("counted", "echo index $JOB_COMPLETION_INDEX"))?;
    run(&mut lab.kubectl(&["wait", "--for=condition=Complete", "job/counted", "--timeout=60s"]))?;
    let logs = run(&mut lab.kubectl(&["logs", "-l", "job-name=counted"]))?;
    ensure!((0..3).all(|n| logs.contains(&format!("index {n}"))), "{logs}");
    let _bad = Made::apply(&lab, &job("failing", "exit 3"))?;
    run(&mut lab.kubectl(&["wait", "--for=condition=Failed", "job/failing", "--timeout=60s"]))?;
    let told = run(&mut lab.kubectl(&["describe", "job", "failing"]))?;
    ensure!(told.contains("BackoffLimitExceeded"), "{told}");
    Ok(())
}

#[test]
fn a_cron_job_makes_jobs() -> Result<()> {
    let lab = Lab::attach()?;
    let _cron = Made::apply(
        &lab,
        &json!({ "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "often"},
            "spec": { "schedule": "@every 3s", "jobTemplate": { "spec": { "template": { "spec": pod("true", "Never") } } } } }),
    )?;
    wait_for("a job of the cron job to succeed", Duration::from_secs(40), || {
        let cron = probe::get(&lab, &["cronjob", "often"])?;
        Ok(cron.pointer("/status/lastSuccessfulTime").map(drop))
    })
}
