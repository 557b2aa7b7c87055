//! Role-based access control (`rbac.authorization.k8s.io/v1`): bindings name subjects, roles hold rules, rules only allow.
//!
//! What lives here: which rules a user has, and whether a rule covers a request. Roles with an `aggregationRule` are
//! the union of what their selectors find, at the time of the question. Works on the cached JSON trees as they are,
//! because a request reads a few fields of many objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};
use serde_json::Value;

use crate::auth::authn::service_account_name;
use crate::auth::{Decision, Objects};
use crate::request::{RequestInfo, UserInfo};

/// The authorizer over the cached roles and bindings.
pub struct Rbac {
    objects: Arc<dyn Objects>,
}

impl Rbac {
    /// Judges by these objects.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        Rbac { objects }
    }

    /// Allows if one rule of one binding does.
    pub fn authorize(&self, user: &UserInfo, request: &RequestInfo) -> Decision {
        let mut found = None;
        self.visit(user, &request.namespace, &mut |binding, rule| {
            let hit = rule_allows(rule, request);
            if hit {
                found = Some(format!("RBAC: allowed by {}", describe(binding)));
            }
            hit
        });
        found.map_or_else(|| Decision::Deny(String::new()), Decision::Allow)
    }

    /// All rules that a user has in a namespace, those of cluster role bindings included.
    pub fn rules(&self, user: &UserInfo, namespace: &str) -> Vec<Value> {
        let mut rules = Vec::new();
        self.visit(user, namespace, &mut |_, rule| {
            rules.push(rule.clone());
            false
        });
        rules
    }

    /// The rules that a reference of a binding stands for, aggregated ones included; empty if the role is missing.
    pub fn role_rules(&self, role_ref: &Value, namespace: &str) -> Vec<Value> {
        let mut rules = Vec::new();
        self.any_rule(role_ref, namespace, &mut |rule| {
            rules.push(rule.clone());
            false
        });
        rules
    }

    /// Shows each rule of a role, then those of the roles that it aggregates, to `each` until it returns true.
    fn any_rule(&self, role_ref: &Value, namespace: &str, each: &mut dyn FnMut(&Value) -> bool) -> bool {
        let name = role_ref["name"].as_str().unwrap_or_default();
        let role = match role_ref["kind"].as_str() {
            Some("ClusterRole") => self.objects.get("clusterroles", "", name),
            Some("Role") => self.objects.get("roles", namespace, name),
            _ => None,
        };
        let Some(role) = role else { return false };
        if array(&role["rules"]).iter().any(&mut *each) {
            return true;
        }
        let selectors = array(&role["aggregationRule"]["clusterRoleSelectors"]);
        if selectors.is_empty() {
            return false;
        }
        let selectors: Vec<Selector> = selectors.iter().filter_map(selector).collect();
        let selected = |other: &&Arc<Value>| {
            let labels: BTreeMap<String, String> =
                serde_json::from_value(other["metadata"]["labels"].clone()).unwrap_or_default();
            selectors.iter().any(|s| s.matches(&labels))
        };
        let others = self.objects.list("clusterroles", "");
        others.iter().filter(selected).any(|other| array(&other["rules"]).iter().any(&mut *each))
    }

    /// Shows each (binding, rule) of the user to `each` until it returns true.
    fn visit(&self, user: &UserInfo, namespace: &str, each: &mut dyn FnMut(&Value, &Value) -> bool) {
        let mut bindings = self.objects.list("clusterrolebindings", "");
        if !namespace.is_empty() {
            bindings.extend(self.objects.list("rolebindings", namespace));
        }
        for binding in bindings {
            let own = binding["metadata"]["namespace"].as_str().unwrap_or_default();
            if array(&binding["subjects"]).iter().any(|s| subject_is(s, user, own))
                && self.any_rule(&binding["roleRef"], own, &mut |rule| each(&binding, rule))
            {
                return;
            }
        }
    }
}

fn describe(binding: &Value) -> String {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let (name, role) = (text(&binding["metadata"]["name"]), &binding["roleRef"]);
    let namespace = text(&binding["metadata"]["namespace"]);
    let (kind, full) = if namespace.is_empty() {
        ("ClusterRoleBinding", name)
    } else {
        ("RoleBinding", format!("{name}/{namespace}"))
    };
    format!("{kind} \"{full}\" of {} \"{}\"", text(&role["kind"]), text(&role["name"]))
}

