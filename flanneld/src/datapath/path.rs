//! How packets are moved: what is asked for, and which features of the kernel are in use, as /metrics shows it.

use std::str::FromStr;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};

/// How far packets are moved together; the kernel may set a lower bound, feature by feature.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Level {
    /// One packet in each system call.
    Plain,
    /// Many packets in a system call of the socket.
    Batch,
    /// Super-packets.
    #[default]
    Offload,
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Level, String> {
        match text {
            "plain" => Ok(Level::Plain),
            "batch" => Ok(Level::Batch),
            "offload" => Ok(Level::Offload),
            _ => Err(format!("{text} is none of plain, batch, offload")),
        }
    }
}

/// A feature of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Feature {
    /// The TUN gives TCP super-packets and unfinished checksums, and takes them.
    TunTso,
    /// The TUN gives UDP super-packets and takes them.
    TunUso,
    /// Received packets are joined into super-packets for the TUN.
    Join,
    /// The kernel cuts what is sent into datagrams.
    UdpGso,
    /// The kernel joins datagrams that are received.
    UdpGro,
    /// A program in the kernel sends what pods send to peers that take it.
    FastOut,
    /// A program in the driver takes in what peers send.
    FastIn,
}

impl Feature {
    /// All of them.
    pub const ALL: [Feature; 7] = [
        Feature::TunTso,
        Feature::TunUso,
        Feature::Join,
        Feature::UdpGso,
        Feature::UdpGro,
        Feature::FastOut,
        Feature::FastIn,
    ];
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    feature: Feature,
}

/// Which features are in use.
#[derive(Debug, Clone)]
pub struct Path {
    used: Family<Label, Gauge>,
    queues: Gauge,
}

impl Path {
    /// None yet; shown at /metrics.
    pub fn register(registry: &mut Registry) -> Path {
        let path = Path { used: Family::default(), queues: Gauge::default() };
        registry.register(
            "flannel_datapath_feature",
            "Whether the data path uses a feature of the kernel",
            path.used.clone(),
        );
        registry.register(
            "flannel_datapath_queues",
            "Queues of the device, each with a thread a direction",
            path.queues.clone(),
        );
        path
    }

    /// Says whether it is in use.
    pub fn set(&self, feature: Feature, used: bool) {
        self.used.get_or_create_owned(&Label { feature }).set(i64::from(used));
    }

    /// Whether it is in use.
    pub fn uses(&self, feature: Feature) -> bool {
        self.used.get_or_create_owned(&Label { feature }).get() == 1
    }

    /// How many queues there are; 0: the data path does not run.
    pub fn queues(&self) -> usize {
        usize::try_from(self.queues.get()).unwrap_or(0)
    }

    /// Says how many queues there are.
    pub fn set_queues(&self, count: usize) {
        self.queues.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
