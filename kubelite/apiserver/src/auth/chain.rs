//! The authorizers in their order: masters, public paths, Node, RBAC.

use std::sync::Arc;

use crate::auth::node::Node;
use crate::auth::rbac::Rbac;
use crate::auth::{Authorizer, Decision, Objects};
use crate::request::{RequestInfo, UserInfo};

/// The group that may do everything, whatever the roles say; only a certificate of the cluster CA gives it.
pub const MASTERS: &str = "system:masters";
/// Whom load balancers and probes ask before any role exists.
const PUBLIC: &[&str] = &["/healthz", "/livez", "/readyz", "/version"];

/// The cluster's authorizer.
pub struct Chain {
    node: Node,
    rbac: Arc<Rbac>,
}

impl Chain {
    /// Judges by these objects.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        Chain { node: Node::new(objects.clone()), rbac: Arc::new(Rbac::new(objects)) }
    }

    /// The RBAC part, for rule reviews and the escalation check.
    pub fn rbac(&self) -> Arc<Rbac> {
        self.rbac.clone()
    }
}

impl Authorizer for Chain {
    fn authorize(&self, user: &UserInfo, request: &RequestInfo) -> Decision {
        if user.groups.iter().any(|g| g == MASTERS) {
            return Decision::Allow(format!("group {MASTERS}"));
        }
        if !request.is_resource && request.verb == "get" && PUBLIC.contains(&request.path.as_str()) {
            return Decision::Allow("public path".to_owned());
        }
        let node = self.node.authorize(user, request);
        if let Some(decision @ Decision::Allow(_)) = node {
            return decision;
        }
        match (self.rbac.authorize(user, request), node) {
            (allow @ Decision::Allow(_), _) => allow,
            (_, Some(deny)) => deny,
            (deny, None) => deny,
        }
    }
}