/// An empty selector of an aggregation rule selects everything, as upstream; a malformed one nothing.
fn selector(value: &Value) -> Option<Selector> {
    serde_json::from_value::<LabelSelector>(value.clone()).ok()?.try_into().ok()
}

fn subject_is(subject: &Value, user: &UserInfo, binding_namespace: &str) -> bool {
    let name = subject["name"].as_str().unwrap_or_default();
    match subject["kind"].as_str() {
        Some("User") => user.name == name,
        Some("Group") => user.groups.iter().any(|g| g == name),
        Some("ServiceAccount") => {
            let namespace = subject["namespace"].as_str().unwrap_or(binding_namespace);
            !namespace.is_empty() && user.name == service_account_name(namespace, name)
        }
        _ => false,
    }
}

/// The elements of a JSON array; none if it is something else.
pub(crate) fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn has(list: &Value, wanted: &str) -> bool {
    array(list).iter().any(|v| v == wanted || v == "*")
}

/// Whether a rule (`PolicyRule`) covers a request.
pub fn rule_allows(rule: &Value, request: &RequestInfo) -> bool {
    if !has(&rule["verbs"], &request.verb) {
        return false;
    }
    if !request.is_resource {
        return array(&rule["nonResourceURLs"])
            .iter()
            .filter_map(Value::as_str)
            .any(|pattern| path_matches(pattern, &request.path));
    }
    let names = array(&rule["resourceNames"]);
    has(&rule["apiGroups"], &request.group)
        && array(&rule["resources"])
            .iter()
            .filter_map(Value::as_str)
            .any(|pattern| resource_matches(pattern, &request.resource, &request.subresource))
        && (names.is_empty() || names.iter().any(|n| n == &request.name))
}

/// `*` at the end stands for any rest.
pub(crate) fn path_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

/// `*` is everything, `pods` no subresource, `pods/log` only that, `*/scale` that of every resource.
pub(crate) fn resource_matches(pattern: &str, resource: &str, subresource: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    match pattern.split_once('/') {
        None => subresource.is_empty() && pattern == resource,
        Some((p, s)) => !subresource.is_empty() && s == subresource && (p == "*" || p == resource),
    }
}

/// Whether `owner`'s rules together allow all that `wanted` would: the question of the escalation check.
/// A rule is broken down to single (verb, group, resource, name) or (verb, path) tuples, as upstream.
pub fn covers(owner: &[Value], wanted: &Value) -> bool {
    breakdown(wanted).iter().all(|single| owner.iter().any(|rule| rule_covers(rule, single)))
}

/// One tuple of a rule. A `*` stays a `*`: only a `*` covers it.
struct Single<'a> {
    verb: &'a str,
    what: What<'a>,
}

enum What<'a> {
    Resource { group: &'a str, resource: &'a str, name: Option<&'a str> },
    Path(&'a str),
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    array(value).iter().filter_map(Value::as_str)
}

fn breakdown(rule: &Value) -> Vec<Single<'_>> {
    let mut all = Vec::new();
    for verb in texts(&rule["verbs"]) {
        all.extend(texts(&rule["nonResourceURLs"]).map(|p| Single { verb, what: What::Path(p) }));
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                let names: Vec<Option<&str>> = match array(&rule["resourceNames"]) {
                    [] => vec![None],
                    names => names.iter().map(Value::as_str).collect(),
                };
                all.extend(
                    names
                        .into_iter()
                        .map(|name| Single { verb, what: What::Resource { group, resource, name } }),
                );
            }
        }
    }
    all
}

fn rule_covers(rule: &Value, single: &Single<'_>) -> bool {
    if !has(&rule["verbs"], single.verb) {
        return false;
    }
    match single.what {
        What::Path(path) => texts(&rule["nonResourceURLs"]).any(|p| p == path || path_matches(p, path)),
        What::Resource { group, resource, name } => {
            let (plain, sub) = resource.split_once('/').unwrap_or((resource, ""));
            let names = array(&rule["resourceNames"]);
            has(&rule["apiGroups"], group)
                && texts(&rule["resources"]).any(|p| p == resource || resource_matches(p, plain, sub))
                && (names.is_empty() || name.is_some_and(|n| names.iter().any(|own| own == n)))
        }
    }
}
