//! The control side's numbers; those of packets are with the data path.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Shown at /metrics.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    pub(super) leases: Gauge,
    pub(super) bad: Gauge,
    pub(super) until: Gauge<f64, AtomicU64>,
    pub(super) mended: Counter,
}

impl Metrics {
    pub(super) fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics::default();
        let Metrics { leases, bad, until, mended } = &metrics;
        registry.register("flannel_leases", "Leases of the network, the own one included", leases.clone());
        registry.register("flannel_bad_records", "Damaged records below the leases' prefix", bad.clone());
        registry.register(
            "flannel_lease_seconds",
            "Seconds for which the own lease is certainly ours",
            until.clone(),
        );
        registry.register(
            "flannel_rules_mended",
            "How often somebody changed flannel's rules, and they were put back",
            mended.clone(),
        );
        metrics
    }
}
