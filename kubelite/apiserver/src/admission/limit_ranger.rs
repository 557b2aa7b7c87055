//! LimitRanger: the requests and limits that a namespace fills in, and the least and the most that it allows.

use std::sync::Arc;

use async_trait::async_trait;
use kubelite_api::quantity::Quantity;
use kubelite_api::status::ApiError;
use serde_json::{Map, Value, json};

use crate::admission::{Admission, Attributes, quantity};
use crate::auth::Objects;
use crate::auth::rbac::array;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Judges by the cached limit ranges.
pub struct LimitRanger {
    objects: Arc<dyn Objects>,
}

impl LimitRanger {
    /// Judges by these objects.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        LimitRanger { objects }
    }
}

#[async_trait]
impl Admission for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), ApiError> {
        let pod = attributes.creates("", "pods", object);
        if !pod && !attributes.creates("", "persistentvolumeclaims", object) {
            return Ok(());
        }
        let ranges = self.objects.list("limitranges", &attributes.request.namespace);
        let limits: Vec<&Value> = ranges.iter().flat_map(|r| array(&r["spec"]["limits"])).collect();
        if pod {
            fill(object, &limits);
        }
        let found = if pod { pod_violations(object, &limits) } else { claim_violations(object, &limits) };
        match found.as_slice() {
            [] => Ok(()),
            [one] => Err(attributes.forbid(object, one)),
            many => Err(attributes.forbid(object, &format!("[{}]", many.join(", ")))),
        }
    }
}

/// Requests and limits that no container names itself; what was set stands in an annotation.
fn fill(pod: &mut Value, limits: &[&Value]) {
    let mut notes = Vec::new();
    for limit in limits.iter().filter(|l| l["type"] == "Container") {
        let (default, request) = defaults(limit);
        for list in ["containers", "initContainers"] {
            let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten().filter(|c| c.is_object()) {
                let name = container["name"].as_str().unwrap_or_default().to_owned();
                for (field, word, values) in
                    [("requests", "request", &request), ("limits", "limit", &default)]
                {
                    let set = fill_container(container, field, values);
                    if !set.is_empty() {
                        notes.push(format!("{} {word} for container {name}", set.join(", ")));
                    }
                }
            }
        }
    }
    if !notes.is_empty() {
        if !pod["metadata"]["annotations"].is_object() {
            pod["metadata"]["annotations"] = json!({});
        }
        pod["metadata"]["annotations"][ANNOTATION] =
            json!(format!("LimitRanger plugin set: {}", notes.join("; ")));
    }
}

/// The effective (limits, requests) of an item: `max` stands in for `default`, that for `defaultRequest`, and `min` too.
fn defaults(item: &Value) -> (Map<String, Value>, Map<String, Value>) {
    let map = |field: &str| item[field].as_object().cloned().unwrap_or_default();
    let under = |mut base: Map<String, Value>, over: Map<String, Value>| {
        base.extend(over);
        base
    };
    let limits = under(map("max"), map("default"));
    let requests = under(under(map("min"), limits.clone()), map("defaultRequest"));
    (limits, requests)
}

/// Sets what is missing and says what that was. An own limit is the request too, before the namespace's default is.
fn fill_container(container: &mut Value, field: &str, values: &Map<String, Value>) -> Vec<String> {
    let own_limits = container["resources"]["limits"].as_object().cloned().unwrap_or_default();
    let mut current = container["resources"][field].as_object().cloned().unwrap_or_default();
    let mut set = Vec::new();
    for (resource, value) in values {
        if current.contains_key(resource) {
            continue;
        }
        let own = own_limits.get(resource).filter(|_| field == "requests");
        current.insert(resource.clone(), own.unwrap_or(value).clone());
        if own.is_none() {
            set.push(resource.clone());
        }
    }
    if !current.is_empty() {
        if !container["resources"].is_object() {
            container["resources"] = json!({});
        }
        container["resources"][field] = Value::Object(current);
    }
    set
}

/// What one thing (container, pod, claim) asks for of one resource.
struct Use {
    request: Option<Quantity>,
    limit: Option<Quantity>,
}

fn pod_violations(pod: &Value, limits: &[&Value]) -> Vec<String> {
    let containers = array(&pod["spec"]["containers"]);
    let init = array(&pod["spec"]["initContainers"]);
    let of = |container: &Value, resource: &str| Use {
        request: quantity(&container["resources"]["requests"][resource]),
        limit: quantity(&container["resources"]["limits"][resource]),
    };
    let mut found = Vec::new();
    for item in limits {
        match item["type"].as_str() {
            Some("Container") => {
                for container in containers.iter().chain(init) {
                    found.extend(violations(item, "Container", &|resource| of(container, resource)));
                }
            }
            Some("Pod") => {
                let total = |field: &str, resource: &str| {
                    sum(containers.iter().map(|c| &c["resources"][field][resource]))
                };
                found.extend(violations(item, "Pod", &|resource| Use {
                    request: total("requests", resource),
                    limit: total("limits", resource),
                }));
            }
            _ => {}
        }
    }
    found
}

