//! Quantities as numbers, and what a pod asks for.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// Amounts by resource name, in thousandths of the resource's unit (so `cpu` counts millicores).
pub(crate) type Amounts = BTreeMap<String, i128>;

/// What a pod without requests counts for when nodes are compared (not when they are filtered).
pub(crate) const DEFAULT_CPU: i128 = 100;
pub(crate) const DEFAULT_MEMORY: i128 = 200 * 1024 * 1024 * 1000;

/// A quantity in thousandths, rounded up; none if it isn't one.
fn thousandths(quantity: &Quantity) -> Option<i128> {
    quantity.0.parse::<kubelite_api::quantity::Quantity>().ok().map(|amount| amount.milli_value().into())
}

/// Quantities of a node's status or a container's requests.
pub(crate) fn amounts(quantities: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    let parse = |(name, quantity): (&String, &Quantity)| Some((name.clone(), thousandths(quantity)?));
    quantities.into_iter().flatten().filter_map(parse).collect()
}

/// What a pod takes on its node: its containers and sidecars together, or what an init container needs at its time, if
/// that is more; plus the overhead of its sandbox, plus one pod.
pub(crate) fn of_pod(pod: &Pod) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let requests = |container: &Container| requested(container.resources.as_ref());
    let mut total = Amounts::new();
    spec.containers.iter().for_each(|container| add(&mut total, &requests(container)));
    let (mut sidecars, mut start) = (Amounts::new(), Amounts::new());
    for init in spec.init_containers.iter().flatten() {
        let mut now = sidecars.clone();
        add(&mut now, &requests(init));
        if init.restart_policy.as_deref() == Some("Always") {
            sidecars = now.clone();
        }
        at_least(&mut start, &now);
    }
    add(&mut total, &sidecars);
    at_least(&mut total, &start);
    // Requests of the pod as a whole take the place of the sum (KEP-2837).
    total.extend(requested(spec.resources.as_ref()));
    add(&mut total, &amounts(spec.overhead.as_ref()));
    total.insert("pods".into(), 1000);
    total
}

fn requested(resources: Option<&ResourceRequirements>) -> Amounts {
    let Some(resources) = resources else { return Amounts::new() };
    let mut result = amounts(resources.limits.as_ref());
    result.extend(amounts(resources.requests.as_ref()));
    result
}

/// Adds `more` to `total`, resource by resource.
pub(crate) fn add(total: &mut Amounts, more: &Amounts) {
    more.iter().for_each(|(name, amount)| *total.entry(name.clone()).or_default() += amount);
}

fn at_least(total: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let entry = total.entry(name.clone()).or_default();
        *entry = (*entry).max(*amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_containers_count_by_their_peak_and_sidecars_stay() {
        let pod: Pod = serde_json::from_value(serde_json::json!({ "spec": {
            "initContainers": [
                {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "big", "resources": {"requests": {"cpu": "2"}}}],
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "300m"}}},
                {"name": "b", "resources": {"limits": {"cpu": "1"}}}],
            "overhead": {"cpu": "50m"} } }))
        .unwrap();
        assert_eq!(of_pod(&pod)["cpu"], 2150);
    }
}
