//! The rows of all other kinds, and what rows have in common.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{age, since};
use crate::{object, scalar};

/// How many endpoints are listed before `+ n more...`.
const ENDPOINTS_SHOWN: usize = 3;

pub(super) fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn int(value: &Value, path: &str) -> i64 {
    value.pointer(path).and_then(Value::as_i64).unwrap_or(0)
}

pub(super) fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

pub(super) fn join<'a>(items: impl Iterator<Item = &'a str>) -> String {
    items.collect::<Vec<_>>().join(",")
}

/// `a=b,c=d`, or `<none>`.
pub(super) fn pairs(map: Option<&Value>) -> String {
    let map = map.and_then(Value::as_object).filter(|m| !m.is_empty());
    let Some(map) = map else { return "<none>".into() };
    let pairs: Vec<String> =
        map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    pairs.join(",")
}

fn items<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    value.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn length(value: &Value, path: &str) -> usize {
    value.pointer(path).map_or(0, |v| v.as_object().map_or(0, Map::len) + v.as_array().map_or(0, Vec::len))
}

/// Name and creation time: kinds without a row of their own.
pub(super) fn created(o: &Value, _: Timestamp) -> Vec<Value> {
    vec![json!(object::name(o)), json!(object::meta_str(o, "creationTimestamp"))]
}

pub(super) fn namespace(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![json!(object::name(o)), json!(text(o, "/status/phase")), json!(age(o, now))]
}

pub(super) fn config_map(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![json!(object::name(o)), json!(length(o, "/data") + length(o, "/binaryData")), json!(age(o, now))]
}

pub(super) fn secret(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![json!(object::name(o)), json!(text(o, "/type")), json!(length(o, "/data")), json!(age(o, now))]
}

pub(super) fn service_account(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![json!(object::name(o)), json!(length(o, "/secrets")), json!(age(o, now))]
}

pub(super) fn lease(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![json!(object::name(o)), json!(text(o, "/spec/holderIdentity")), json!(age(o, now))]
}

pub(super) fn node(o: &Value, now: Timestamp) -> Vec<Value> {
    let ready = items(o, "/status/conditions").iter().find(|c| text(c, "/type") == "Ready");
    let mut status = match ready.map(|c| text(c, "/status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if o.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    let address = |kind| {
        let found = items(o, "/status/addresses").iter().find(|a| text(a, "/type") == kind);
        json!(or_none(found.map_or("", |a| text(a, "/address"))))
    };
    let info = |field: &str| match text(o, &format!("/status/nodeInfo/{field}")) {
        "" => json!("<unknown>"),
        known => json!(known),
    };
    vec![
        json!(object::name(o)),
        json!(status),
        json!(or_none(&roles(o))),
        json!(age(o, now)),
        json!(text(o, "/status/nodeInfo/kubeletVersion")),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn roles(node: &Value) -> String {
    let labels = object::labels(node).into_iter().flatten();
    let roles = labels.filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
        Some(role) if !role.is_empty() => Some(role),
        _ if key == "kubernetes.io/role" => value.as_str(),
        _ => None,
    });
    let mut roles: Vec<&str> = roles.collect();
    roles.sort_unstable();
    roles.join(",")
}

pub(super) fn service(o: &Value, now: Timestamp) -> Vec<Value> {
    let ports = items(o, "/spec/ports").iter().map(|port| {
        let (number, protocol) = (int(port, "/port"), text(port, "/protocol"));
        match int(port, "/nodePort") {
            0 => format!("{number}/{protocol}"),
            node => format!("{number}:{node}/{protocol}"),
        }
    });
    let ports: Vec<String> = ports.collect();
    vec![
        json!(object::name(o)),
        json!(text(o, "/spec/type")),
        json!(or_none(text(o, "/spec/clusterIP"))),
        json!(external_ip(o)),
        json!(or_none(&ports.join(","))),
        json!(age(o, now)),
        json!(pairs(o.pointer("/spec/selector"))),
    ]
}

fn external_ip(service: &Value) -> String {
    let own = items(service, "/spec/externalIPs").iter().filter_map(Value::as_str);
    match text(service, "/spec/type") {
        "ExternalName" => text(service, "/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let ingress = items(service, "/status/loadBalancer/ingress").iter();
            let ingress = ingress
                .map(|i| if text(i, "/ip").is_empty() { text(i, "/hostname") } else { text(i, "/ip") });
            let all = join(ingress.chain(own));
            if all.is_empty() { "<pending>".into() } else { all }
        }
        _ => or_none(&join(own)).to_owned(),
    }
}

/// A few of the list, and how many more there are.
fn some(all: &[String]) -> String {
    match all.len().saturating_sub(ENDPOINTS_SHOWN) {
        0 => or_none(&all.join(",")).to_owned(),
        more => format!("{} + {more} more...", all[..ENDPOINTS_SHOWN].join(",")),
    }
}

pub(super) fn endpoints(o: &Value, now: Timestamp) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in items(o, "/subsets") {
        let addresses = items(subset, "/addresses").iter().map(|a| text(a, "/ip"));
        for ip in addresses {
            let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
            match items(subset, "/ports") {
                [] => all.push(ip.to_owned()),
                ports => all.extend(ports.iter().map(|p| format!("{host}:{}", int(p, "/port")))),
            }
        }
    }
    vec![json!(object::name(o)), json!(some(&all)), json!(age(o, now))]
}

