//! The control side's numbers; those of packets are with the data path.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::lease::observed::Health;

/// In seconds: a table is published within a fraction of a millisecond, thousands of the kernel's routes take seconds.
const CONVERGENCE: [f64; 11] = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];

/// Shown at /metrics.
#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) leases: Gauge,
    pub(super) bad: Gauge,
    pub(super) until: Gauge<f64, AtomicU64>,
    pub(super) mended: Counter,
    pub(super) age: Gauge<f64, AtomicU64>,
    pub(super) convergence: Histogram,
}

impl Metrics {
    pub(super) fn register(registry: &mut Registry, health: &Health) -> Metrics {
        let metrics = Metrics {
            leases: Gauge::default(),
            bad: Gauge::default(),
            until: Gauge::default(),
            mended: Counter::default(),
            age: Gauge::default(),
            convergence: Histogram::new(CONVERGENCE),
        };
        let Metrics { leases, bad, until, mended, age, convergence } = &metrics;
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
        registry.register(
            "flannel_lease_age_seconds",
            "Seconds for which this process holds the own lease; 0: it has none",
            age.clone(),
        );
        registry.register(
            "flannel_convergence_seconds",
            "From news of leases being read from etcd until packets go by them: the route table, or the kernel's routes",
            convergence.clone(),
        );
        registry.register(
            "flannel_watch_restarts",
            "How often the watch of the leases had to be begun anew",
            health.watch_restarts.clone(),
        );
        metrics
    }
}
