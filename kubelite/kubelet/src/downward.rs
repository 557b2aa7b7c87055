//! The downward API: a pod's own fields and its containers' resources, as text for environments and volumes. Pure.

use crate::pod::spec;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use kube::ResourceExt;
use kubelite_api::quantity::Quantity;
use std::collections::BTreeMap;
use std::fmt::Write;

/// What a node has for pods; stands in for limits that a container doesn't have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allocatable {
    /// CPUs.
    pub(crate) cpus: u64,
    /// Bytes of memory.
    pub(crate) memory: u64,
}

impl Allocatable {
    /// As measured on this machine, and as the Node object says it.
    pub(crate) fn measure() -> Allocatable {
        let memory = crate::node::machine::memory().saturating_sub(crate::node::MEMORY_RESERVE);
        Allocatable { cpus: crate::node::machine::identity().cpus, memory }
    }
}

/// A field of the pod's metadata: `metadata.name`, `metadata.labels['key']`, …; None if there is no such field. A label
/// or annotation that isn't set is empty.
pub(crate) fn metadata(pod: &Pod, path: &str) -> Option<String> {
    let keyed = |prefix: &str| path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']");
    if let Some(key) = keyed("metadata.labels") {
        return Some(pod.labels().get(key).cloned().unwrap_or_default());
    }
    if let Some(key) = keyed("metadata.annotations") {
        return Some(pod.annotations().get(key).cloned().unwrap_or_default());
    }
    Some(match path {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        _ => return None,
    })
}

/// A field of the pod for a volume: as [`metadata`], and all labels or annotations, a line each.
pub(crate) fn file(pod: &Pod, path: &str) -> Option<String> {
    match path {
        "metadata.labels" => Some(lines(pod.labels())),
        "metadata.annotations" => Some(lines(pod.annotations())),
        path => metadata(pod, path),
    }
}

fn lines(map: &BTreeMap<String, String>) -> String {
    let lines: Vec<String> = map.iter().map(|(key, value)| format!("{key}={}", quoted(value))).collect();
    lines.join("\n")
}

/// In double quotes, with escapes as Go writes them.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Writing to a string can't fail.
            c if c.is_ascii_control() => _ = write!(out, "\\x{:02x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A container's request or limit in units of the selector's divisor, rounded up. `own` is the container that a selector
/// without a name means.
pub(crate) fn resource(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    node: Allocatable,
) -> Result<String, String> {
    let name = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match name {
        Some(name) => spec::find(pod, name).map(|(_, container)| container),
        None => own.cloned(),
    };
    let container = container.ok_or_else(|| format!("container {} not found", name.unwrap_or_default()))?;
    let wanted = container.resources.unwrap_or_default();
    let path = selector.resource.as_str();
    let unsupported = || format!("Unsupported container resource : {path}");
    let (limit, name) = match path.split_once('.') {
        Some(("limits", name)) => (true, name),
        Some(("requests", name)) => (false, name),
        _ => return Err(unsupported()),
    };
    let whole_node = match name {
        "cpu" => node.cpus,
        "memory" => node.memory,
        "ephemeral-storage" => 0,
        name if name.starts_with("hugepages-") => 0,
        _ => return Err(unsupported()),
    };
    let map = if limit { wanted.limits } else { wanted.requests };
    let amount = map.unwrap_or_default().get(name).map(|q| milli(&q.0)).unwrap_or(Ok(0))?;
    let amount = match amount {
        0 if limit => i64::try_from(whole_node).unwrap_or(i64::MAX).saturating_mul(1000),
        amount => amount,
    };
    let divisor = selector.divisor.as_ref().map(|q| milli(&q.0)).unwrap_or(Ok(0))?;
    let divisor = if divisor > 0 { divisor } else { 1000 };
    Ok((amount / divisor + i64::from(amount % divisor > 0)).to_string())
}

/// Thousandths.
fn milli(quantity: &str) -> Result<i64, String> {
    quantity.parse::<Quantity>().map(|q| q.milli_value()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "ns", "uid": "u", "labels": { "a": "1", "b/c": "x\"y" },
                "annotations": { "long": "one\ntwo\\" } },
            "spec": { "containers": [{ "name": "c", "resources": {
                "limits": { "cpu": "1500m" }, "requests": { "cpu": "300m", "memory": "100Mi" } } }] },
        }))
        .unwrap()
    }

    #[test]
    fn fields() {
        let cases = [
            ("metadata.name", Some("p")),
            ("metadata.uid", Some("u")),
            ("metadata.labels['b/c']", Some("x\"y")),
            ("metadata.labels['none']", Some("")),
            ("metadata.annotations['long']", Some("one\ntwo\\")),
            ("metadata.labels", Some("a=\"1\"\nb/c=\"x\\\"y\"")),
            ("metadata.annotations", Some("long=\"one\\ntwo\\\\\"")),
            ("metadata.labels['a'", None),
            ("spec.nodeName", None),
        ];
        for (path, expected) in cases {
            assert_eq!(file(&pod(), path).as_deref(), expected, "{path}");
        }
        assert_eq!(metadata(&pod(), "metadata.labels"), None);
    }

    #[test]
    fn resources() {
        let node = Allocatable { cpus: 4, memory: 8_000_000_000 };
        let cases = [
            ("limits.cpu", None, Ok("2")),
            ("limits.cpu", Some("1m"), Ok("1500")),
            ("requests.cpu", Some("1m"), Ok("300")),
            ("requests.cpu", None, Ok("1")),
            ("requests.memory", Some("1Mi"), Ok("100")),
            ("limits.memory", None, Ok("8000000000")),
            ("limits.memory", Some("1Gi"), Ok("8")),
            ("requests.ephemeral-storage", None, Ok("0")),
            ("limits.gpu", None, Err("Unsupported container resource : limits.gpu")),
        ];
        for (path, divisor, expected) in cases {
            let selector: ResourceFieldSelector = serde_json::from_value(
                json!({ "containerName": "c", "resource": path, "divisor": divisor.unwrap_or("0") }),
            )
            .unwrap();
            let text = resource(&pod(), None, &selector, node);
            assert_eq!(text.as_deref().map_err(String::as_str), expected, "{path}");
        }
    }
}
