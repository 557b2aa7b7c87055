//! The arithmetic of a rolling update. No objects, only numbers.

use k8s_openapi::api::apps::v1::DeploymentStrategy;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// How far a rollout may deviate from the wanted number of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Pods beyond the wanted number.
    pub(super) surge: i32,
    /// Pods that may be unavailable.
    pub(super) unavailable: i32,
}

/// The bounds of a strategy; percentages of `replicas` are rounded up for surge and down for unavailability. Both zero
/// would be a deadlock, then one pod may be unavailable. Recreate knows neither.
pub(super) fn bounds(strategy: Option<&DeploymentStrategy>, replicas: i32) -> Bounds {
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
        return Bounds { surge: 0, unavailable: 0 };
    }
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let default = IntOrString::String("25%".into());
    let surge = scaled(rolling.and_then(|r| r.max_surge.as_ref()).unwrap_or(&default), replicas, true);
    let unavailable =
        scaled(rolling.and_then(|r| r.max_unavailable.as_ref()).unwrap_or(&default), replicas, false);
    let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
    Bounds { surge, unavailable: unavailable.min(replicas.max(0)) }
}

/// A number, or a percentage of `total`; what is neither counts as 0.
pub(crate) fn scaled(value: &IntOrString, total: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let percent: i64 =
                text.strip_suffix('%').and_then(|p| p.parse().ok()).unwrap_or(0).clamp(0, 100_000);
            let parts = percent * i64::from(total.max(0)) + if round_up { 99 } else { 0 };
            i32::try_from(parts / 100).unwrap_or(i32::MAX)
        }
    }
}

/// The new replica set's next size during a rolling update.
pub(super) fn new_size(wanted: i32, bounds: Bounds, current: i32, total: i32) -> i32 {
    let most = wanted + bounds.surge;
    if total >= most { current } else { current + (most - total).min(wanted - current).max(0) }
}

/// One old replica set as the scale-down sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Old {
    pub(super) size: i32,
    pub(super) available: i32,
}

/// The old replica sets' next sizes (oldest first): the unhealthy pods go first, since nobody misses them, then as
/// many as the number of available pods allows.
pub(super) fn old_sizes(wanted: i32, bounds: Bounds, new: Old, old: &[Old]) -> Vec<i32> {
    let least_available = wanted - bounds.unavailable;
    let total = new.size + old.iter().map(|set| set.size).sum::<i32>();
    let new_unavailable = new.size - new.available;
    let mut removable = (total - least_available - new_unavailable).max(0);
    let mut sizes: Vec<i32> = old.iter().map(|set| set.size).collect();
    let mut available = new.available + old.iter().map(|set| set.available).sum::<i32>();
    for (size, set) in sizes.iter_mut().zip(old) {
        let unhealthy = (set.size - set.available).clamp(0, removable);
        *size -= unhealthy;
        removable -= unhealthy;
    }
    for size in &mut sizes {
        let healthy = (*size).min(available - least_available).min(removable).max(0);
        *size -= healthy;
        available -= healthy;
        removable -= healthy;
    }
    sizes
}

/// Divides `total` over replica sets in proportion to their sizes (`sizes[i]` of a deployment that allowed `max[i]`),
/// so that scaling in the middle of a rollout keeps its ratio. Rounding goes to the largest, i.e. the first.
pub(super) fn proportional(sizes: &[i32], before_max: i32, total: i32) -> Vec<i32> {
    let current: i32 = sizes.iter().sum();
    let mut left = total - current;
    let mut result = Vec::with_capacity(sizes.len());
    for size in sizes {
        let ideal = f64::from(*size) * f64::from(total) / f64::from(before_max.max(1));
        #[allow(
            clippy::cast_possible_truncation,
            reason = "a replica count times a ratio; the cast saturates"
        )]
        let change = ideal.round() as i32 - size;
        let change = if left > 0 { change.clamp(0, left) } else { change.clamp(left, 0) };
        left -= change;
        result.push(size + change);
    }
    if let Some(first) = result.first_mut() {
        *first = (*first + left).max(0);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages() {
        let percent = IntOrString::String("25%".into());
        assert_eq!((scaled(&percent, 10, true), scaled(&percent, 10, false)), (3, 2));
        assert_eq!(bounds(None, 1), Bounds { surge: 1, unavailable: 0 });
        assert_eq!(scaled(&IntOrString::String("much".into()), 10, true), 0);
    }

    #[test]
    fn a_rollout_of_ten_reaches_its_end_within_its_bounds() {
        let limits = bounds(None, 10);
        let (mut new, mut old) = (0, 10);
        for _ in 0..50 {
            new = new_size(10, limits, new, new + old);
            // Every pod of the new set became available.
            let sizes = old_sizes(
                10,
                limits,
                Old { size: new, available: new },
                &[Old { size: old, available: old }],
            );
            old = sizes[0];
            assert!(new + old <= 10 + limits.surge && new + old >= 10 - limits.unavailable, "{new} + {old}");
        }
        assert_eq!((new, old), (10, 0));
    }

    #[test]
    fn a_stuck_rollout_keeps_enough_available() {
        let limits = bounds(None, 10);
        let new = Old { size: 5, available: 0 };
        assert_eq!(old_sizes(10, limits, new, &[Old { size: 8, available: 8 }]), [8]);
        assert_eq!(
            old_sizes(10, limits, new, &[Old { size: 10, available: 8 }]),
            [8],
            "the unhealthy two go"
        );
    }

    #[test]
    fn scaling_keeps_the_ratio() {
        assert_eq!(proportional(&[8, 5], 13, 33), [20, 13]);
        assert_eq!(proportional(&[8, 5], 13, 13), [8, 5]);
        assert_eq!(proportional(&[8, 5], 13, 0), [0, 0]);
    }
}
