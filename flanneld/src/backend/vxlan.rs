//! The VXLAN backend: the kernel carries the packets, in flannel's layout. Per peer one route by way of its tunnel address, one neighbour
//! (tunnel address → hardware address) and one forwarding entry (hardware address → host).
//!
//! The device's hardware address stands in the lease, so it must not change: it is taken from the device that is there, or from the
//! lease that this node had, and a device that is deleted comes back with the same.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use hostnet::neighbour::{Neighbour, Table};
use hostnet::{Netlink, Route};
use ipnetwork::{IpNetwork, Ipv4Network};
use serde_json::{Map, Value};

use super::host_gw;
use super::kernel::{self, Desired, refuse};
use crate::config::network::{BadNetwork, get};
use crate::iface::External;
use crate::lease::key::{Advert, Lease};

/// What leases call it.
pub const TYPE: &str = "vxlan";
/// The outer IPv4, UDP and VXLAN headers and the inner Ethernet header.
const OVERHEAD: u32 = 50;
/// The kernel's own port, from before IANA gave one.
const PORT: u16 = 8472;
const LARGEST_VNI: u32 = (1 << 24) - 1;

/// The options of the network's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The network's number.
    pub vni: u32,
    /// The outer UDP port.
    pub port: u16,
    /// The outer MTU, where it is not the interface's.
    pub mtu: Option<u32>,
    /// Group policy marks.
    pub gbp: bool,
    /// Whether the device learns.
    pub learning: bool,
    /// Whether nodes on the own link are reached by plain routes.
    pub direct_routing: bool,
}

impl Options {
    /// From the `Backend` object.
    pub fn parse(map: &Map<String, Value>) -> Result<Options, BadNetwork> {
        let bad = |problem: String| BadNetwork::Field { field: "Backend", problem };
        let number = |name: &str, default: u32, most: u32| match get(map, name) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => {
                let number = value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= most);
                number.ok_or_else(|| bad(format!("{name} {value} is no number up to {most}")))
            }
        };
        let flag = |name: &str| match get(map, name) {
            None | Some(Value::Null) => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| bad(format!("{name} must be true or false"))),
        };
        let port = u16::try_from(number("Port", 0, u32::from(u16::MAX))?).unwrap_or(0);
        Ok(Options {
            vni: number("VNI", 1, LARGEST_VNI)?,
            port: if port == 0 { PORT } else { port },
            mtu: Some(number("MTU", 0, 65535)?).filter(|mtu| *mtu > 0),
            gbp: flag("GBP")?,
            learning: flag("Learning")?,
            direct_routing: flag("DirectRouting")?,
        })
    }

    /// E.g. `flannel.1`.
    pub fn device(&self) -> String {
        format!("flannel.{}", self.vni)
    }

    /// The largest inner packet.
    pub fn mtu(&self, external: &External) -> u32 {
        self.mtu.unwrap_or(external.link.mtu).saturating_sub(OVERHEAD)
    }

    /// What a lease says of it.
    pub fn advert(&self, mac: [u8; 6]) -> Advert {
        let data = format!(r#"{{"VNI":{},"VtepMAC":"{}"}}"#, self.vni, mac_text(mac));
        Advert { kind: TYPE.to_owned(), data, ..Advert::default() }
    }

    /// What the lease of a peer says of its device, if it is one of this network.
    fn peer(&self, lease: &Lease) -> Option<[u8; 6]> {
        let data: Value = serde_json::from_str(&lease.backend.data).ok()?;
        let map = data.as_object().filter(|_| lease.backend.kind == TYPE)?;
        let vni = get(map, "VNI").and_then(Value::as_u64)?;
        mac(get(map, "VtepMAC")?.as_str()?).filter(|_| vni == u64::from(self.vni))
    }
}

/// The hardware address for the device: that of the one that is there, else that of the lease of the last time, else one by chance.
pub async fn choose_mac(
    netlink: &Netlink,
    options: &Options,
    leases: &[Lease],
    own: Ipv4Addr,
) -> Result<[u8; 6]> {
    let there = netlink.link_by_name(&options.device()).await?;
    let there = there.filter(|link| link.kind.as_deref() == Some(TYPE));
    let leased = || leases.iter().find(|lease| lease.public_ip == own).and_then(|lease| options.peer(lease));
    let found = there.and_then(|link| <[u8; 6]>::try_from(link.mac.as_slice()).ok()).or_else(leased);
    Ok(found.unwrap_or_else(|| {
        let mut mac: [u8; 6] = rand::random();
        // Locally administered, and of one receiver (IEEE 802).
        mac[0] = (mac[0] | 0b10) & !0b1;
        mac
    }))
}

/// The device of a node with a lease.
#[derive(Debug, Clone)]
pub struct Device {
    /// The network's.
    pub options: Options,
    /// The interface below.
    pub external: External,
    /// Its hardware address.
    pub mac: [u8; 6],
}

impl Device {
    /// Brings the device into the wanted state, made anew if the kernel can't change the one that is there; its index.
    pub async fn ensure(&self, netlink: &Netlink, subnet: Ipv4Network) -> Result<u32> {
        let name = self.options.device();
        let wanted = hostnet::Vxlan {
            vni: self.options.vni,
            port: self.options.port,
            local: self.external.address,
            link: self.external.link.index,
            learning: self.options.learning,
            gbp: self.options.gbp,
        };
        if let Some(link) = netlink.link_by_name(&name).await?
            && netlink.vxlan(&name).await? != Some(wanted)
        {
            tracing::info!(device = name, "the device is not as it should be; making it anew");
            netlink.delete_link(link.index).await?;
        }
        let link = match netlink.link_by_name(&name).await? {
            Some(link) => link,
            None => {
                netlink.add_vxlan(&name, &wanted, self.mac).await.with_context(|| {
                    format!("is another VXLAN device with VNI {} or port {} here?", wanted.vni, wanted.port)
                })?;
                netlink.link_by_name(&name).await?.with_context(|| format!("{name} vanished"))?
            }
        };
        if link.mac != self.mac {
            netlink.set_mac(link.index, self.mac).await?;
        }
        let mtu = self.options.mtu(&self.external);
        if link.mtu != mtu {
            netlink.set_mtu(link.index, mtu).await?;
        }
        kernel::set_address(netlink, link.index, subnet.network()).await?;
        if !link.up {
            netlink.set_up(link.index, true).await?;
        }
        Ok(link.index)
    }

