//! Evictions: a deletion that a disruption budget may refuse. What is decided; the verb carries it out.

use jiff::Timestamp;
use kubelite_api::labels::LabelSelector;
use kubelite_api::object;
use kubelite_api::scalar::format_time;
use kubelite_api::status::ApiError;
use serde_json::{Value, json};

/// Evictions of one budget that the controller has not seen yet; then it has to come first.
const MAX_DISRUPTED: usize = 2000;
/// Seconds after which a client may ask again while the controller has not seen a budget.
const PROCESSING_RETRY: u32 = 10;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
const SEVERAL: &str =
    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";

/// Whether a budget has to be asked: a pod that doesn't serve, or goes already, is nobody's loss.
pub fn needs_budget(pod: &Value) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    !matches!(phase, "Succeeded" | "Failed" | "Pending") && object::deletion_timestamp(pod).is_none()
}

/// The one budget among `budgets` that is about the pod.
pub fn budget_of<'a>(
    pod: &Value,
    budgets: impl IntoIterator<Item = &'a Value>,
) -> Result<Option<&'a Value>, ApiError> {
    let empty = serde_json::Map::new();
    let labels = pod.pointer("/metadata/labels").and_then(Value::as_object).unwrap_or(&empty);
    let selects = |budget: &&Value| {
        let selector = budget.pointer("/spec/selector").filter(|selector| selector.is_object());
        // An empty selector is of all pods, a missing one of none.
        let parsed = selector.and_then(|selector| LabelSelector::from_value(selector).ok());
        parsed.is_some_and(|selector| selector.matches_map(labels))
    };
    let mut mine = budgets.into_iter().filter(selects);
    match (mine.next(), mine.next()) {
        (_, Some(_)) => Err(ApiError::internal(SEVERAL)),
        (one, None) => Ok(one),
    }
}

/// Whether a pod that isn't ready may go without being counted, by the budget's policy for such pods.
pub fn may_go_unready(pod: &Value, budget: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let always = budget.pointer("/spec/unhealthyPodEvictionPolicy") == Some(&json!("AlwaysAllow"));
    let budget_is_kept = number("desiredHealthy") > 0 && number("currentHealthy") >= number("desiredHealthy");
    !ready && (always || budget_is_kept)
}

/// The budget after one more eviction, of this pod; 429 if it allows none.
pub fn spend(budget: &Value, pod: &str, now: Timestamp) -> Result<Value, ApiError> {
    let name = object::name(budget);
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    if number("observedGeneration") < object::generation(budget) {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(refused(&why, Some(PROCESSING_RETRY)));
    }
    let disrupted = budget.pointer("/status/disruptedPods").and_then(Value::as_object);
    if disrupted.is_some_and(|pods| pods.len() > MAX_DISRUPTED) {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(ApiError::forbidden("poddisruptionbudgets.policy", name, why));
    }
    let allowed = number("disruptionsAllowed");
    if allowed <= 0 {
        let (needed, there) = (number("desiredHealthy"), number("currentHealthy"));
        let why =
            format!("The disruption budget {name} needs {needed} healthy pods and has {there} currently");
        return Err(refused(&why, None));
    }
    let mut spent = budget.clone();
    spent["status"]["disruptionsAllowed"] = json!(allowed - 1);
    if !spent["status"]["disruptedPods"].is_object() {
        spent["status"]["disruptedPods"] = json!({});
    }
    spent["status"]["disruptedPods"][pod] = json!(format_time(now));
    Ok(spent)
}

fn refused(why: &str, retry: Option<u32>) -> ApiError {
    let mut error = ApiError::new(429, "TooManyRequests", REFUSED);
    error.details = json!({"causes": [{"reason": "DisruptionBudget", "message": why}]});
    if let Some(seconds) = retry {
        error.details["retryAfterSeconds"] = json!(seconds);
    }
    error
}

/// The pod with the condition that says why it goes (KEP-3329).
pub fn mark(pod: &Value, now: Timestamp) -> Value {
    let mut marked = pod.clone();
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastProbeTime": null, "lastTransitionTime": format_time(now),
    });
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let already = conditions.iter().any(|c| c["type"] == "DisruptionTarget" && c["status"] == "True");
    if !already && marked["status"].is_object() {
        let others = conditions.into_iter().filter(|c| c["type"] != "DisruptionTarget");
        marked["status"]["conditions"] = others.chain([condition]).collect();
    }
    marked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(allowed: i64) -> Value {
        json!({"metadata": {"name": "b", "generation": 2}, "spec": {"selector": {"matchLabels": {"app": "x"}}},
               "status": {"observedGeneration": 2, "disruptionsAllowed": allowed, "currentHealthy": 3, "desiredHealthy": 3 - allowed}})
    }

    fn pod(phase: &str, ready: &str) -> Value {
        json!({"metadata": {"name": "p", "labels": {"app": "x"}},
               "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}})
    }

    #[test]
    fn a_budget_is_spent_until_nothing_is_left() {
        let spent = spend(&budget(1), "p", Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(spent["status"]["disruptedPods"], json!({"p": "1970-01-01T00:00:00Z"}));
        let error = spend(&spent, "q", Timestamp::UNIX_EPOCH).unwrap_err();
        assert_eq!(error.code, 429);
        let why = "The disruption budget b needs 2 healthy pods and has 3 currently";
        assert_eq!(error.details["causes"][0]["message"], why);
        let mut unseen = budget(1);
        unseen["metadata"]["generation"] = json!(3);
        assert_eq!(spend(&unseen, "p", Timestamp::UNIX_EPOCH).unwrap_err().details["retryAfterSeconds"], 10);
    }

    #[test]
    fn who_is_asked() {
        assert!(needs_budget(&pod("Running", "False")) && !needs_budget(&pod("Pending", "False")));
        let (mine, other) = (budget(0), json!({"spec": {"selector": {"matchLabels": {"app": "y"}}}}));
        let (all, none) = (json!({"spec": {"selector": {}}}), json!({"spec": {}}));
        let pod = pod("Running", "True");
        assert_eq!(budget_of(&pod, [&other, &none, &mine]).unwrap(), Some(&mine));
        assert_eq!(budget_of(&pod, [&mine, &all]).unwrap_err().code, 500);
        assert_eq!(budget_of(&pod, [&other]).unwrap(), None);
    }

    #[test]
    fn a_pod_that_is_not_ready_goes_if_the_others_suffice() {
        let mut lacking = budget(0);
        lacking["status"]["currentHealthy"] = json!(2);
        let mut always = lacking.clone();
        always["spec"]["unhealthyPodEvictionPolicy"] = json!("AlwaysAllow");
        for (ready, budget, expected) in [
            ("False", &budget(0), true),
            ("False", &lacking, false),
            ("False", &always, true),
            ("True", &always, false),
        ] {
            assert_eq!(may_go_unready(&pod("Running", ready), budget), expected);
        }
        let marked = mark(&pod("Running", "True"), Timestamp::UNIX_EPOCH);
        assert_eq!(marked["status"]["conditions"].as_array().map(Vec::len), Some(2));
        assert_eq!(mark(&marked, Timestamp::now()), marked);
    }
}
