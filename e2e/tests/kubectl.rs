//! Real kubectl's daily verbs against the cluster: get, describe, apply, edit, label, scale, rollout, logs, exec, port-forward, delete.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use e2e::lab::Lab;
use e2e::probe::{self, Pod};
use e2e::run::{run, wait_for};
use serde_json::json;

#[test]
fn a_deployment_rolls_out_and_back() -> Result<()> {
    let lab = Lab::attach()?;
    let labels = json!({"app": "rolled"});
    probe::apply(
        &lab,
        &json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "rolled"},
            "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
                    "name": "main", "image": probe::IMAGE, "command": ["sleep", "3600"], "env": [{"name": "V", "value": "1"}]}]},
            }},
        }),
    )?;
    let outcome = roll(&lab);
    run(&mut lab.kubectl(&["delete", "deployment", "rolled"]))?;
    outcome
}

fn roll(lab: &Lab) -> Result<()> {
    let kubectl = |line: &str| run(&mut lab.kubectl(&line.split_whitespace().collect::<Vec<_>>()));
    kubectl("rollout status deployment/rolled --timeout=60s")?;
    kubectl("scale deployment/rolled --replicas=3")?;
    kubectl("set env deployment/rolled V=2")?;
    kubectl("rollout status deployment/rolled --timeout=60s")?;
    let history = kubectl("rollout history deployment/rolled")?;
    ensure!(history.contains("REVISION") && history.contains('2'), "{history}");
    kubectl("rollout undo deployment/rolled")?;
    kubectl("rollout status deployment/rolled --timeout=60s")?;
    let value =
        kubectl("get deployment rolled -o jsonpath={.spec.template.spec.containers[0].env[0].value}")?;
    ensure!(value == "1", "undo left {value}");
    kubectl("label deployment rolled tier=test")?;
    ensure!(kubectl("get deployments -l tier=test")?.contains("rolled"));
    let text = kubectl("describe deployment rolled")?;
    ensure!(text.contains("RollingUpdate") && text.contains("ScalingReplicaSet"), "{text}");
    let pods = kubectl("get pods -l app=rolled")?;
    ensure!(
        pods.lines()
            .next()
            .is_some_and(|l| l.split_whitespace().eq(["NAME", "READY", "STATUS", "RESTARTS", "AGE"])),
        "{pods}"
    );
    Ok(())
}

#[test]
fn logs_exec_and_edit() -> Result<()> {
    let lab = Lab::attach()?;
    let pod = Pod::start(&lab, "spoken", 2, "echo one; echo two; sleep 3600")?;
    let logs = run(&mut lab.kubectl(&["logs", "spoken"]))?;
    ensure!(logs == "one\ntwo\n", "{logs:?}");
    ensure!(run(&mut lab.kubectl(&["logs", "spoken", "--tail=1"]))? == "two\n");
    ensure!(pod.exec(&["hostname"])?.trim() == "spoken");
    let failed = e2e::run::output(&mut lab.kubectl(&["exec", "spoken", "--", "sh", "-c", "exit 3"]))?;
    ensure!(failed.status.code() == Some(3), "exit code {:?}", failed.status);
    let through = lab
        .kubectl(&["exec", "-i", "spoken", "--", "wc", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let bytes = vec![b'x'; 100_000];
    std::io::Write::write_all(&mut through.stdin.as_ref().unwrap(), &bytes)?;
    let counted = through.wait_with_output()?;
    ensure!(String::from_utf8_lossy(&counted.stdout).trim() == "100000", "{counted:?}");
    run(lab
        .kubectl(&["edit", "pod", "spoken"])
        .env("KUBE_EDITOR", "sed -i s/scenario:.spoken/scenario:\\ edited/"))?;
    let labels =
        run(&mut lab.kubectl(&["get", "pod", "spoken", "-o", "jsonpath={.metadata.labels.scenario}"]))?;
    ensure!(labels == "edited", "{labels}");
    Ok(())
}

#[test]
fn port_forward_carries_a_request() -> Result<()> {
    let lab = Lab::attach()?;
    let _pod = Pod::start(&lab, "forwarded", 3, "echo through > /www/index.html; httpd -f -p 8080 -h /www")?;
    let mut forward =
        lab.kubectl(&["port-forward", "pod/forwarded", "18080:8080"]).stdout(Stdio::null()).spawn()?;
    let answer = wait_for("the forwarded port to answer", Duration::from_secs(15), || {
        run(&mut e2e::run::words("busybox wget -qO- http://127.0.0.1:18080/")).map(Some)
    });
    forward.kill()?;
    forward.wait()?;
    ensure!(answer?.trim() == "through");
    Ok(())
}

#[test]
fn a_custom_resource_is_defined_used_and_gone() -> Result<()> {
    let lab = Lab::attach()?;
    let outcome = define(&lab);
    run(&mut lab.kubectl(&[
        "delete",
        "crd",
        "crontabs.stable.example.com",
        "--ignore-not-found",
        "--timeout=30s",
    ]))?;
    outcome
}

/// What the documentation of custom resources shows, with kubectl's own validation, columns, explanations and scaling; and the garbage
/// collector, which finds the new kind by itself.
fn define(lab: &Lab) -> Result<()> {
    let kubectl = |line: &str| run(&mut lab.kubectl(&line.split_whitespace().collect::<Vec<_>>()));
    let spec = json!({"type": "object", "required": ["cronSpec"], "properties": {
        "cronSpec": {"type": "string", "description": "When it runs."}, "replicas": {"type": "integer", "maximum": 10}}});
    let version = json!({
        "name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec, "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}},
        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
        "additionalPrinterColumns": [{"name": "Schedule", "type": "string", "jsonPath": ".spec.cronSpec"}],
    });
    probe::apply(
        lab,
        &json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "crontabs.stable.example.com"},
            "spec": {"group": "stable.example.com", "scope": "Namespaced", "versions": [version],
                "names": {"plural": "crontabs", "kind": "CronTab", "shortNames": ["ct"]}},
        }),
    )?;
    kubectl("wait --for=condition=Established --timeout=5s crd/crontabs.stable.example.com")?;
    let tab = |spec: serde_json::Value| json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": "daily"}, "spec": spec});
    probe::apply(lab, &tab(json!({"cronSpec": "0 5 * * *", "replicas": 2})))?;
    let listed = kubectl("get ct")?;
    ensure!(listed.contains("SCHEDULE") && listed.contains("0 5 * * *"), "{listed}");
    ensure!(kubectl("explain crontab.spec.cronSpec")?.contains("When it runs."));
    for (spec, expected) in [
        (
            json!({"cronSpec": "x", "replicas": 11}),
            "spec.replicas in body should be less than or equal to 10",
        ),
        (json!({"cronSpec": "x", "other": 1}), "unknown field"),
        (json!({}), "spec.cronSpec"),
    ] {
        let Err(refused) = probe::apply(lab, &tab(spec)) else { bail!("it should be refused: {expected}") };
        ensure!(format!("{refused:#}").contains(expected), "{refused:#}");
    }
    kubectl("scale crontab/daily --replicas=4")?;
    ensure!(kubectl("get crontab daily -o jsonpath={.spec.replicas}")? == "4");
    let uid = kubectl("get crontab daily -o jsonpath={.metadata.uid}")?;
    let owner =
        json!([{"apiVersion": "stable.example.com/v1", "kind": "CronTab", "name": "daily", "uid": uid}]);
    probe::apply(
        lab,
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "of-daily", "ownerReferences": owner}}),
    )?;
    kubectl("delete crontab daily")?;
    wait_for("what the custom object owned to go with it", Duration::from_secs(60), || {
        Ok(kubectl("get configmaps --ignore-not-found of-daily")?.is_empty().then_some(()))
    })?;
    kubectl("delete crd crontabs.stable.example.com --timeout=30s")?;
    ensure!(!kubectl("api-resources")?.contains("crontabs"));
    Ok(())
}

