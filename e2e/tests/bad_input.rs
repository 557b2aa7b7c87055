//! Bad input gets a clear error where a user looks for it, and disturbs nothing else.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::lab::{Lab, SERVER};
use e2e::probe::{self, Pod};
use e2e::run::{output, run, wait_for};
use serde_json::{Value, json};

/// What kubectl says when it fails; an error if it does not fail.
fn refusal(command: &mut std::process::Command) -> Result<String> {
    let done = output(command)?;
    ensure!(!done.status.success(), "it was accepted: {}", String::from_utf8_lossy(&done.stdout));
    Ok(String::from_utf8_lossy(&done.stderr).into_owned())
}

fn apply_refused(lab: &Lab, manifest: &Value) -> Result<String> {
    let file = lab.dir.join("bad.json");
    std::fs::write(&file, manifest.to_string())?;
    refusal(lab.kubectl(&["apply", "-f"]).arg(file))
}

fn pod(name: &str, container: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [container]}})
}

#[test]
fn an_unknown_field_is_named() -> Result<()> {
    let lab = Lab::attach()?;
    let text =
        apply_refused(&lab, &pod("bad", &json!({"name": "main", "image": probe::IMAGE, "imagee": "x"})))?;
    ensure!(text.contains(r#"unknown field "spec.containers[0].imagee""#), "{text}");
    Ok(())
}

#[test]
fn a_broken_manifest_tells_what_is_wrong() -> Result<()> {
    let lab = Lab::attach()?;
    let text = apply_refused(&lab, &pod("Not_A_Name", &json!({"name": "main"})))?;
    ensure!(text.contains("spec.containers[0].image: Required value"), "{text}");
    ensure!(text.contains("lowercase RFC 1123 subdomain"), "{text}");
    Ok(())
}

#[test]
fn a_wrong_token_is_unauthorized() -> Result<()> {
    let lab = Lab::attach()?;
    let mut kubectl = std::process::Command::new("kubectl");
    let wrong = [
        "--kubeconfig=/dev/null",
        "--server",
        SERVER,
        "--insecure-skip-tls-verify",
        "--token=wrong",
        "get",
        "pods",
    ];
    let text = refusal(kubectl.args(wrong))?;
    ensure!(text.contains("Unauthorized") || text.contains("logged in"), "{text}");
    ensure!(run(&mut lab.kubectl(&["get", "nodes"]))?.contains("node1"));
    Ok(())
}

/// The pod waits with a reason, an event tells it, and other pods start as ever.
#[test]
fn an_image_that_does_not_exist_is_told() -> Result<()> {
    let lab = Lab::attach()?;
    probe::apply(&lab, &pod("no-image", &json!({"name": "main", "image": "kubelite/no-such-image:1"})))?;
    let told = wait_for("the pod to tell that its image can't be had", Duration::from_secs(60), || {
        let pod = probe::get(&lab, &["pod", "no-image"])?;
        let reason = probe::text(&pod, "/status/containerStatuses/0/state/waiting/reason");
        Ok(["ErrImagePull", "ImagePullBackOff"].contains(&reason.as_str()).then_some(()))
    });
    let events = run(&mut lab.kubectl(&["describe", "pod", "no-image"]));
    run(&mut lab.kubectl(&["delete", "pod", "no-image", "--now"]))?;
    told?;
    let events = events?;
    ensure!(events.contains("Failed to pull image"), "{events}");
    let other = Pod::start(&lab, "other-image", 2, "sleep 3600")?;
    other.exec(&["true"]).map(drop)
}

/// A damaged key under the leases costs that key: pods of all nodes reach each other as before.
#[test]
fn a_damaged_lease_key_disturbs_no_route() -> Result<()> {
    let lab = Lab::attach()?;
    let server = Pod::start(&lab, "key-server", 1, "echo up > /www/index.html; httpd -f -p 8080 -h /www")?;
    let client = Pod::start(&lab, "key-client", 3, "sleep 3600")?;
    let routes = |n: u8| lab.host(n).run("ip route show");
    let before = (routes(1)?, routes(3)?);
    for (key, value) in [("foo", "x"), ("10.42.300.0-24", "{}"), ("10.42.77.0-24", "{not json")] {
        lab.etcdctl(&["put", &format!("/coreos.com/network/subnets/{key}"), value])?;
    }
    std::thread::sleep(Duration::from_secs(2));
    let after = (routes(1)?, routes(3)?);
    lab.etcdctl(&["del", "--prefix", "/coreos.com/network/subnets/foo"])?;
    lab.etcdctl(&["del", "/coreos.com/network/subnets/10.42.300.0-24"])?;
    lab.etcdctl(&["del", "/coreos.com/network/subnets/10.42.77.0-24"])?;
    ensure!(before == after, "routes changed: {before:?} → {after:?}");
    ensure!(client.exec(&["wget", "-qO-", &format!("http://{}:8080/", server.ip)])?.trim() == "up");
    Ok(())
}

/// A CNI configuration that no plugin can read: the pod waits with an event that names it; it starts once that is mended.
#[test]
fn a_bad_cni_configuration_is_told_and_mended() -> Result<()> {
    let lab = Lab::attach()?;
    let host = lab.host(2);
    let conf = "/etc/cni/net.d/10-flannel.conflist";
    host.run(&format!("cp {conf} /tmp/good.conflist"))?;
    host.run(&format!("sed -i s/\"hairpinMode\":.true/\"hairpinMode\":7/ {conf}"))?;
    let outcome = bad_cni(&lab);
    host.run(&format!("cp /tmp/good.conflist {conf}"))?;
    let mended = wait_for("the pod to start after all", Duration::from_secs(60), || {
        Ok(probe::ready(&probe::get(&lab, &["pod", "bad-cni"])?).then_some(()))
    });
    run(&mut lab.kubectl(&["delete", "pod", "bad-cni", "--now"]))?;
    outcome.and(mended)
}

fn bad_cni(lab: &Lab) -> Result<()> {
    let mut bad =
        pod("bad-cni", &json!({"name": "main", "image": probe::IMAGE, "command": ["sleep", "3600"]}));
    bad["spec"]["nodeName"] = json!("node2");
    bad["spec"]["terminationGracePeriodSeconds"] = json!(0);
    probe::apply(lab, &bad)?;
    wait_for("an event that names the configuration", Duration::from_secs(40), || {
        let text = run(&mut lab.kubectl(&["describe", "pod", "bad-cni"]))?;
        Ok((text.contains("FailedCreatePodSandBox") && text.contains("hairpinMode")).then_some(()))
    })
}
