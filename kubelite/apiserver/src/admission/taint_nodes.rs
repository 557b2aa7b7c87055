//! TaintNodesByCondition: a node is tainted not-ready from its first moment; the node life-cycle controller takes it away.

use async_trait::async_trait;
use kubelite_api::status::ApiError;
use serde_json::{Value, json};

use crate::admission::{Admission, Attributes};
use crate::auth::rbac::array;

const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// Taints new nodes.
pub struct TaintNodesByCondition;

#[async_trait]
impl Admission for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    async fn admit(&self, attributes: &Attributes<'_>, node: &mut Value) -> Result<(), ApiError> {
        if !attributes.creates("", "nodes", node) {
            return Ok(());
        }
        let mut taints = array(&node["spec"]["taints"]).to_vec();
        if !taints.iter().any(|t| t["key"] == NOT_READY && t["effect"] == "NoSchedule") {
            taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
            node["spec"]["taints"] = Value::Array(taints);
        }
        Ok(())
    }
}
