//! Which nodes a pod admits and which taints it tolerates: what the scheduler decides by, and the controllers that
//! put a pod on each node or take pods off one. The choice among the nodes that remain isn't made here.

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PreferredSchedulingTerm, Taint, Toleration,
};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Whether the pod's nodeSelector and required node affinity admit the node.
pub fn admits_node(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let terms = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    spec.node_selector.iter().flatten().all(|(key, value)| label(node, key) == Some(value))
        && terms.is_none_or(|selector| selector.node_selector_terms.iter().any(|term| matches(term, node)))
}

/// The sum of the weights of the pod's preferred terms that the node meets.
pub fn preference(pod: &Pod, node: &Node) -> i64 {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()?.node_affinity.as_ref());
    let terms = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let met = |term: &&PreferredSchedulingTerm| matches(&term.preference, node);
    terms.into_iter().flatten().filter(met).map(|term| i64::from(term.weight)).sum()
}

/// The pod's tolerations that admit the taint.
pub fn tolerating<'a>(pod: &'a Pod, taint: &'a Taint) -> impl Iterator<Item = &'a Toleration> {
    let tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    tolerations.filter(|toleration| tolerates(toleration, taint))
}

/// Whether a toleration admits a taint; an empty key with `Exists` admits all, an empty effect every effect.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |text: &'_ Option<String>| text.clone().filter(|text| !text.is_empty());
    let exists = toleration.operator.as_deref() == Some("Exists");
    let value = toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default();
    given(&toleration.effect).is_none_or(|effect| effect == taint.effect)
        && given(&toleration.key).map_or(exists, |key| key == taint.key)
        && (exists || value)
}

fn label<'a>(node: &'a Node, key: &str) -> Option<&'a String> {
    node.metadata.labels.as_ref().and_then(|labels: &BTreeMap<_, _>| labels.get(key))
}

/// A term without requirements matches nothing.
fn matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let mut labels = term.match_expressions.iter().flatten().peekable();
    let mut fields = term.match_fields.iter().flatten().peekable();
    let empty = labels.peek().is_none() && fields.peek().is_none();
    let name = node.metadata.name.as_deref();
    !empty
        && labels.all(|requirement| fits(requirement, label(node, &requirement.key).map(String::as_str)))
        && fields.all(|requirement| requirement.key == "metadata.name" && fits(requirement, name))
}

fn fits(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let among = value.is_some_and(|value| values.iter().any(|v| v == value));
    let compared = || {
        let number = value?.parse::<i64>().ok()?;
        let bound = values.first()?.parse::<i64>().ok()?;
        Some(number.cmp(&bound))
    };
    match requirement.operator.as_str() {
        "In" => among,
        "NotIn" => !among,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared().is_some_and(Ordering::is_gt),
        "Lt" => compared().is_some_and(Ordering::is_lt),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node() -> Node {
        serde_json::from_value(json!({ "metadata": {"name": "n1", "labels": {"zone": "a", "cores": "4"}} }))
            .unwrap()
    }

    fn pod(spec: Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        serde_json::from_value(json!({ "spec": spec })).unwrap()
    }

    #[test]
    fn required_terms_are_alternatives_and_their_requirements_hold_together() {
        let term = |key: &str, operator: &str, values: &[&str]| json!({ "key": key, "operator": operator, "values": values });
        let table = [
            (json!([{ "matchExpressions": [term("zone", "In", &["a", "b"])] }]), true),
            (json!([{ "matchExpressions": [term("zone", "NotIn", &["a"])] }]), false),
            (json!([{ "matchExpressions": [term("gpu", "NotIn", &["x"])] }]), true),
            (
                json!([{ "matchExpressions": [term("cores", "Gt", &["3"]), term("cores", "Lt", &["4"])] }]),
                false,
            ),
            (
                json!([{ "matchExpressions": [term("gpu", "Exists", &[])] }, { "matchFields": [term("metadata.name", "In", &["n1"])] }]),
                true,
            ),
            (json!([{}]), false),
            (json!([{ "matchExpressions": [term("zone", "Near", &["a"])] }]), false),
        ];
        for (terms, admitted) in table {
            let affinity = json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms } } });
            assert_eq!(admits_node(&pod(json!({ "affinity": affinity })), &node()), admitted, "{terms}");
        }
        assert!(!admits_node(&pod(json!({ "nodeSelector": { "zone": "b" } })), &node()));
        assert!(admits_node(&Pod::default(), &node()));
    }

    #[test]
    fn a_toleration_admits_by_key_value_and_effect() {
        let taint = Taint {
            key: "k".into(),
            value: Some("v".into()),
            effect: "NoSchedule".into(),
            ..Taint::default()
        };
        let table = [
            (json!({ "operator": "Exists" }), true),
            (json!({ "key": "k", "operator": "Exists", "effect": "NoSchedule" }), true),
            (json!({ "key": "k", "operator": "Exists", "effect": "NoExecute" }), false),
            (json!({ "key": "k", "value": "v" }), true),
            (json!({ "key": "k", "operator": "Equal", "value": "w" }), false),
            (json!({ "operator": "Equal", "value": "v" }), false),
        ];
        for (toleration, admitted) in table {
            let pod = pod(json!({ "tolerations": [toleration] }));
            assert_eq!(tolerating(&pod, &taint).count(), usize::from(admitted), "{toleration}");
        }
    }
}
