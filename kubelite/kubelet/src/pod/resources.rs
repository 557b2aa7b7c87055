//! A container's requests and limits as the kernel's weights and limits. Pure.

use crate::runtime::Resources;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// CFS period, microseconds.
const CPU_PERIOD: i64 = 100_000;
/// Least CPU quota that the kernel takes, microseconds.
const MIN_QUOTA: i64 = 1000;
/// Least CPU weight.
const MIN_SHARES: i64 = 2;
/// Thousandths of a CPU.
fn millis(quantity: Option<&Quantity>) -> Option<i64> {
    amount(quantity).map(|a| (a * 1000.0).ceil() as i64)
}

fn bytes(quantity: Option<&Quantity>) -> Option<i64> {
    amount(quantity).map(|a| a.ceil() as i64)
}

/// The number that a quantity stands for; None for what is none.
fn amount(quantity: Option<&Quantity>) -> Option<f64> {
    let text = quantity?.0.as_str();
    let at = text.find(|c: char| c.is_ascii_alphabetic() && !matches!(c, 'e' | 'E')).unwrap_or(text.len());
    // An E may be an exponent's or the suffix's.
    let (number, suffix) = match (text.strip_suffix("Ei"), text.strip_suffix('E')) {
        (Some(number), _) => (number, "Ei"),
        (_, Some(number)) => (number, "E"),
        _ => text.split_at(at),
    };
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        "Pi" => 1_125_899_906_842_624.0,
        "Ei" => 1_152_921_504_606_846_976.0,
        _ => return None,
    };
    number.parse::<f64>().ok().map(|n| n * factor)
}

/// Weights and limits of a container on a node with `node_memory` bytes.
pub(super) fn of(pod: &Pod, container: &Container, node_memory: u64) -> Resources {
    let wanted = container.resources.clone().unwrap_or_default();
    let get =
        |map: &Option<BTreeMap<String, Quantity>>, key: &str| map.as_ref().and_then(|m| m.get(key)).cloned();
    let cpu_limit = millis(get(&wanted.limits, "cpu").as_ref());
    let cpu_request = millis(get(&wanted.requests, "cpu").as_ref()).or(cpu_limit).unwrap_or(0);
    let memory_limit = bytes(get(&wanted.limits, "memory").as_ref()).unwrap_or(0);
    let memory_request = bytes(get(&wanted.requests, "memory").as_ref()).unwrap_or(memory_limit);
    let quota = cpu_limit.filter(|m| *m > 0).map_or(0, |m| (m * CPU_PERIOD / 1000).max(MIN_QUOTA));
    Resources {
        cpu_period: CPU_PERIOD,
        cpu_quota: quota,
        cpu_shares: (cpu_request * 1024 / 1000).max(MIN_SHARES),
        memory_limit,
        oom_score_adj: oom_score(pod, memory_request, node_memory),
    }
}

/// Who is killed first when memory runs out: BestEffort, then Burstable by what it asked for, Guaranteed last.
fn oom_score(pod: &Pod, memory_request: i64, node_memory: u64) -> i64 {
    match pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        Some("Guaranteed") => -997,
        Some("Burstable") => {
            let node = i128::from(node_memory.max(1));
            let score = 1000 - 1000 * i128::from(memory_request) / node;
            i64::try_from(score).unwrap_or(2).clamp(3, 999)
        }
        _ => 1000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_become_weights_and_limits_quotas() {
        let cases = [
            (json!({}), "BestEffort", (0, 2, 0, 1000)),
            (json!({ "requests": { "cpu": "500m", "memory": "1Gi" } }), "Burstable", (0, 512, 0, 750)),
            (
                json!({ "limits": { "cpu": "1.5", "memory": "64M" } }),
                "Guaranteed",
                (150_000, 1536, 64_000_000, -997),
            ),
            (json!({ "limits": { "cpu": "1m" } }), "Burstable", (1000, 2, 0, 999)),
        ];
        for (resources, class, expected) in cases {
            let container = json!({ "name": "c", "resources": resources });
            let container: Container = serde_json::from_value(container).unwrap();
            let pod: Pod = serde_json::from_value(json!({ "status": { "qosClass": class } })).unwrap();
            let r = of(&pod, &container, 4 << 30);
            assert_eq!((r.cpu_quota, r.cpu_shares, r.memory_limit, r.oom_score_adj), expected, "{class}");
        }
    }

    #[test]
    fn quantities() {
        let cases = [
            ("1", 1.0),
            ("100m", 0.1),
            ("1e3", 1000.0),
            ("2Ki", 2048.0),
            ("1E", 1e18),
            ("1Ei", 1_152_921_504_606_846_976.0),
            ("1.5Gi", 1_610_612_736.0),
        ];
        for (text, expected) in cases {
            assert_eq!(amount(Some(&Quantity(text.into()))), Some(expected), "{text}");
        }
        assert_eq!(amount(Some(&Quantity("many".into()))), None);
    }
}