fn sum<'a>(values: impl Iterator<Item = &'a Value>) -> Option<Quantity> {
    values.filter_map(quantity).reduce(Quantity::add)
}

fn claim_violations(claim: &Value, limits: &[&Value]) -> Vec<String> {
    let storage = |resource: &str| {
        let request = quantity(&claim["spec"]["resources"]["requests"][resource]);
        Use { request, limit: request }
    };
    let items = limits.iter().filter(|l| l["type"] == "PersistentVolumeClaim");
    items.flat_map(|item| violations(item, "PersistentVolumeClaim", &storage)).collect()
}

/// Where an item is not kept, in upstream's words.
fn violations(item: &Value, kind: &str, used: &dyn Fn(&str) -> Use) -> Vec<String> {
    let bounds = |field: &str| -> Vec<(String, Quantity)> {
        let map = item[field].as_object().into_iter().flatten();
        map.filter_map(|(resource, value)| Some((resource.clone(), quantity(value)?))).collect()
    };
    let mut found = Vec::new();
    for (resource, min) in bounds("min") {
        let Use { request, limit } = used(&resource);
        let head = format!("minimum {resource} usage per {kind} is {min}");
        match (request, limit) {
            (None, _) => found.push(format!("{head}.  No request is specified")),
            (Some(request), _) if request < min => found.push(format!("{head}, but request is {request}")),
            (_, Some(limit)) if limit < min => found.push(format!("{head}, but limit is {limit}")),
            _ => {}
        }
    }
    for (resource, max) in bounds("max") {
        let Use { request, limit } = used(&resource);
        let head = format!("maximum {resource} usage per {kind} is {max}");
        match (request, limit) {
            (_, None) => found.push(format!("{head}.  No limit is specified")),
            (_, Some(limit)) if limit > max => found.push(format!("{head}, but limit is {limit}")),
            (Some(request), _) if request > max => found.push(format!("{head}, but request is {request}")),
            _ => {}
        }
    }
    for (resource, most) in bounds("maxLimitRequestRatio") {
        let Use { request: Some(request), limit: Some(limit) } = used(&resource) else {
            let head = format!("{resource} max limit to request ratio per {kind} is {most}");
            found.push(format!("{head}, but no request is specified or request is 0"));
            continue;
        };
        // Milli-units keep CPU exact; memory is far from their limit.
        let (limit, request) = (limit.milli_value() as f64, request.milli_value() as f64);
        let ratio = limit / request;
        if ratio * 1000.0 > most.milli_value() as f64 {
            let head = format!("{resource} max limit to request ratio per {kind} is {most}");
            found.push(format!("{head}, but provided ratio is {ratio:.6}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item() -> Value {
        json!({"type": "Container", "min": {"cpu": "50m"}, "max": {"cpu": "500m", "memory": "1Gi"},
               "default": {"cpu": "400m"}, "defaultRequest": {"cpu": "100m"}})
    }

    fn filled(resources: &Value) -> (Value, Vec<String>) {
        let mut pod =
            json!({"metadata": {}, "spec": {"containers": [{"name": "c", "resources": resources}]}});
        let item = item();
        fill(&mut pod, &[&item]);
        let found = pod_violations(&pod, &[&item]);
        (pod["spec"]["containers"][0]["resources"].clone(), found)
    }

    #[test]
    fn defaults_fill_what_is_missing() {
        let (resources, found) = filled(&json!({}));
        assert_eq!(resources["requests"], json!({"cpu": "100m", "memory": "1Gi"}));
        assert_eq!(resources["limits"], json!({"cpu": "400m", "memory": "1Gi"}));
        assert_eq!(found, [""; 0]);
        let (resources, _) = filled(&json!({"limits": {"cpu": "300m"}}));
        assert_eq!(resources["requests"]["cpu"], "300m");
        assert_eq!(resources["limits"]["cpu"], "300m");
    }

    #[test]
    fn bounds_in_upstreams_words() {
        let (_, found) = filled(&json!({"requests": {"cpu": "10m"}}));
        assert_eq!(found, ["minimum cpu usage per Container is 50m, but request is 10m"]);
        let (_, found) = filled(&json!({"requests": {"cpu": "600m"}, "limits": {"cpu": "600m"}}));
        assert_eq!(found, ["maximum cpu usage per Container is 500m, but limit is 600m"]);
    }

    #[test]
    fn pods_are_sums_and_claims_have_sizes() {
        let pod = json!({"spec": {"containers": [
            {"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1500m"}}},
            {"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}}]}});
        let item = json!({"type": "Pod", "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "1"}});
        assert_eq!(
            pod_violations(&pod, &[&item]),
            [
                "maximum cpu usage per Pod is 2, but limit is 2500m",
                "cpu max limit to request ratio per Pod is 1, but provided ratio is 1.250000"
            ]
        );
        let claim = json!({"spec": {"resources": {"requests": {"storage": "3Gi"}}}});
        let item = json!({"type": "PersistentVolumeClaim", "max": {"storage": "2Gi"}});
        let found = claim_violations(&claim, &[&item]);
        assert_eq!(found, ["maximum storage usage per PersistentVolumeClaim is 2Gi, but limit is 3Gi"]);
    }
}
