//! The bootstrap policy: roles, bindings and priority classes that exist from the start.
//!
//! The table is `policy.yaml`. At each start what is missing is made, and what lost rules or subjects gets them back,
//! unless the object says `rbac.authorization.kubernetes.io/autoupdate: "false"`. What somebody added stays.

use kube::api::{ApiResource, DynamicObject, ListParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::auth::rbac::{array, covers};

const TABLE: &str = include_str!("policy.yaml");
const RBAC: &str = "rbac.authorization.k8s.io";
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Table {
    cluster_roles: Vec<Role>,
    cluster_role_bindings: Vec<Binding>,
    priority_classes: Vec<Class>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Role {
    name: String,
    #[serde(default)]
    rules: Vec<Rule>,
    /// It is part of this gathering role.
    #[serde(default)]
    aggregate: String,
    /// It gathers these parts.
    #[serde(default)]
    gathers: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    groups: String,
    #[serde(default)]
    resources: String,
    #[serde(default)]
    paths: String,
    verbs: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Binding {
    role: String,
    subjects: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Class {
    name: String,
    value: i64,
    description: String,
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

fn aggregation_label(part: &str) -> String {
    format!("{RBAC}/aggregate-to-{part}")
}

impl Rule {
    fn object(&self) -> Value {
        let verbs = words(&self.verbs);
        if !self.paths.is_empty() {
            return json!({"verbs": verbs, "nonResourceURLs": words(&self.paths)});
        }
        let mut groups = words(&self.groups);
        groups.iter_mut().filter(|g| **g == "core").for_each(|g| *g = "");
        if groups.is_empty() {
            groups.push("");
        }
        json!({"verbs": verbs, "apiGroups": groups, "resources": words(&self.resources)})
    }
}

fn metadata(name: &str) -> Value {
    json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {AUTOUPDATE: "true"},
    })
}

impl Role {
    fn object(&self) -> Value {
        let mut metadata = metadata(&self.name);
        if !self.aggregate.is_empty() {
            metadata["labels"][aggregation_label(&self.aggregate)] = json!("true");
        }
        let mut role = json!({
            "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRole", "metadata": metadata,
            "rules": self.rules.iter().map(Rule::object).collect::<Vec<_>>(),
        });
        if !self.gathers.is_empty() {
            let selectors: Vec<Value> = words(&self.gathers)
                .iter()
                .map(|part| json!({"matchLabels": {aggregation_label(part): "true"}}))
                .collect();
            role["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
        }
        role
    }
}

impl Binding {
    fn object(&self) -> Value {
        let subjects: Vec<Value> = self.subjects.iter().filter_map(|text| subject(text)).collect();
        json!({
            "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRoleBinding", "metadata": metadata(&self.role),
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": self.role},
            "subjects": subjects,
        })
    }
}

/// `Group system:masters`, `ServiceAccount kube-system/kube-dns`.
fn subject(text: &str) -> Option<Value> {
    let (kind, name) = text.split_once(' ')?;
    match kind {
        "ServiceAccount" => {
            let (namespace, name) = name.split_once('/')?;
            Some(json!({"kind": kind, "namespace": namespace, "name": name}))
        }
        _ => Some(json!({"apiGroup": RBAC, "kind": kind, "name": name})),
    }
}

/// All objects of the bootstrap policy, roles before bindings.
pub fn objects() -> Result<Vec<Value>, anyhow::Error> {
    let table: Table = serde_saphyr::from_str(TABLE)?;
    let roles = table.cluster_roles.iter().map(Role::object);
    let bindings = table.cluster_role_bindings.iter().map(Binding::object);
    let classes = table.priority_classes.iter().map(|class| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": class.name},
            "value": class.value, "description": class.description,
            "globalDefault": false, "preemptionPolicy": "PreemptLowerPriority",
        })
    });
    Ok(roles.chain(bindings).chain(classes).collect())
}

/// What must be written so that the object grants at least what is wanted; none if nothing.
fn repaired(existing: &Value, wanted: &Value) -> Option<Value> {
    if existing["metadata"]["annotations"][AUTOUPDATE] == "false" {
        return None;
    }
    let mut object = existing.clone();
    let has = array(&existing["rules"]);
    let rules: Vec<Value> = array(&wanted["rules"]).iter().filter(|r| !covers(has, r)).cloned().collect();
    let have = array(&existing["subjects"]);
    let same = |a: &Value, b: &Value| ["kind", "name", "namespace"].iter().all(|f| a[*f] == b[*f]);
    let subjects: Vec<Value> =
        array(&wanted["subjects"]).iter().filter(|s| !have.iter().any(|h| same(h, s))).cloned().collect();
    let aggregation = existing["aggregationRule"] != wanted["aggregationRule"];
    if rules.is_empty() && subjects.is_empty() && !aggregation {
        return None;
    }
    if !rules.is_empty() {
        object["rules"] = Value::Array([has, &rules].concat());
    }
    if !subjects.is_empty() {
        object["subjects"] = Value::Array([have, &subjects].concat());
    }
    if aggregation {
        object["aggregationRule"] = wanted["aggregationRule"].clone();
    }
    Some(object)
}

/// Makes the cluster hold the bootstrap policy. `client` must be a member of `system:masters`.
pub async fn reconcile(client: &Client) -> Result<(), anyhow::Error> {
    let wanted = objects()?;
    for (group, kind, plural) in [
        (RBAC, "ClusterRole", "clusterroles"),
        (RBAC, "ClusterRoleBinding", "clusterrolebindings"),
        ("scheduling.k8s.io", "PriorityClass", "priorityclasses"),
    ] {
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", kind), plural);
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let existing = api.list(&ListParams::default()).await?.items;
        for object in wanted.iter().filter(|o| o["kind"] == kind) {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            write(&api, existing.iter().find(|e| e.metadata.name.as_deref() == Some(name)), object).await?;
        }
    }
    Ok(())
}

async fn write(
    api: &Api<DynamicObject>,
    existing: Option<&DynamicObject>,
    wanted: &Value,
) -> Result<(), anyhow::Error> {
    let Some(existing) = existing else {
        let made = api.create(&PostParams::default(), &serde_json::from_value(wanted.clone())?).await;
        return match made {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            other => other.map(drop).map_err(Into::into),
        };
    };
    let name = existing.metadata.name.clone().unwrap_or_default();
    if let Some(object) = repaired(&serde_json::to_value(existing)?, wanted) {
        tracing::info!(object = %name, "the bootstrap policy was incomplete and is repaired");
        api.replace(&name, &PostParams::default(), &serde_json::from_value(object)?).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_parses_and_names_are_unique() {
        let objects = objects().unwrap();
        let mut names: Vec<String> =
            objects.iter().map(|o| format!("{}/{}", o["kind"], o["metadata"]["name"])).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        for binding in objects.iter().filter(|o| o["kind"] == "ClusterRoleBinding") {
            let role = &binding["roleRef"]["name"];
            assert!(objects.iter().any(|o| o["kind"] == "ClusterRole" && &o["metadata"]["name"] == role));
        }
    }

    #[test]
    fn a_role_gets_its_rules_back_and_keeps_what_was_added() {
        let wanted =
            objects().unwrap().into_iter().find(|o| o["metadata"]["name"] == "system:basic-user").unwrap();
        assert_eq!(repaired(&wanted, &wanted), None);
        let mut damaged = wanted.clone();
        let added = json!({"verbs": ["get"], "apiGroups": ["x"], "resources": ["ys"]});
        damaged["rules"] = json!([added]);
        let object = repaired(&damaged, &wanted).unwrap();
        assert_eq!(array(&object["rules"]).len(), 3);
        assert_eq!(object["rules"][0], added);
        damaged["metadata"]["annotations"][AUTOUPDATE] = json!("false");
        assert_eq!(repaired(&damaged, &wanted), None);
    }
}
