//! What one object uses, by the names that quotas have for it. Pure.

use kubelite_api::quantity::{Format, Quantity};
use serde_json::Value;

use super::Amounts;
use crate::admission::quantity;
use crate::auth::rbac::array;

/// Kinds of the core group that are counted by their plain name too.
const COUNTED: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];
/// Resources that are named without `requests.` as well.
const COMPUTE: &[&str] = &["cpu", "memory", "ephemeral-storage"];

fn count(n: usize) -> Quantity {
    Quantity::new(i64::try_from(n).unwrap_or(i64::MAX), Format::DecimalSi)
}

/// All that an object uses. A pod that has ended uses nothing but its count as an object.
pub(super) fn of(group: &str, resource: &str, object: &Value) -> Amounts {
    let qualified = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
    let mut all = Amounts::from([(format!("count/{qualified}"), count(1))]);
    if !group.is_empty() {
        return all;
    }
    if resource == "pods" && matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return all;
    }
    if COUNTED.contains(&resource) {
        all.insert(resource.to_owned(), count(1));
    }
    let spec = &object["spec"];
    match resource {
        "pods" => pod(spec, &mut all),
        "services" => {
            let kind = spec["type"].as_str().unwrap_or_default();
            let ports =
                if matches!(kind, "NodePort" | "LoadBalancer") { array(&spec["ports"]).len() } else { 0 };
            all.insert("services.nodeports".to_owned(), count(ports));
            all.insert("services.loadbalancers".to_owned(), count(usize::from(kind == "LoadBalancer")));
        }
        "persistentvolumeclaims" => claim(spec, &mut all),
        _ => {}
    }
    all
}

fn claim(spec: &Value, all: &mut Amounts) {
    let Some(size) = quantity(&spec["resources"]["requests"]["storage"]) else { return };
    all.insert("requests.storage".to_owned(), size);
    if let Some(class) = spec["storageClassName"].as_str() {
        let prefix = format!("{class}.storageclass.storage.k8s.io");
        all.insert(format!("{prefix}/requests.storage"), size);
        all.insert(format!("{prefix}/persistentvolumeclaims"), count(1));
    }
}

/// Containers add up; of the init containers, which run one after the other, the largest counts; overhead comes on top.
fn pod(spec: &Value, all: &mut Amounts) {
    for field in ["requests", "limits"] {
        let amounts = |container: &Value| -> Amounts {
            let map = container["resources"][field].as_object().into_iter().flatten();
            map.filter_map(|(name, value)| Some((name.clone(), quantity(value)?))).collect()
        };
        let mut total =
            array(&spec["containers"]).iter().fold(Amounts::new(), |sum, c| super::add(sum, &amounts(c)));
        for (name, amount) in array(&spec["initContainers"]).iter().flat_map(amounts) {
            let largest = total.get(&name).map_or(amount, |sum| (*sum).max(amount));
            total.insert(name, largest);
        }
        for (name, value) in spec["overhead"].as_object().into_iter().flatten() {
            if let (Some(sum), Some(more)) = (total.get(name).copied(), quantity(value)) {
                total.insert(name.clone(), sum.add(more));
            }
        }
        for (name, amount) in total {
            if field == "requests" && COMPUTE.contains(&name.as_str()) {
                all.insert(name.clone(), amount);
            }
            all.insert(format!("{field}.{name}"), amount);
        }
    }
}

/// `<amount> for: <containers>` if a pod must name an amount that a quota limits, and does not.
pub(super) fn unspecified(pod: &Value, amount: &str) -> Option<String> {
    let (field, resource) = match amount.split_once('.') {
        Some((field @ ("requests" | "limits"), resource)) => (field, resource),
        _ => ("requests", amount),
    };
    if !matches!(resource, "cpu" | "memory") {
        return None;
    }
    let lists = ["containers", "initContainers"];
    let without: Vec<&str> = lists
        .iter()
        .flat_map(|list| array(&pod["spec"][*list]))
        .filter(|c| c["resources"][field][resource].is_null())
        .filter_map(|c| c["name"].as_str())
        .collect();
    (!without.is_empty()).then(|| format!("{amount} for: {}", without.join(",")))
}

/// Whether a quota is about this object: all its scopes must fit, and scopes are about pods alone.
pub(super) fn in_scope(quota: &Value, resource: &str, object: &Value) -> bool {
    let spec = &quota["spec"];
    let (scopes, selectors) = (array(&spec["scopes"]), array(&spec["scopeSelector"]["matchExpressions"]));
    if scopes.is_empty() && selectors.is_empty() {
        return true;
    }
    resource == "pods"
        && scopes.iter().all(|scope| has_scope(object, scope.as_str().unwrap_or_default()))
        && selectors.iter().all(|selector| selected(object, selector))
}

fn has_scope(pod: &Value, scope: &str) -> bool {
    let spec = &pod["spec"];
    let terminating = spec["activeDeadlineSeconds"].is_number();
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort(spec),
        "NotBestEffort" => !best_effort(spec),
        "PriorityClass" => !spec["priorityClassName"].as_str().unwrap_or_default().is_empty(),
        _ => false,
    }
}

/// No container asks for CPU or memory.
fn best_effort(spec: &Value) -> bool {
    let asks = |container: &Value| {
        ["requests", "limits"]
            .iter()
            .any(|f| ["cpu", "memory"].iter().any(|r| !container["resources"][*f][*r].is_null()))
    };
    !["containers", "initContainers"].iter().any(|list| array(&spec[*list]).iter().any(asks))
}

fn selected(pod: &Value, selector: &Value) -> bool {
    let scope = selector["scopeName"].as_str().unwrap_or_default();
    let among = || {
        let class = pod["spec"]["priorityClassName"].as_str().unwrap_or_default();
        array(&selector["values"]).iter().any(|value| value == class)
    };
    match selector["operator"].as_str() {
        Some("Exists") => has_scope(pod, scope),
        Some("DoesNotExist") => !has_scope(pod, scope),
        Some("In") => scope == "PriorityClass" && among(),
        Some("NotIn") => scope == "PriorityClass" && !among(),
        _ => false,
    }
}
