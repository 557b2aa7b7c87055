//! Disruption budgets.

use serde_json::Value;

use super::report::{Report, text};
use crate::labels::LabelSelector;

pub(super) fn budget(report: &mut Report, new: &Value, _: Option<&Value>) {
    let spec = new.get("spec").unwrap_or(&Value::Null);
    let (least, most) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
    if least.is_some() && most.is_some() {
        report.invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set");
    }
    report.share("spec.minAvailable", least);
    report.share("spec.maxUnavailable", most);
    if let Err(error) = LabelSelector::from_value(spec.get("selector").unwrap_or(&Value::Null)) {
        report.invalid("spec.selector", &spec["selector"], &error.to_string());
    }
    let policy = text(spec, "/unhealthyPodEvictionPolicy");
    if !policy.is_empty() {
        report.one_of("spec.unhealthyPodEvictionPolicy", policy, &["AlwaysAllow", "IfHealthyBudget"]);
    }
    report.not_negative("status.disruptionsAllowed", new.pointer("/status/disruptionsAllowed"));
}
