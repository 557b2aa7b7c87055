//! What breaks and must heal: a pod killed, flanneld killed and restarted, the store restarted, a node added later.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::lab::Lab;
use e2e::network::SWITCH;
use e2e::probe::{self, Pod};
use e2e::run::{run, wait_for, words};
use serde_json::json;

#[test]
fn a_killed_pod_is_replaced() -> Result<()> {
    let lab = Lab::attach()?;
    let labels = json!({"app": "replaced"});
    probe::apply(
        &lab,
        &json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "replaced"},
            "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [
                    {"name": "main", "image": probe::IMAGE, "command": ["sleep", "3600"]}]},
            }},
        }),
    )?;
    let outcome = replace_one(&lab);
    run(&mut lab.kubectl(&["delete", "deployment", "replaced"]))?;
    outcome
}

fn replace_one(lab: &Lab) -> Result<()> {
    let before = ready_pods(lab, 2)?;
    let victim = before.first().context("no pod")?;
    run(&mut lab.kubectl(&["delete", "pod", victim, "--now"]))?;
    wait_for("another pod in its place", Duration::from_secs(40), || {
        let now = ready_pods(lab, 2)?;
        Ok((!now.contains(victim)).then_some(()))
    })
}

fn ready_pods(lab: &Lab, count: usize) -> Result<Vec<String>> {
    wait_for(&format!("{count} ready pods"), Duration::from_secs(40), || {
        let list = probe::get(lab, &["pods", "-l", "app=replaced"])?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let ready: Vec<_> =
            items.iter().filter(|p| probe::ready(p)).map(|p| probe::text(p, "/metadata/name")).collect();
        Ok((ready.len() == count && items.len() == count).then_some(ready))
    })
}

/// A TCP connection between pods outlives the daemon that carries it: its packets wait, and nothing goes out in clear.
#[test]
fn a_tcp_connection_survives_flanneld() -> Result<()> {
    let lab = Lab::attach()?;
    let server = Pod::start(&lab, "long-server", 1, "tail -f /dev/null | nc -l -p 7000 > /tmp/got")?;
    let counter =
        format!("(for i in $(seq 1 40); do echo $i; sleep 0.25; done) | nc {} 7000; sleep 3600", server.ip);
    let client = Pod::start(&lab, "long-client", 2, &counter)?;
    std::thread::sleep(Duration::from_secs(2));
    let host = lab.host(1);
    let pid = flanneld_of(&lab, 1)?;
    host.run(&format!("kill -9 {pid}"))?;
    // At the switch's end of the wire: on the host's own interface what comes in is seen without its outer headers.
    let dump = format!("ip netns exec {SWITCH} timeout 2 tcpdump -nqi node1 net 10.42.0.0/16");
    let clear = run(&mut words(&dump));
    ensure!(clear.as_deref().unwrap_or_default().is_empty(), "in clear: {clear:?}");
    wait_for("all lines to arrive", Duration::from_secs(60), || {
        let got = server.exec(&["cat", "/tmp/got"])?;
        Ok((got.lines().last() == Some("40")).then_some(got))
    })
    .map(|got| ensure_complete(&got))??;
    ensure!(flanneld_of(&lab, 1)? != pid, "flanneld was not replaced");
    drop(client);
    Ok(())
}

fn ensure_complete(got: &str) -> Result<()> {
    let numbers: Vec<u32> = got.lines().filter_map(|line| line.parse().ok()).collect();
    ensure!(numbers == (1..=40).collect::<Vec<_>>(), "lines were lost: {got}");
    Ok(())
}

/// The pid of flanneld on a host, by its executable.
fn flanneld_of(lab: &Lab, n: u8) -> Result<String> {
    let host = lab.host(n);
    wait_for("flanneld to run", Duration::from_secs(60), || {
        let text = host.run("ctr -a /run/kubelite/containerd/containerd.sock -n k8s.io tasks ls")?;
        for pid in text.lines().filter_map(|line| line.split_whitespace().nth(1)) {
            let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            if exe.ends_with("flanneld") {
                return Ok(Some(pid.to_owned()));
            }
        }
        Ok(None)
    })
}

/// kubelite with its store is killed: pods and their network run on, and no acknowledged write is lost.
#[test]
fn the_store_restarts() -> Result<()> {
    let lab = Lab::attach()?;
    let server = Pod::start(&lab, "store-server", 2, "echo up > /www/index.html; httpd -f -p 8080 -h /www")?;
    probe::apply(
        &lab,
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}, "data": {"a": "1"}}),
    )?;
    let before = server.get()?;
    lab.restart_server()?;
    let kept = probe::get(&lab, &["configmap", "kept"])?;
    ensure!(kept["data"]["a"] == "1", "{kept}");
    run(&mut lab.kubectl(&["delete", "configmap", "kept"]))?;
    let after = server.get()?;
    for field in ["/metadata/uid", "/status/podIP", "/status/containerStatuses/0/containerID"] {
        ensure!(before.pointer(field) == after.pointer(field), "{field} changed: the pod did not run on");
    }
    let client = Pod::start(&lab, "store-client", 3, "sleep 3600")?;
    ensure!(client.exec(&["wget", "-qO-", &format!("http://{}:8080/", server.ip)])?.trim() == "up");
    Ok(())
}

#[test]
fn a_node_is_added_later() -> Result<()> {
    let lab = Lab::attach()?;
    let first = lab.host(4).pid().is_none();
    ensure!(first, "node4 is there already: `make down`, `make up`");
    lab.add_agent(4)?;
    lab.wait_for_nodes(4)?;
    let old = Pod::start(&lab, "old-node", 1, "echo old > /www/index.html; httpd -f -p 8080 -h /www")?;
    let new = Pod::start(&lab, "new-node", 4, "sleep 3600")?;
    let answer = wait_for("the new node's pod to reach an old one", Duration::from_secs(10), || {
        new.exec(&["wget", "-qO-", &format!("http://{}:8080/", old.ip)]).map(Some)
    })?;
    ensure!(answer.trim() == "old", "{answer}");
    Ok(())
}