pub(super) fn endpoint_slice(o: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = items(o, "/ports").iter().map(|p| int(p, "/port").to_string()).collect();
    let addresses = items(o, "/endpoints").iter().flat_map(|e| items(e, "/addresses"));
    let addresses: Vec<String> = addresses.filter_map(Value::as_str).map(str::to_owned).collect();
    let unset = |text: String| if text == "<none>" { "<unset>".to_owned() } else { text };
    vec![
        json!(object::name(o)),
        json!(text(o, "/addressType")),
        json!(unset(some(&ports))),
        json!(unset(some(&addresses))),
        json!(age(o, now)),
    ]
}

/// Both APIs' events: the newer one has its times and its text elsewhere.
pub(super) fn event(o: &Value, now: Timestamp) -> Vec<Value> {
    let time = |paths: &[&str]| paths.iter().find_map(|p| o.pointer(p).and_then(scalar::time_of));
    let first = time(&["/firstTimestamp", "/deprecatedFirstTimestamp", "/eventTime"]);
    let last = time(&["/series/lastObservedTime", "/lastTimestamp", "/deprecatedLastTimestamp"]).or(first);
    let about = if o.get("regarding").is_some() { "/regarding" } else { "/involvedObject" };
    let part = |field: &str| text(o, &format!("{about}/{field}"));
    let message = if o.get("note").is_some() { text(o, "/note") } else { text(o, "/message") };
    let count =
        ["/series/count", "/count", "/deprecatedCount"].map(|p| int(o, p)).into_iter().find(|c| *c > 0);
    let source = [
        text(o, "/source/component"),
        text(o, "/deprecatedSource/component"),
        text(o, "/reportingComponent"),
        text(o, "/reportingController"),
    ];
    vec![
        json!(since(last, now)),
        json!(text(o, "/type")),
        json!(text(o, "/reason")),
        json!(format!("{}/{}", part("kind").to_lowercase(), part("name"))),
        json!(part("fieldPath")),
        json!(source.into_iter().find(|s| !s.is_empty()).unwrap_or_default()),
        json!(message.trim()),
        json!(since(first, now)),
        json!(count.unwrap_or(1).to_string()),
        json!(object::name(o)),
    ]
}

pub(super) fn binding(o: &Value, now: Timestamp) -> Vec<Value> {
    let of = |kind: &str| {
        let subjects = items(o, "/subjects").iter().filter(|s| text(s, "/kind") == kind);
        let names: Vec<String> = subjects
            .map(|s| match text(s, "/namespace") {
                "" => text(s, "/name").to_owned(),
                namespace => format!("{namespace}/{}", text(s, "/name")),
            })
            .collect();
        json!(names.join(", "))
    };
    let role = format!("{}/{}", text(o, "/roleRef/kind"), text(o, "/roleRef/name"));
    vec![
        json!(object::name(o)),
        json!(role),
        json!(age(o, now)),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}
