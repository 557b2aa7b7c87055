//! The wireguard backend: the encrypted mode. Each node has a key pair; the public key stands in its lease, in flannel's form, and packets are
//! sealed for the node whose subnet they go to.
//!
//! Packets of each family have a device of their own, with its socket and its peers, or share one ([`options`]); either is a [`Lane`].
//!
//! The kernel's WireGuard and ours speak the same over the wire, so that a node with Go flannel, which uses the kernel's, is a peer as any
//! other. Where the kernel has one it is used ([`kernel`]); ours ([`crate::datapath::wireguard`]) works everywhere.

pub mod kernel;
mod keyfile;
mod lane;
pub mod options;

pub use lane::{Described, Lane};
pub use options::Options;

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Result, ensure};
use hostnet::Netlink;
use ipnetwork::IpNetwork;

use super::udp;
use crate::datapath::wireguard::{Identity, Wireguard};
use crate::family::Dual;
use crate::iface::External;
use crate::lease::key::{Advert, Lease};
use crate::owner::Owner;

/// What leases call it.
pub const TYPE: &str = "wireguard";

/// Whose WireGuard is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wanted {
    /// The kernel's where it has one, else ours.
    #[default]
    Auto,
    /// The kernel's.
    Kernel,
    /// Ours.
    User,
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Wanted, String> {
        match text {
            "auto" => Ok(Wanted::Auto),
            "kernel" => Ok(Wanted::Kernel),
            "user" => Ok(Wanted::User),
            _ => Err(format!("{text} is none of auto, kernel, user")),
        }
    }
}

/// This node among the others.
pub struct Node {
    options: Options,
    identity: Identity,
    networks: Dual<IpNetwork>,
    /// Its devices, that of IPv4 first.
    pub lanes: Vec<Lane>,
    /// The leases that contradict others, of which it was told.
    told: Vec<Described>,
}

impl Node {
    /// Reads the own key, or makes one.
    pub fn new(options: Options, networks: Dual<IpNetwork>) -> Result<Node> {
        let identity = keyfile::identity(&keyfile::path())?;
        tracing::info!(key = %identity.public(), "this node's public key");
        let lanes = options.lanes(&networks);
        Ok(Node { options, identity, networks, lanes, told: Vec::new() })
    }

    /// Whether the kernel's WireGuard is used. If it isn't, devices that it has under our names go.
    pub async fn is_in_kernel(&self, netlink: &Netlink, wanted: Wanted, owner: &Owner) -> Result<bool> {
        let there = wanted != Wanted::User && hostnet::wireguard::is_there()?;
        ensure!(
            there || wanted != Wanted::Kernel,
            "the kernel has no WireGuard (module wireguard): leave out --wireguard=kernel"
        );
        if there {
            tracing::info!("the kernel's WireGuard carries packets");
            return Ok(true);
        }
        let why = if wanted == Wanted::User {
            "as --wireguard=user asks for"
        } else {
            "the kernel has no WireGuard"
        };
        tracing::info!("flanneld itself seals and opens packets: {why}");
        for lane in &self.lanes {
            let names = udp::devices(netlink, owner, lane.device).await?;
            kernel::remove(netlink, names.first().map_or("", String::as_str)).await?;
        }
        Ok(false)
    }

    /// The kernel's devices, one for each lane.
    pub async fn devices(&self, netlink: &Netlink, owner: &Owner) -> Result<Vec<kernel::Device>> {
        let mut devices = Vec::new();
        for lane in &self.lanes {
            // The kernel knows of no process that has one: the first that nobody has labelled is ours.
            let name = udp::devices(netlink, owner, lane.device).await?.swap_remove(0);
            devices.push(kernel::Device::new(self, lane, name, owner.clone()));
        }
        Ok(devices)
    }

    /// Our own WireGuard, for one device.
    pub fn wireguard(&self) -> Arc<Wireguard> {
        let Options { preshared, keepalive, .. } = &self.options;
        Arc::new(Wireguard::new(self.identity.clone(), preshared.clone(), *keepalive))
    }

    /// The largest inner packet.
    pub fn mtu(&self, external: &External) -> u32 {
        self.options.mtu(external)
    }

    /// What the own lease says.
    pub fn advert(&self) -> Advert {
        advert(&self.identity, &self.lanes, &self.networks)
    }

    /// The peers of each device. `here` are the own node's addresses.
    pub fn publish(&mut self, others: &[&Lease], here: &Dual<IpAddr>) -> Vec<Vec<Described>> {
        let (mut all, mut odd) = (Vec::new(), Vec::new());
        for lane in &mut self.lanes {
            let (peers, contradicted) = lane.publish(self.identity.public(), here, others);
            all.push(peers.to_vec());
            odd.extend(contradicted);
        }
        for peer in odd.iter().filter(|peer| !self.told.contains(peer)) {
            tracing::error!(
                subnet = %peer.subnet, at = %peer.at, key = %peer.key,
                "another lease has this key or this address. If both nodes live, give one of them a key of its own: remove its key file"
            );
        }
        self.told = odd;
        all
    }
}

/// Of each family the key, and the port of the device that carries its packets. Pure.
fn advert<T>(identity: &Identity, lanes: &[Lane], networks: &Dual<T>) -> Advert {
    let data = Dual::of(|family| {
        let lane = lanes.iter().find(|lane| lane.carries(family) && networks.get(family).is_some())?;
        Some(format!(r#"{{"PublicKey":"{}","Port":{}}}"#, identity.public(), lane.port))
    });
    Advert { kind: TYPE.to_owned(), data, ..Advert::default() }
}

/// Leases for tests.
#[cfg(test)]
mod testing {
    use serde_json::Value;

    use super::*;
    use crate::config::network::BadNetwork;
    use crate::datapath::wireguard::PublicKey;

    pub fn options(value: &Value) -> Result<Options, BadNetwork> {
        Options::parse(value.as_object().unwrap())
    }

    pub fn key(n: u8) -> PublicKey {
        Identity::from_bytes([n; 32]).public()
    }

    pub fn lease(n: u8, last: u8, data: &str) -> Lease {
        let backend = Advert { kind: TYPE.into(), data: Dual::only_v4(data.into()), ..Advert::default() };
        Lease {
            subnets: Dual::only_v4(format!("10.5.{n}.0/24").parse().unwrap()),
            public: Dual::only_v4([192, 0, 2, last].into()),
            backend,
        }
    }

    pub fn with_key(n: u8, last: u8, k: u8) -> Lease {
        lease(n, last, &format!(r#"{{"PublicKey":"{}","Port":51820}}"#, key(k)))
    }
}

#[cfg(test)]
mod tests {
    use super::testing::options;
    use super::*;
    use serde_json::json;

    #[test]
    fn the_lease_names_key_and_port_of_each_family() {
        let identity = Identity::from_bytes([7; 32]);
        let data = |mode: &str, networks: Dual<()>| {
            advert(&identity, &options(&json!({ "Mode": mode })).unwrap().lanes(&networks), &networks).data
        };
        let with = |port| Some(format!(r#"{{"PublicKey":"{}","Port":{port}}}"#, identity.public()));
        let both = Dual { v4: Some(()), v6: Some(()) };
        assert_eq!(data("separate", Dual::only_v4(())), Dual { v4: with(51820), v6: None });
        assert_eq!(data("separate", both), Dual { v4: with(51820), v6: with(51821) });
        assert_eq!(data("auto", both), Dual { v4: with(51820), v6: with(51820) });
    }
}
