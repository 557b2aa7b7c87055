//! Services carry traffic: by cluster address, node port and affinity, from pods, nodes and outside; without endpoints they refuse.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::lab::Lab;
use e2e::probe::{self, Pod};
use e2e::run::{output, run, wait_for, words};
use serde_json::{Value, json};

const SERVE: &str = "echo $HOSTNAME > /www/index.html; httpd -f -p 8080 -h /www";

/// A service over the pods of one scenario; deleted when it goes out of scope.
struct Service<'a> {
    lab: &'a Lab,
    name: &'static str,
    ip: String,
    node_port: u64,
}

impl<'a> Service<'a> {
    fn make(lab: &'a Lab, name: &'static str, selector: &str, spec: &Value) -> Result<Service<'a>> {
        let mut spec = spec.clone();
        spec["selector"] = json!({ "scenario": selector });
        spec["ports"] = json!([{ "port": 8000, "targetPort": 8080 }]);
        let object =
            json!({ "apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec });
        probe::apply(lab, &object)?;
        let made = probe::get(lab, &["service", name])?;
        let node_port = made["spec"]["ports"][0]["nodePort"].as_u64().unwrap_or(0);
        Ok(Service { lab, name, ip: probe::text(&made, "/spec/clusterIP"), node_port })
    }

    fn url(&self) -> String {
        format!("http://{}:8000/", self.ip)
    }
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        let _ = run(&mut self.lab.kubectl(&["delete", "service", self.name, "--ignore-not-found"]));
    }
}

/// Who answers a request from a pod, once somebody does.
fn answer(pod: &Pod, url: &str) -> Result<String> {
    wait_for("the service to answer", Duration::from_secs(15), || {
        Ok(pod.exec(&["wget", "-qO-", url]).ok().map(|text| text.trim().to_owned()))
    })
}

/// Two pods with the label of one scenario, on different nodes.
fn pair(lab: &Lab) -> Result<(Pod<'_>, Pod<'_>)> {
    let (one, two) = (Pod::start(lab, "pair-one", 1, SERVE)?, Pod::start(lab, "pair-two", 2, SERVE)?);
    for pod in [&one, &two] {
        run(&mut lab.kubectl(&["label", "pod", &pod.name, "scenario=pair", "--overwrite"]))?;
    }
    Ok((one, two))
}

#[test]
fn every_endpoint_gets_its_share() -> Result<()> {
    let lab = Lab::attach()?;
    let (_one, _two) = pair(&lab)?;
    let client = Pod::start(&lab, "pair-client", 3, "sleep 3600")?;
    let service = Service::make(&lab, "pair", "pair", &json!({ "type": "NodePort" }))?;
    answer(&client, &service.url())?;
    let mut seen = BTreeSet::new();
    wait_for("both pods to answer", Duration::from_secs(30), || {
        seen.insert(answer(&client, &service.url())?);
        Ok((seen.len() == 2).then_some(()))
    })?;
    for n in 1..=3 {
        let from_node = lab.host(n).run(&format!("busybox wget -qO- {}", service.url()))?;
        ensure!(seen.contains(from_node.trim()), "node{n} got {from_node}");
        let url = format!("http://{}:{}/", lab.host(n).ip, service.node_port);
        let from_outside = run(&mut words(&format!("busybox wget -qO- {url}")))?;
        ensure!(seen.contains(from_outside.trim()), "{url} answered {from_outside}");
    }
    Ok(())
}

#[test]
fn a_client_stays_with_its_endpoint() -> Result<()> {
    let lab = Lab::attach()?;
    let (_one, _two) = pair(&lab)?;
    let client = Pod::start(&lab, "sticky-client", 3, "sleep 3600")?;
    let service = Service::make(&lab, "sticky", "pair", &json!({ "sessionAffinity": "ClientIP" }))?;
    let first = answer(&client, &service.url())?;
    for _ in 0..12 {
        let again = answer(&client, &service.url())?;
        ensure!(again == first, "{first}, then {again}");
    }
    Ok(())
}

#[test]
fn a_pod_reaches_itself_through_its_service() -> Result<()> {
    let lab = Lab::attach()?;
    let pod = Pod::start(&lab, "own", 2, SERVE)?;
    let service = Service::make(&lab, "own", "own", &json!({}))?;
    ensure!(answer(&pod, &service.url())? == "own");
    Ok(())
}

#[test]
fn without_endpoints_it_is_refused_at_once() -> Result<()> {
    let lab = Lab::attach()?;
    let client = Pod::start(&lab, "lonely-client", 3, "sleep 3600")?;
    let service = Service::make(&lab, "lonely", "nobody", &json!({}))?;
    wait_for("the service to be refused", Duration::from_secs(15), || {
        let started = Instant::now();
        let command = ["exec", &client.name, "--", "nc", "-w", "10", &service.ip, "8000"];
        let done = output(&mut lab.kubectl(&command))?;
        let text = String::from_utf8_lossy(&done.stderr).into_owned();
        let refused = text.contains("refused") && started.elapsed() < Duration::from_secs(5);
        Ok(refused.then_some(()))
    })?;
    // As soon as there is one, it answers; as soon as it is gone, it is refused again.
    let pod = Pod::start(&lab, "nobody", 1, SERVE)?;
    ensure!(answer(&client, &service.url())? == "nobody");
    drop(pod);
    wait_for("the service to be refused again", Duration::from_secs(15), || {
        let done =
            output(&mut lab.kubectl(&["exec", &client.name, "--", "nc", "-w", "2", &service.ip, "8000"]))?;
        Ok(String::from_utf8_lossy(&done.stderr).contains("refused").then_some(()))
    })
}

/// Pods of all nodes find a service by its short name, a headless one by its pods, and what isn't there is told at once.
#[test]
fn names_lead_to_services() -> Result<()> {
    let lab = Lab::attach()?;
    let server = Pod::start(&lab, "named", 1, SERVE)?;
    let service = Service::make(&lab, "named", "named", &json!({}))?;
    let _headless = Service::make(&lab, "headless", "named", &json!({ "clusterIP": "None" }))?;
    for n in 1..=3 {
        let client = Pod::start(&lab, "asker", n, "sleep 3600")?;
        ensure!(answer(&client, "http://named:8000/")? == "named");
        let found = client.exec(&["nslookup", "named.default.svc.cluster.local"])?;
        ensure!(found.contains(&service.ip), "{found}");
        wait_for("the headless service's pod", Duration::from_secs(10), || {
            let found = client.exec(&["nslookup", "headless.default.svc.cluster.local"]).unwrap_or_default();
            Ok(found.contains(&server.ip).then_some(()))
        })?;
        let started = Instant::now();
        ensure!(client.exec(&["nslookup", "nobody.default.svc.cluster.local"]).is_err());
        ensure!(started.elapsed() < Duration::from_secs(3), "it took {:?}", started.elapsed());
    }
    Ok(())
}
