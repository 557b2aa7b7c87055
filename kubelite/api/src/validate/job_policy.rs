//! What a Job does with pods that fail and with indexes that succeed: its three policies.

use serde_json::Value;

use super::names;
use super::report::{Report, int, list, text};
use crate::indexes::Indexes;

/// Rules of one policy, and patterns of one rule.
const MAX_RULES: usize = 20;
/// Exit codes of one rule.
const MAX_CODES: usize = 255;
/// The text of one rule's indexes.
const MAX_INDEXES: usize = 64 << 10;

pub(super) fn policies(report: &mut Report, spec: &Value, path: &str, indexed: bool) {
    let failure = spec.get("podFailurePolicy").filter(|policy| !policy.is_null());
    let replacement = text(spec, "/podReplacementPolicy");
    if !replacement.is_empty() {
        let both: &[&str] = &["Failed", "TerminatingOrFailed"];
        let supported = if failure.is_some() { &["Failed"] } else { both };
        report.one_of(format!("{path}.podReplacementPolicy"), replacement, supported);
    }
    if let Some(failure) = failure {
        pod_failure_policy(report, spec, failure, &format!("{path}.podFailurePolicy"));
    }
    if let Some(success) = spec.get("successPolicy").filter(|policy| !policy.is_null()) {
        let at = format!("{path}.successPolicy");
        if indexed {
            success_policy(report, spec, success, &at);
        } else {
            report.invalid(at, success, "requires indexed completion mode");
        }
    }
}

fn pod_failure_policy(report: &mut Report, spec: &Value, policy: &Value, path: &str) {
    let rules = list(policy, "/rules");
    at_most(report, &format!("{path}.rules"), rules.len(), MAX_RULES);
    for (i, rule) in rules.iter().enumerate() {
        let at = format!("{path}.rules[{i}]");
        let action = text(rule, "/action");
        if action == "FailIndex" && int(spec, "/backoffLimitPerIndex").is_none() {
            report.invalid(
                format!("{at}.action"),
                &action.into(),
                "requires the backoffLimitPerIndex to be set",
            );
        }
        match action {
            "" => report.required(format!("{at}.action"), ""),
            action => {
                report.one_of(format!("{at}.action"), action, &["Count", "FailIndex", "FailJob", "Ignore"]);
            }
        }
        let codes = rule.get("onExitCodes").filter(|codes| !codes.is_null());
        let conditions = list(rule, "/onPodConditions");
        match (codes, conditions) {
            (Some(_), [_, ..]) => {
                let detail = "specifying both OnExitCodes and OnPodConditions is not supported";
                report.invalid(&at, rule, detail);
            }
            (None, []) => {
                report.invalid(&at, rule, "specifying one of OnExitCodes and OnPodConditions is required");
            }
            (Some(codes), []) => exit_codes(report, spec, codes, &format!("{at}.onExitCodes")),
            (None, conditions) => pod_conditions(report, conditions, &format!("{at}.onPodConditions")),
        }
    }
}

fn exit_codes(report: &mut Report, spec: &Value, codes: &Value, path: &str) {
    let operator = text(codes, "/operator");
    match operator {
        "" => report.required(format!("{path}.operator"), ""),
        operator => report.one_of(format!("{path}.operator"), operator, &["In", "NotIn"]),
    }
    let container = text(codes, "/containerName");
    let lists = ["/template/spec/containers", "/template/spec/initContainers"].map(|at| list(spec, at));
    if !container.is_empty() && !lists.iter().flat_map(|l| l.iter()).any(|c| text(c, "/name") == container) {
        let detail = "must be one of the container or initContainer names in the pod template";
        report.invalid(format!("{path}.containerName"), &container.into(), detail);
    }
    let values = list(codes, "/values");
    if values.is_empty() {
        report.invalid(format!("{path}.values"), &codes["values"], "at least one value is required");
    }
    at_most(report, &format!("{path}.values"), values.len(), MAX_CODES);
    for (i, value) in values.iter().enumerate() {
        if values[..i].contains(value) {
            report.duplicate(format!("{path}.values[{i}]"), value);
        }
        if operator == "In" && *value == 0 {
            report.invalid(format!("{path}.values[{i}]"), value, "must not be 0 for the In operator");
        }
    }
    if !values.is_sorted_by_key(Value::as_i64) {
        report.invalid(format!("{path}.values"), &codes["values"], "must be ordered");
    }
}

fn pod_conditions(report: &mut Report, patterns: &[Value], path: &str) {
    at_most(report, path, patterns.len(), MAX_RULES);
    for (i, pattern) in patterns.iter().enumerate() {
        let (at, kind) = (format!("{path}[{i}]"), text(pattern, "/type"));
        report.each(&format!("{at}.type"), kind, &names::qualified_name(kind));
        let status = text(pattern, "/status");
        // Only a Job has the default; in a CronJob's template it may be missing.
        if !status.is_empty() {
            report.one_of(format!("{at}.status"), status, &["False", "True", "Unknown"]);
        }
    }
}

fn success_policy(report: &mut Report, spec: &Value, policy: &Value, path: &str) {
    let rules = list(policy, "/rules");
    if rules.is_empty() {
        report.required(
            format!("{path}.rules"),
            "at least one rules must be specified when the successPolicy is specified",
        );
    }
    at_most(report, &format!("{path}.rules"), rules.len(), MAX_RULES);
    let completions = int(spec, "/completions").and_then(|n| i32::try_from(n).ok()).unwrap_or(i32::MAX);
    for (i, rule) in rules.iter().enumerate() {
        let at = format!("{path}.rules[{i}]");
        let (indexes, count) =
            (rule.get("succeededIndexes").and_then(Value::as_str), int(rule, "/succeededCount"));
        if indexes.is_none() && count.is_none() {
            report.required(&at, "at least one of succeededCount or succeededIndexes must be specified");
        }
        let mut limit = i64::from(completions);
        if let Some(text) = indexes {
            at_most(report, &format!("{at}.succeededIndexes"), text.len(), MAX_INDEXES);
            match Indexes::parse(text, completions) {
                Ok(parsed) => limit = parsed.count().into(),
                Err(error) => {
                    let detail = format!("error parsing succeededIndexes: {error}");
                    report.invalid(format!("{at}.succeededIndexes"), &text.into(), &detail);
                }
            }
        }
        let field = format!("{at}.succeededCount");
        match count {
            Some(count) if count < 1 => report.invalid(field, &count.into(), "must be greater than 0"),
            Some(count) if count > limit => {
                let whose = if indexes.is_some() {
                    "the number of indexes in the specified succeededIndexes field"
                } else {
                    "the number of specified completions"
                };
                report.invalid(
                    field,
                    &count.into(),
                    &format!("must be less than or equal to {limit} ({whose})"),
                );
            }
            _ => {}
        }
    }
}

fn at_most(report: &mut Report, field: &str, found: usize, limit: usize) {
    if found > limit {
        report.too_many(field, found, limit);
    }
}
