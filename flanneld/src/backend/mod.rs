//! How packets get to other nodes. One file per backend; what isn't there answers with a clear error.

pub mod carrier;
pub mod extension;
pub mod fast;
pub mod host_gw;
pub mod ipip;
pub mod kernel;
pub mod udp;
pub mod vxlan;
pub mod wireguard;

use serde_json::{Map, Value};

use crate::config::network::{BadNetwork, get};
use crate::family::Family;

/// The backends that are there.
const THERE: &str = "udp, vxlan, wireguard, ipip, host-gw, extension and alloc";
/// flannel's port for the udp backend.
const UDP_PORT: u16 = 8285;

/// The backend that a network's configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendKind {
    /// Bare inner packets in UDP.
    Udp {
        /// The same on all nodes.
        port: u16,
        /// The outer MTU, where it is not the interface's.
        mtu: Option<u32>,
    },
    /// The kernel's VXLAN.
    Vxlan(vxlan::Options),
    /// Plain routes by way of the nodes themselves.
    HostGw,
    /// A lease and nothing else: somebody else carries the packets.
    Alloc,
    /// The kernel's IPIP.
    Ipip(ipip::Options),
    /// Sealed packets in UDP.
    Wireguard(wireguard::Options),
    /// The user's own programs.
    Extension(extension::Options),
}

impl BackendKind {
    /// From the `Backend` object; none is udp, as in flannel.
    pub fn parse(backend: Option<&Value>) -> Result<BackendKind, BadNetwork> {
        let bad = |problem: String| BadNetwork::Field { field: "Backend", problem };
        let Some(backend) = backend.filter(|b| !b.is_null()) else {
            return Ok(BackendKind::Udp { port: UDP_PORT, mtu: None });
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
                let mtu = Some(number(map, "MTU", 0, 65535)?).filter(|mtu| *mtu > 0);
                if let Some(mtu) = mtu.filter(|mtu| *mtu < udp::LEAST_MTU) {
                    return Err(bad(format!("MTU {mtu} is less than {}", udp::LEAST_MTU)));
                }
                Ok(BackendKind::Udp { port, mtu })
            }
            vxlan::TYPE => Ok(BackendKind::Vxlan(vxlan::Options::parse(map)?)),
            host_gw::TYPE => Ok(BackendKind::HostGw),
            "alloc" => Ok(BackendKind::Alloc),
            extension::TYPE => Ok(BackendKind::Extension(extension::Options::parse(map)?)),
            wireguard::TYPE => Ok(BackendKind::Wireguard(wireguard::Options::parse(map)?)),
            ipip::TYPE => Ok(BackendKind::Ipip(ipip::Options::parse(map)?)),
            _ => Err(bad(match instead(&kind) {
                Some(instead) => format!("Type {kind} is not there: {instead}"),
                None => format!("Type {kind} is unknown: {THERE} are there"),
            })),
        }
    }

    /// Whether packets of a family can be carried.
    pub fn carries(&self, family: Family) -> bool {
        use BackendKind::{Alloc, HostGw, Vxlan, Wireguard};
        family == Family::V4 || matches!(self, Vxlan(_) | Wireguard(_) | HostGw | Alloc)
    }
}

/// What to use in place of a backend that flannel has or had.
fn instead(kind: &str) -> Option<&'static str> {
    match kind {
        "ipsec" => Some("wireguard encrypts too, with a key per node and no daemon beside flanneld"),
        "aws-vpc" | "gce" | "ali-vpc" | "tencent-vpc" => Some(
            "use alloc and let the cloud's own route controller carry the subnets, or vxlan, which needs nothing of the cloud",
        ),
        _ => None,
    }
}

/// A number of the `Backend` object that may be left out.
fn number(map: &Map<String, Value>, name: &str, default: u32, most: u32) -> Result<u32, BadNetwork> {
    let Some(value) = get(map, name).filter(|value| !value.is_null()) else { return Ok(default) };
    let number = value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= most);
    let problem = || format!("{name} {value} is no number up to {most}");
    number.ok_or_else(|| BadNetwork::Field { field: "Backend", problem: problem() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_that_is_not_there_says_what_to_use_instead() {
        for (kind, word) in [
            ("ipsec", "wireguard"),
            ("IPSec", "wireguard"),
            ("tencent-vpc", "alloc"),
            ("aws-vpc", "alloc"),
            ("gce", "vxlan"),
            ("ali-vpc", "vxlan"),
            ("nonsense", "host-gw"),
        ] {
            let error =
                BackendKind::parse(Some(&serde_json::json!({ "Type": kind }))).unwrap_err().to_string();
            assert!(error.contains(&kind.to_lowercase()) && error.contains(word), "{error}");
        }
    }
}