    /// Routes and entries to the other nodes. `on_link` are the networks of the interface below. Pure.
    pub fn plan(
        &self,
        device: u32,
        network: Ipv4Network,
        on_link: &[Ipv4Network],
        others: &[Lease],
    ) -> Desired {
        let mut desired = Desired { routes: vec![refuse(network)], neighbours: Vec::new() };
        for lease in others {
            let Some(mac) = self.options.peer(lease) else { continue };
            if self.options.direct_routing && on_link.iter().any(|net| net.contains(lease.public_ip)) {
                desired.routes.push(host_gw::via(lease, &self.external));
                continue;
            }
            let tunnel = lease.subnet.network();
            let entry =
                |table, ip: Ipv4Addr| Neighbour { table, index: device, ip: ip.into(), mac, permanent: true };
            desired.neighbours.push(entry(Table::Neighbours, tunnel));
            desired.neighbours.push(entry(Table::Forwarding, lease.public_ip));
            let to = Route::to(IpNetwork::V4(lease.subnet));
            desired.routes.push(Route {
                gateway: Some(tunnel.into()),
                oif: Some(device),
                onlink: true,
                ..to
            });
        }
        desired
    }
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>().ok()?;
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn options(value: &Value) -> Result<Options, BadNetwork> {
        Options::parse(value.as_object().unwrap())
    }

    fn external() -> External {
        let link = hostnet::Link {
            index: 2,
            name: "eth0".into(),
            mtu: 1500,
            up: true,
            mac: Vec::new(),
            kind: None,
            master: None,
        };
        External { link, address: Ipv4Addr::new(192, 0, 2, 1), public: Ipv4Addr::new(192, 0, 2, 1) }
    }

    fn lease(subnet: &str, ip: [u8; 4], data: &str) -> Lease {
        let backend = Advert { kind: TYPE.into(), data: data.into(), ..Advert::default() };
        Lease { subnet: subnet.parse().unwrap(), public_ip: ip.into(), backend }
    }

    #[test]
    fn options_have_flannels_defaults() {
        let plain = options(&json!({ "Type": "vxlan" })).unwrap();
        assert_eq!((plain.vni, plain.port, plain.mtu(&external())), (1, 8472, 1450));
        assert_eq!(plain.device(), "flannel.1");
        let set = options(&json!({ "vni": 7, "Port": 4789, "MTU": 9000, "DirectRouting": true })).unwrap();
        assert_eq!((set.vni, set.port, set.mtu(&external()), set.direct_routing), (7, 4789, 8950, true));
        for wrong in
            [json!({"VNI": 1 << 24}), json!({"Port": 70000}), json!({"GBP": "yes"}), json!({"MTU": -1})]
        {
            assert!(options(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_advert_is_flannels_and_reads_back() {
        let options = options(&json!({})).unwrap();
        let mac = [0x8e, 0x92, 0xc7, 0xf8, 0x29, 0x6a];
        let advert = options.advert(mac);
        assert_eq!(advert.data, r#"{"VNI":1,"VtepMAC":"8e:92:c7:f8:29:6a"}"#);
        assert_eq!(options.peer(&lease("10.5.1.0/24", [192, 0, 2, 2], &advert.data)), Some(mac));
        for other in
            ["", "null", r#"{"VNI":2,"VtepMAC":"8e:92:c7:f8:29:6a"}"#, r#"{"VNI":1,"VtepMAC":"8e:92"}"#]
        {
            assert_eq!(options.peer(&lease("10.5.1.0/24", [192, 0, 2, 2], other)), None, "{other}");
        }
    }

    #[test]
    fn each_peer_has_a_route_a_neighbour_and_a_forwarding_entry() {
        let data = r#"{"VNI":1,"VtepMAC":"8e:92:c7:f8:29:6a"}"#;
        let leases = [
            lease("10.5.2.0/24", [192, 0, 2, 2], data),
            lease("10.5.3.0/24", [198, 51, 100, 3], data),
            lease("10.5.4.0/24", [192, 0, 2, 4], "{}"),
        ];
        let network = "10.5.0.0/16".parse().unwrap();
        let plan = |direct| {
            let options = Options { direct_routing: direct, ..options(&json!({})).unwrap() };
            let device = Device { options, external: external(), mac: [2; 6] };
            device.plan(9, network, &["192.0.2.0/24".parse().unwrap()], &leases)
        };
        let tunnelled = plan(false);
        assert_eq!((tunnelled.routes.len(), tunnelled.neighbours.len()), (3, 4));
        let route = &tunnelled.routes[1];
        assert_eq!((route.gateway, route.oif, route.onlink), (Some([10, 5, 2, 0].into()), Some(9), true));
        let direct = plan(true);
        assert_eq!((direct.routes.len(), direct.neighbours.len()), (3, 2));
        let route = &direct.routes[1];
        assert_eq!((route.gateway, route.oif, route.onlink), (Some([192, 0, 2, 2].into()), Some(2), false));
    }
}
