//! What `make up` shows when the cluster runs: nodes, pods, a request across two nodes, and its packets on the wire.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::capture;
use crate::lab::{HOSTS, Lab};
use crate::network::SWITCH;
use crate::run::{output, run, wait_for};

const EXAMPLE: &str = "manifests/examples/hello.yaml";
/// How many packets of the request are shown.
const PACKETS: &str = "10";
/// The backend whose wire format tcpdump does not know by itself.
const UDP: &str = "udp";

/// Applies the example and prints the tour to standard output.
pub fn show(lab: &Lab, backend: &str) -> Result<()> {
    lab.apply(EXAMPLE)?;
    let pods = wait_for_pods(lab)?;
    run(&mut lab.kubectl(&[
        "rollout",
        "status",
        "-n",
        "kube-system",
        "daemonset/kube-flannel-ds",
        "--timeout=30s",
    ]))?;
    lab.step("a pod runs on each node");
    let (from, to) = (&pods[0], &pods[1]);
    let (answer, outer, inner) = request(lab, from, to, filter(backend))?;
    say("The nodes", &run(&mut lab.kubectl(&["get", "nodes", "-o", "wide"]))?);
    say("The pods", &run(&mut lab.kubectl(&["get", "pods", "-A", "-o", "wide"]))?);
    say(
        &format!("An HTTP request from {} on {} to {} on {}", from.name, from.node, to.name, to.node),
        &answer,
    );
    say("Its packets between the hosts, as tcpdump sees them on node1's wire", &outer);
    if backend == UDP {
        say("The same packets with the outer headers off: the payload is the bare inner packet", &inner);
    }
    say("How to go on", &further(lab));
    Ok(())
}

/// What of a backend's packets between the hosts tcpdump is to show.
fn filter(backend: &str) -> &'static [&'static str] {
    match backend {
        "vxlan" => &["udp", "port", "8472"],
        "host-gw" => &["net", "10.42.0.0/16"],
        _ => &["udp", "port", "8285"],
    }
}

struct Pod {
    name: String,
    node: String,
    ip: String,
}

fn wait_for_pods(lab: &Lab) -> Result<Vec<Pod>> {
    let path = "jsonpath={range .items[?(@.status.phase==\"Running\")]}{.metadata.name} {.spec.nodeName} {.status.podIP}{\"\\n\"}{end}";
    wait_for("a hello pod on each node", Duration::from_secs(60), || {
        let text = run(&mut lab.kubectl(&["get", "pods", "-l", "app=hello", "-o", path]))?;
        let mut pods: Vec<Pod> = text.lines().filter_map(parse).collect();
        pods.sort_by(|a, b| a.node.cmp(&b.node));
        Ok((pods.len() >= usize::from(HOSTS)).then_some(pods))
    })
    .context("look at `kubectl describe pods`")
}

fn parse(line: &str) -> Option<Pod> {
    let mut words = line.split_whitespace().map(str::to_owned);
    Some(Pod { name: words.next()?, node: words.next()?, ip: words.next()? })
}

/// The request's answer, its packets, and its packets unwrapped.
fn request(lab: &Lab, from: &Pod, to: &Pod, filter: &[&str]) -> Result<(String, String, String)> {
    let file = lab.dir.join("request.pcap");
    let url = format!("http://{}:8080/", to.ip);
    let mut tcpdump = Command::new("nsenter")
        // At the switch's end: on node1's own interface what comes in has lost its outer headers by then.
        .arg(format!("--net=/run/netns/{SWITCH}"))
        .args(["tcpdump", "--immediate-mode", "-Uni", "node1", "-c", PACKETS, "-w"])
        .arg(&file)
        .args(filter)
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start tcpdump")?;
    let answer = capture_during(lab, from, &url, &file);
    // It ends by itself after its packets, or now.
    let _ = tcpdump.kill();
    tcpdump.wait()?;
    let inner = capture::inner(&fs::read(&file)?).context("tcpdump wrote no capture")?;
    let unwrapped = lab.dir.join("inner.pcap");
    fs::write(&unwrapped, inner)?;
    let decode = |path: &std::path::Path| run(Command::new("tcpdump").args(["-nr"]).arg(path));
    Ok((answer?, decode(&file)?, decode(&unwrapped)?))
}

fn capture_during(lab: &Lab, from: &Pod, url: &str, file: &std::path::Path) -> Result<String> {
    wait_for("tcpdump to listen", Duration::from_secs(5), || {
        Ok(fs::metadata(file).is_ok_and(|m| m.len() > 0).then_some(()))
    })?;
    let answer = wait_for("the request to be answered", Duration::from_secs(20), || {
        run(&mut lab.kubectl(&["exec", &from.name, "--", "wget", "-qO-", url])).map(Some)
    })?;
    // The last packets of the connection are still on their way into the file.
    std::thread::sleep(Duration::from_millis(300));
    Ok(format!("$ kubectl exec {} -- wget -qO- {url}\n{answer}", from.name))
}

fn further(lab: &Lab) -> String {
    let version =
        output(&mut lab.kubectl(&["version"])).map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    format!(
        "export KUBECONFIG={}\nkubectl get pods -A\nkubectl create deployment web --image=kubelite/busybox:1 --replicas=3 -- httpd -f -p 8080\n\
         ip netns exec {SWITCH} tcpdump -ni node1 udp port 8285\nmake down\n\n{}",
        lab.kubeconfig().display(),
        version.unwrap_or_default()
    )
}

#[allow(clippy::print_stdout)] // The tour is what the command is for.
fn say(title: &str, text: &str) {
    println!("\n{title}\n{}\n{}", "─".repeat(title.chars().count()), text.trim_end());
}
