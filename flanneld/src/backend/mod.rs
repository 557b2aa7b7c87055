//! How packets get to other nodes. One file per backend; what isn't there answers with a clear error.

pub mod carrier;
pub mod host_gw;
pub mod kernel;
pub mod udp;
pub mod vxlan;

use serde_json::Value;

use crate::config::network::{BadNetwork, get};
use crate::family::Family;

/// flannel's port for the udp backend.
const UDP_PORT: u16 = 8285;

/// The backend that a network's configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendKind {
    /// Bare inner packets in UDP.
    Udp {
        /// The same on all nodes.
        port: u16,
    },
    /// The kernel's VXLAN.
    Vxlan(vxlan::Options),
    /// Plain routes by way of the nodes themselves.
    HostGw,
    /// A lease and nothing else: somebody else carries the packets.
    Alloc,
}

impl BackendKind {
    /// From the `Backend` object; none is udp, as in flannel.
    pub fn parse(backend: Option<&Value>) -> Result<BackendKind, BadNetwork> {
        let bad = |problem: String| BadNetwork::Field { field: "Backend", problem };
        let Some(backend) = backend.filter(|b| !b.is_null()) else {
            return Ok(BackendKind::Udp { port: UDP_PORT });
        };
        let map = backend.as_object().ok_or_else(|| bad("must be an object".to_owned()))?;
        let kind = get(map, "Type").and_then(Value::as_str).unwrap_or("udp").to_lowercase();
        match kind.as_str() {
            "udp" => {
                let port = match get(map, "Port") {
                    None => UDP_PORT,
                    Some(port) => {
                        let number = port.as_u64().and_then(|p| u16::try_from(p).ok());
                        number.filter(|p| *p > 0).ok_or_else(|| bad(format!("Port {port} is no UDP port")))?
                    }
                };
                Ok(BackendKind::Udp { port })
            }
            vxlan::TYPE => Ok(BackendKind::Vxlan(vxlan::Options::parse(map)?)),
            host_gw::TYPE => Ok(BackendKind::HostGw),
            "alloc" => Ok(BackendKind::Alloc),
            "ipip" | "wireguard" | "ipsec" | "extension" | "tencent-vpc" => {
                Err(bad(format!("Type {kind} is not there yet: udp, vxlan, host-gw and alloc are")))
            }
            _ => Err(bad(format!("Type {kind} is unknown: udp, vxlan, host-gw and alloc are there"))),
        }
    }

    /// Whether packets of a family can be carried.
    pub fn carries(&self, family: Family) -> bool {
        family == Family::V4 || !matches!(self, BackendKind::Udp { .. })
    }
}
