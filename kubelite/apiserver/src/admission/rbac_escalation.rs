//! Nobody gives what they don't have: a role may not hold, and a binding not hand out, more than the writer's own rules.
//!
//! The ways around are the verbs `escalate` (on the role) and `bind` (on the role that is referred to), as upstream.

use std::sync::Arc;

use async_trait::async_trait;
use kubelite_api::status::ApiError;
use serde_json::{Value, json};

use crate::admission::{Admission, Attributes, Operation};
use crate::auth::chain::Chain;
use crate::auth::rbac::{array, covers};
use crate::auth::{Authorizer, Objects};
use crate::request::RequestInfo;

const GROUP: &str = "rbac.authorization.k8s.io";

/// The check over the cached roles.
pub struct RbacEscalation {
    objects: Arc<dyn Objects>,
    authorizer: Arc<Chain>,
}

impl RbacEscalation {
    /// Judges by these objects and this authorizer.
    pub fn new(objects: Arc<dyn Objects>, authorizer: Arc<Chain>) -> Self {
        RbacEscalation { objects, authorizer }
    }

    /// Whether the user may use the verb `escalate` or `bind` on this role.
    fn excused(&self, attributes: &Attributes<'_>, verb: &str, resource: &str, name: &str) -> bool {
        let request = RequestInfo {
            verb: verb.to_owned(),
            resource: resource.to_owned(),
            name: name.to_owned(),
            ..attributes.request.clone()
        };
        self.authorizer.authorize(attributes.user, &request).allowed()
    }

    fn role(&self, attributes: &Attributes<'_>, role: &Value) -> Result<(), ApiError> {
        let same = |field: &str| attributes.old.is_some_and(|old| old[field] == role[field]);
        if same("rules") && same("aggregationRule") {
            return Ok(());
        }
        if self.excused(attributes, "escalate", &attributes.request.resource, attributes.name(role)) {
            return Ok(());
        }
        let mut rules = array(&role["rules"]).to_vec();
        if !role["aggregationRule"].is_null() && !same("aggregationRule") {
            // What it will gather is not known beforehand.
            rules.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
            rules.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
        }
        self.compare(attributes, role, &rules)
    }

    fn binding(&self, attributes: &Attributes<'_>, binding: &Value) -> Result<(), ApiError> {
        let same = |field: &str| attributes.old.is_some_and(|old| old[field] == binding[field]);
        if same("roleRef") && same("subjects") {
            return Ok(());
        }
        let role_ref = &binding["roleRef"];
        let name = role_ref["name"].as_str().unwrap_or_default();
        let resource = if role_ref["kind"] == "Role" { "roles" } else { "clusterroles" };
        if self.excused(attributes, "bind", resource, name) {
            return Ok(());
        }
        let namespace = if resource == "roles" { attributes.request.namespace.as_str() } else { "" };
        if self.objects.get(resource, namespace, name).is_none() {
            return Err(ApiError::not_found(&format!("{resource}.{GROUP}"), name));
        }
        let rules = self.authorizer.rbac().role_rules(role_ref, &attributes.request.namespace);
        self.compare(attributes, binding, &rules)
    }

    fn compare(&self, attributes: &Attributes<'_>, object: &Value, rules: &[Value]) -> Result<(), ApiError> {
        let own = self.authorizer.rbac().rules(attributes.user, &attributes.request.namespace);
        let missing: Vec<String> =
            rules.iter().filter(|rule| !covers(&own, rule)).map(Value::to_string).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let why = format!(
            "user \"{}\" (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
            attributes.user.name,
            attributes.user.groups,
            missing.join("\n")
        );
        Err(attributes.forbid(object, &why))
    }
}

#[async_trait]
impl Admission for RbacEscalation {
    fn name(&self) -> &'static str {
        "RbacEscalation"
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), ApiError> {
        let written = matches!(attributes.operation, Operation::Create | Operation::Update);
        if attributes.request.group != GROUP || !written {
            return Ok(());
        }
        match attributes.request.resource.as_str() {
            "roles" | "clusterroles" => self.role(attributes, object),
            "rolebindings" | "clusterrolebindings" => self.binding(attributes, object),
            _ => Ok(()),
        }
    }
}
