//! The rows of ingresses, network policies and storage.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age;
use super::cells::{join, or_none, pairs, text};
use crate::labels::LabelSelector;
use crate::object;

fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    value.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// How many hosts an ingress shows before `+ n more...`.
const HOSTS_SHOWN: usize = 3;

pub(super) fn ingress(o: &Value, now: Timestamp) -> Vec<Value> {
    let mut hosts: Vec<&str> = list(o, "/spec/rules").iter().map(|rule| text(rule, "/host")).collect();
    hosts.retain(|host| !host.is_empty());
    let more = hosts.len().saturating_sub(HOSTS_SHOWN);
    let mut shown = join(hosts.into_iter().take(HOSTS_SHOWN));
    if shown.is_empty() {
        shown.push('*');
    } else if more > 0 {
        shown.push_str(&format!(" + {more} more..."));
    }
    let addresses = list(o, "/status/loadBalancer/ingress").iter();
    let addresses = join(
        addresses.map(|it| if text(it, "/ip").is_empty() { text(it, "/hostname") } else { text(it, "/ip") }),
    );
    let ports = if list(o, "/spec/tls").is_empty() { "80" } else { "80, 443" };
    let class = or_none(text(o, "/spec/ingressClassName"));
    vec![
        json!(object::name(o)),
        json!(class),
        json!(shown),
        json!(addresses),
        json!(ports),
        json!(age(o, now)),
    ]
}

pub(super) fn ingress_class(o: &Value, now: Timestamp) -> Vec<Value> {
    let parameters = match o.pointer("/spec/parameters") {
        Some(parameters) if !parameters.is_null() => {
            let group = text(parameters, "/apiGroup");
            let dot = if group.is_empty() { "" } else { "." };
            format!("{}{dot}{group}/{}", text(parameters, "/kind"), text(parameters, "/name"))
        }
        _ => "<none>".to_owned(),
    };
    vec![json!(object::name(o)), json!(text(o, "/spec/controller")), json!(parameters), json!(age(o, now))]
}

pub(super) fn policy(o: &Value, now: Timestamp) -> Vec<Value> {
    let selector = o.pointer("/spec/podSelector").map(LabelSelector::from_value);
    let selector = selector.and_then(Result::ok).map(|selector| selector.to_string()).unwrap_or_default();
    vec![json!(object::name(o)), json!(or_none(&selector)), json!(age(o, now))]
}

pub(super) fn class(o: &Value, now: Timestamp) -> Vec<Value> {
    let mut name = object::name(o).to_owned();
    if object::annotation(o, "storageclass.kubernetes.io/is-default-class") == Some("true") {
        name.push_str(" (default)");
    }
    let expands = o["allowVolumeExpansion"] == true;
    vec![
        json!(name),
        json!(text(o, "/provisioner")),
        json!(text(o, "/reclaimPolicy")),
        json!(text(o, "/volumeBindingMode")),
        json!(expands),
        json!(age(o, now)),
    ]
}

pub(super) fn driver(o: &Value, now: Timestamp) -> Vec<Value> {
    let is = |field: &str| json!(o["spec"][field] == true);
    let tokens = join(list(o, "/spec/tokenRequests").iter().map(|it| text(it, "/audience")));
    let modes = join(list(o, "/spec/volumeLifecycleModes").iter().filter_map(Value::as_str));
    let tokens = if tokens.is_empty() { "<unset>".to_owned() } else { tokens };
    vec![
        json!(object::name(o)),
        is("attachRequired"),
        is("podInfoOnMount"),
        is("storageCapacity"),
        json!(tokens),
        is("requiresRepublish"),
        json!(modes),
        json!(age(o, now)),
    ]
}

pub(super) fn csi_node(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![json!(object::name(o)), json!(list(o, "/spec/drivers").len()), json!(age(o, now))]
}

pub(super) fn attachment(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        json!(object::name(o)),
        json!(text(o, "/spec/attacher")),
        json!(text(o, "/spec/source/persistentVolumeName")),
        json!(text(o, "/spec/nodeName")),
        json!(o["status"]["attached"] == true),
        json!(age(o, now)),
    ]
}

pub(super) fn capacity(o: &Value, _: Timestamp) -> Vec<Value> {
    let topology = pairs(o.pointer("/nodeTopology/matchLabels"));
    vec![
        json!(object::name(o)),
        json!(text(o, "/storageClassName")),
        json!(text(o, "/capacity")),
        json!(topology),
    ]
}

pub(super) fn attributes(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![json!(object::name(o)), json!(text(o, "/driverName")), json!(age(o, now))]
}
