//! What a failed pod means by the failure policy (KEP-3329), and when enough has succeeded (KEP-3998). No I/O.

use super::spec;
use crate::pods;
use k8s_openapi::api::batch::v1::{Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use kube::ResourceExt;
use kubelite_api::indexes::Indexes;

/// What a failed pod means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Judgement {
    /// One failure more.
    Count,
    /// As if it had not been.
    Ignore,
    /// The index has failed for good.
    FailIndex,
    /// The job has failed; the sentence says why.
    FailJob(String),
}

/// By the first rule that matches; a pod that has not failed completely is only counted.
pub(super) fn judge(job: &Job, pod: &Pod) -> Judgement {
    let rules = spec::of(job).pod_failure_policy.as_ref().map_or(&[][..], |policy| &policy.rules);
    if pods::phase(pod) != "Failed" {
        return Judgement::Count;
    }
    let matches = rules.iter().enumerate().filter_map(|(i, rule)| Some((i, rule, matching(rule, pod)?)));
    for (i, rule, what) in matches {
        return match rule.action.as_str() {
            "Ignore" => Judgement::Ignore,
            "FailIndex" => Judgement::FailIndex,
            "FailJob" => Judgement::FailJob(format!("{what} matching FailJob rule at index {i}")),
            "Count" => Judgement::Count,
            // A later version's action: as upstream, the next rule decides.
            _ => continue,
        };
    }
    Judgement::Count
}

/// What of the pod a rule is about.
fn matching(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    if let Some(codes) = &rule.on_exit_codes {
        let (container, code) = failed_container(codes, pod)?;
        let container = &container.name;
        return Some(format!(
            "Container {container} for pod {namespace}/{name} failed with exit code {code}"
        ));
    }
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let fits = |condition: &&PodCondition| {
        let mut patterns = rule.on_pod_conditions.iter().flatten();
        patterns
            .any(|p| p.type_ == condition.type_ && p.status.as_deref().unwrap_or("True") == condition.status)
    };
    let found = conditions.iter().find(fits)?;
    Some(format!("Pod {namespace}/{name} has condition {}", found.type_))
}

fn failed_container<'a>(
    codes: &PodFailurePolicyOnExitCodesRequirement,
    pod: &'a Pod,
) -> Option<(&'a ContainerStatus, i32)> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let ended = all.filter_map(|c| Some((c, c.state.as_ref()?.terminated.as_ref()?.exit_code)));
    ended.filter(|(_, code)| *code != 0).find(|(container, code)| {
        let named = codes.container_name.as_ref().is_none_or(|name| *name == container.name);
        let listed = codes.values.contains(code);
        named && if codes.operator == "In" { listed } else { codes.operator == "NotIn" && !listed }
    })
}

/// The first rule by which enough indexes have succeeded.
pub(super) fn success_rule(job: &Job, completions: i32, completed: &Indexes) -> Option<usize> {
    let rules = spec::of(job).success_policy.as_ref().map_or(&[][..], |policy| &policy.rules);
    rules.iter().position(|rule| {
        let Some(text) = &rule.succeeded_indexes else {
            return rule.succeeded_count.is_some_and(|count| completed.count() >= count);
        };
        let Ok(wanted) = Indexes::parse(text, completions) else { return false };
        completed.common(&wanted) >= rule.succeeded_count.unwrap_or(wanted.count())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn job(spec: &Value) -> Job {
        let mut job = json!({"metadata": {"name": "j"}, "spec": {"template": {}}});
        spec.as_object().unwrap().iter().for_each(|(k, v)| job["spec"][k] = v.clone());
        serde_json::from_value(job).unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_counts() {
        let job = job(&json!({"podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1, 42]}},
            {"action": "FailJob", "onPodConditions": [{"type": "Bad"}]}]}}));
        let pod = |phase: &str, container: &str, code: i32, condition: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "status": {"phase": phase,
                "conditions": [{"type": condition, "status": "True"}],
                "containerStatuses": [{"name": container, "ready": false, "restartCount": 0, "image": "", "imageID": "",
                    "state": {"terminated": {"exitCode": code}}}]}}))
            .unwrap()
        };
        let by_code = "Container main for pod ns/p failed with exit code 42 matching FailJob rule at index 1";
        let by_condition = "Pod ns/p has condition Bad matching FailJob rule at index 3";
        for (pod, expected) in [
            (pod("Failed", "main", 42, "DisruptionTarget"), Judgement::Ignore),
            (pod("Failed", "main", 42, "x"), Judgement::FailJob(by_code.into())),
            (pod("Failed", "other", 42, "x"), Judgement::Count),
            (pod("Failed", "main", 3, "x"), Judgement::FailIndex),
            (pod("Failed", "main", 1, "Bad"), Judgement::FailJob(by_condition.into())),
            (pod("Failed", "main", 0, "x"), Judgement::Count),
            (pod("Running", "main", 42, "DisruptionTarget"), Judgement::Count),
        ] {
            assert_eq!(judge(&job, &pod), expected);
        }
    }

    #[test]
    fn enough_has_succeeded() {
        let job = job(&json!({"successPolicy": {"rules": [
            {"succeededIndexes": "0,2"}, {"succeededIndexes": "3-6", "succeededCount": 2}, {"succeededCount": 5}]}}));
        for (completed, expected) in [
            ("", None),
            ("0", None),
            ("0,2", Some(0)),
            ("3,6", Some(1)),
            ("1,3,7-9", Some(2)),
            ("1,3,7-8", None),
        ] {
            assert_eq!(
                success_rule(&job, 10, &Indexes::parse(completed, 10).unwrap()),
                expected,
                "{completed}"
            );
        }
    }
}