#[test]
fn server_side_apply_shares_an_object() -> Result<()> {
    let lab = Lab::attach()?;
    let outcome = share(&lab);
    run(&mut lab.kubectl(&["delete", "configmap", "shared", "--ignore-not-found"]))?;
    outcome
}

/// kubectl's own way from client-side apply to the server's, a second owner, a conflict, and a field that nobody owns any more.
fn share(lab: &Lab) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("map.json");
    let write = |data: &serde_json::Value| -> Result<String> {
        let map =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shared"}, "data": data});
        std::fs::write(&file, map.to_string())?;
        Ok(file.display().to_string())
    };
    let kubectl = |line: &str| run(&mut lab.kubectl(&line.split_whitespace().collect::<Vec<_>>()));
    let data = || kubectl("get configmap shared -o jsonpath={.data}");
    let file = write(&json!({"a": "1", "b": "1"}))?;
    kubectl(&format!("apply -f {file}"))?;
    let told = kubectl(&format!("apply --server-side -f {file}"))?;
    ensure!(told.contains("configmap/shared serverside-applied"), "{told}");
    write(&json!({"a": "2", "c": "1"}))?;
    let Err(refused) = kubectl(&format!("apply --server-side --field-manager=other -f {file}")) else {
        bail!("what kubectl owns was applied by another manager");
    };
    let refused = format!("{refused:#}");
    ensure!(refused.contains("conflict with \"kubectl\"") && refused.contains(".data.a"), "{refused}");
    kubectl(&format!("apply --server-side --field-manager=other --force-conflicts -f {file}"))?;
    ensure!(data()? == r#"{"a":"2","b":"1","c":"1"}"#, "{}", data()?);
    let owners = kubectl("get configmap shared --show-managed-fields -o yaml")?;
    ensure!(owners.contains("manager: other") && owners.contains("f:c: {}"), "{owners}");
    write(&json!({"a": "2"}))?;
    kubectl(&format!("apply --server-side --field-manager=other -f {file}"))?;
    ensure!(data()? == r#"{"a":"2","b":"1"}"#, "what its only owner leaves out is gone: {}", data()?);
    Ok(())
}

#[test]
fn explain_and_api_resources_know_the_kinds() -> Result<()> {
    let lab = Lab::attach()?;
    let text = run(&mut lab.kubectl(&["explain", "pod.spec.containers.image"]))?;
    ensure!(text.contains("Container image name"), "{text}");
    let kinds = run(&mut lab.kubectl(&["api-resources"]))?;
    for kind in ["pods", "deployments", "daemonsets", "endpointslices", "leases", "clusterroles"] {
        ensure!(kinds.lines().any(|l| l.starts_with(kind)), "{kind} is missing: {kinds}");
    }
    Ok(())
}
