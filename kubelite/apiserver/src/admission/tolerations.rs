//! DefaultTolerationSeconds: a pod stays on a node that is not ready or unreachable for five minutes, unless it says
//! otherwise.

use async_trait::async_trait;
use kubelite_api::status::ApiError;
use serde_json::{Value, json};

use crate::admission::{Admission, Attributes, Operation};
use crate::auth::rbac::array;

/// The taints that the node life-cycle controller sets.
const TAINTS: &[&str] = &["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
/// Until the pod is evicted.
const SECONDS: i64 = 300;

/// Fills in tolerations.
pub struct DefaultTolerationSeconds;

#[async_trait]
impl Admission for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    async fn admit(&self, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), ApiError> {
        let written = matches!(attributes.operation, Operation::Create | Operation::Update);
        if !attributes.is("", "pods") || !written || !pod["spec"].is_object() {
            return Ok(());
        }
        let mut tolerations = array(&pod["spec"]["tolerations"]).to_vec();
        let before = tolerations.len();
        for key in TAINTS {
            if !tolerations.iter().any(|t| tolerates(t, key)) {
                tolerations.push(json!({
                    "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
                }));
            }
        }
        if tolerations.len() != before {
            pod["spec"]["tolerations"] = Value::Array(tolerations);
        }
        Ok(())
    }
}

fn tolerates(toleration: &Value, taint: &str) -> bool {
    let key = toleration["key"].as_str().unwrap_or_default();
    let effect = toleration["effect"].as_str().unwrap_or_default();
    (key == taint || key.is_empty()) && (effect == "NoExecute" || effect.is_empty())
}
