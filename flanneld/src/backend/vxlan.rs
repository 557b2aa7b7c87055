//! The VXLAN backend: the kernel carries the packets, in flannel's layout. Per peer one route by way of its tunnel address, one neighbour
//! (tunnel address → hardware address) and one forwarding entry (hardware address → host). Each family has a device of its own, with
//! its own hardware address; packets of IPv6 go between the hosts' IPv6 addresses.
//!
//! The device's hardware address stands in the lease, so it must not change: it is taken from the device that is there, or from the
//! lease that this node had, and a device that is deleted comes back with the same.

use std::net::IpAddr;

use anyhow::{Context, Result};
use hostnet::neighbour::{Neighbour, Table};
use hostnet::{Netlink, Route, sysctl};
use ipnetwork::IpNetwork;
use serde_json::{Map, Value};

use super::kernel::{self, Desired};
use super::{host_gw, number};
use crate::config::network::{BadNetwork, get};
use crate::family::{Dual, Family};
use crate::iface::External;
use crate::lease::key::{Advert, Half, Lease};
use crate::owner::Owner;

/// What leases call it.
pub const TYPE: &str = "vxlan";
/// Where another network of this host has the device.
pub const REMEDY: &str = "give this network another VNI";
/// The outer IPv4, UDP and VXLAN headers and the inner Ethernet header.
const OVERHEAD: u32 = 50;
/// The same with an outer IPv6 header. Go flannel reckons with 50 here, too, so that each of its full packets becomes two fragments.
const OVERHEAD_V6: u32 = 70;
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
        let number = |name: &str, default: u32, most: u32| number(map, name, default, most);
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

    /// E.g. `flannel.1` and `flannel-v6.1`.
    pub fn device(&self, family: Family) -> String {
        match family {
            Family::V4 => format!("flannel.{}", self.vni),
            Family::V6 => format!("flannel-v6.{}", self.vni),
        }
    }

    /// The largest inner packet of a family.
    pub fn mtu(&self, external: &External, family: Family) -> u32 {
        let overhead = if family == Family::V4 { OVERHEAD } else { OVERHEAD_V6 };
        self.mtu.unwrap_or(external.link.mtu).saturating_sub(overhead)
    }

    /// What a lease says of the devices.
    pub fn advert(&self, macs: &Dual<[u8; 6]>) -> Advert {
        let data = macs.map(|mac| format!(r#"{{"VNI":{},"VtepMAC":"{}"}}"#, self.vni, mac_text(*mac)));
        Advert { kind: TYPE.to_owned(), data, ..Advert::default() }
    }

    /// What the lease of a peer says of its device, if it is one of this network.
    fn peer(&self, data: &str) -> Option<[u8; 6]> {
        let data: Value = serde_json::from_str(data).ok()?;
        let map = data.as_object()?;
        let vni = get(map, "VNI").and_then(Value::as_u64)?;
        mac(get(map, "VtepMAC")?.as_str()?).filter(|_| vni == u64::from(self.vni))
    }
}

/// A family's hardware address: that of the device that is there, else that of the lease of the last time, else one by chance.
async fn choose_mac(
    netlink: &Netlink,
    options: &Options,
    family: Family,
    last: Option<&Lease>,
) -> Result<[u8; 6]> {
    let there = netlink.link_by_name(&options.device(family)).await?;
    let there = there.filter(|link| link.kind.as_deref() == Some(TYPE));
    let leased = || {
        let advert = &last.filter(|lease| lease.backend.kind == TYPE)?.backend;
        options.peer(advert.data.get(family)?)
    };
    let found = there.and_then(|link| <[u8; 6]>::try_from(link.mac.as_slice()).ok()).or_else(leased);
    Ok(found.unwrap_or_else(|| {
        let mut mac: [u8; 6] = rand::random();
        // Locally administered, and of one receiver (IEEE 802).
        mac[0] = (mac[0] | 0b10) & !0b1;
        mac
    }))
}

/// The devices of a node with a lease, one of each family.
#[derive(Debug, Clone)]
pub struct Devices {
    /// The network's.
    pub options: Options,
    /// Whose they are.
    pub owner: Owner,
    /// The interface below.
    pub external: External,
    /// Their hardware addresses.
    pub macs: Dual<[u8; 6]>,
}

impl Devices {
    /// Those of these families, before there is a lease; `last` is the own one of the last time. Another network's are refused.
    pub async fn prepare(
        netlink: &Netlink,
        options: Options,
        (owner, external): (Owner, External),
        families: &[Family],
        last: Option<&Lease>,
    ) -> Result<Devices> {
        let mut macs = Dual::default();
        for family in families {
            owner.device(netlink, &options.device(*family), REMEDY).await?;
            let mac = Some(choose_mac(netlink, &options, *family, last).await?);
            match family {
                Family::V4 => macs.v4 = mac,
                Family::V6 => macs.v6 = mac,
            }
        }
        Ok(Devices { options, owner, external, macs })
    }

    /// Brings the device of a family into the wanted state, made anew if the kernel can't change the one that is there; its index.
    pub async fn ensure(&self, netlink: &Netlink, subnet: IpNetwork) -> Result<u32> {
        let family = Family::of(subnet.ip());
        let missing = || format!("{} has no {family} address", self.external.link.name);
        let local = *self.external.address.get(family).with_context(missing)?;
        let mac = *self.macs.get(family).with_context(missing)?;
        let name = self.options.device(family);
        let wanted = hostnet::Vxlan {
            vni: self.options.vni,
            port: self.options.port,
            local,
            link: self.external.link.index,
            learning: self.options.learning,
            gbp: self.options.gbp,
        };
        if let Some(link) = self.owner.device(netlink, &name, REMEDY).await?
            && netlink.vxlan(&name).await? != Some(wanted)
        {
            tracing::info!(device = name, "the device is not as it should be; making it anew");
            netlink.delete_link(link.index).await?;
        }
        let link = match netlink.link_by_name(&name).await? {
            Some(link) => link,
            None => {
                netlink.add_vxlan(&name, &wanted, mac).await.with_context(|| {
                    format!("is another VXLAN device with VNI {} or port {} here?", wanted.vni, wanted.port)
                })?;
                netlink.link_by_name(&name).await?.with_context(|| format!("{name} vanished"))?
            }
        };
        self.owner.mark(netlink, &link, family).await?;
        if family == Family::V6 {
            // Every route into it is planned; none is to be believed that comes out of it (RFC 4861).
            sysctl::set(&format!("net/ipv6/conf/{name}/accept_ra"), "0")?;
        }
        if link.mac != mac {
            netlink.set_mac(link.index, mac).await?;
        }
        let mtu = self.options.mtu(&self.external, family);
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
        devices: &Dual<u32>,
        networks: &Dual<IpNetwork>,
        on_link: &[IpNetwork],
        others: &[Lease],
    ) -> Desired {
        let mut desired = Desired::refusing(networks);
        for half in others.iter().filter(|lease| lease.backend.kind == TYPE).flat_map(Lease::halves) {
            let device = devices.get(Family::of(half.public));
            let (Some(device), Some(mac)) = (device, self.options.peer(half.data)) else { continue };
            if self.options.direct_routing && on_link.iter().any(|net| net.contains(half.public)) {
                desired.routes.push(host_gw::via(&half, &self.external));
            } else {
                tunnel(&mut desired, *device, mac, &half);
            }
        }
        desired
    }
}

fn tunnel(desired: &mut Desired, device: u32, mac: [u8; 6], half: &Half<'_>) {
    let far = half.subnet.network();
    let entry = |table, ip: IpAddr| Neighbour { table, index: device, ip, mac, permanent: true };
    desired.neighbours.extend([entry(Table::Neighbours, far), entry(Table::Forwarding, half.public)]);
    let to = Route::to(half.subnet);
    desired.routes.push(Route { gateway: Some(far), oif: Some(device), onlink: true, ..to });
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
            alias: None,
        };
        let address = Dual { v4: "192.0.2.1".parse().ok(), v6: "fd00::1".parse().ok() };
        External { link, address, public: address }
    }

    fn lease(subnets: (&str, &str), public: (&str, &str), data: &str) -> Lease {
        let data = Dual { v4: Some(data.to_owned()), v6: Some(data.to_owned()) };
        Lease {
            subnets: Dual { v4: subnets.0.parse().ok(), v6: subnets.1.parse().ok() },
            public: Dual { v4: public.0.parse().ok(), v6: public.1.parse().ok() },
            backend: Advert { kind: TYPE.into(), data, ..Advert::default() },
        }
    }

    #[test]
    fn options_have_flannels_defaults() {
        let plain = options(&json!({ "Type": "vxlan" })).unwrap();
        assert_eq!((plain.vni, plain.port, plain.mtu(&external(), Family::V4)), (1, 8472, 1450));
        assert_eq!(plain.mtu(&external(), Family::V6), 1430, "the outer header is longer by twenty bytes");
        assert_eq!(Family::BOTH.map(|family| plain.device(family)), ["flannel.1", "flannel-v6.1"]);
        let set = options(&json!({ "vni": 7, "Port": 4789, "MTU": 9000, "DirectRouting": true })).unwrap();
        assert_eq!(
            (set.vni, set.port, set.mtu(&external(), Family::V4), set.direct_routing),
            (7, 4789, 8950, true)
        );
        for wrong in
            [json!({"VNI": 1 << 24}), json!({"Port": 70000}), json!({"GBP": "yes"}), json!({"MTU": -1})]
        {
            assert!(options(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_advert_is_flannels_and_reads_back() {
        let options = options(&json!({})).unwrap();
        let macs = Dual { v4: Some([0x8e, 0x92, 0xc7, 0xf8, 0x29, 0x6a]), v6: Some([2; 6]) };
        let advert = options.advert(&macs);
        assert_eq!(advert.data.v4.as_deref(), Some(r#"{"VNI":1,"VtepMAC":"8e:92:c7:f8:29:6a"}"#));
        assert_eq!(advert.data.v6.as_deref(), Some(r#"{"VNI":1,"VtepMAC":"02:02:02:02:02:02"}"#));
        assert_eq!(options.peer(&advert.data.v4.unwrap()), macs.v4);
        for other in
            ["", "null", r#"{"VNI":2,"VtepMAC":"8e:92:c7:f8:29:6a"}"#, r#"{"VNI":1,"VtepMAC":"8e:92"}"#]
        {
            assert_eq!(options.peer(other), None, "{other}");
        }
    }

    #[test]
    fn each_peer_has_a_route_a_neighbour_and_a_forwarding_entry() {
        let data = r#"{"VNI":1,"VtepMAC":"8e:92:c7:f8:29:6a"}"#;
        let leases = [
            lease(("10.5.2.0/24", "fc00:0:0:2::/64"), ("192.0.2.2", "fd00::2"), data),
            lease(("10.5.3.0/24", "fc00:0:0:3::/64"), ("198.51.100.3", "fd01::3"), data),
            lease(("10.5.4.0/24", "fc00:0:0:4::/64"), ("192.0.2.4", "fd00::4"), "{}"),
            lease(("10.5.5.0/24", ""), ("192.0.2.5", ""), "{}"),
        ];
        let networks = Dual { v4: "10.5.0.0/16".parse().ok(), v6: "fc00::/48".parse().ok() };
        let plan = |direct| {
            let options = Options { direct_routing: direct, ..options(&json!({})).unwrap() };
            let macs = Dual { v4: Some([2; 6]), v6: Some([4; 6]) };
            let owner = Owner::new("/run/flannel/subnet.env".as_ref(), networks);
            let devices = Devices { options, owner, external: external(), macs };
            let on_link = ["192.0.2.0/24", "fd00::/64"].map(|net| net.parse().unwrap());
            devices.plan(&Dual { v4: Some(9), v6: Some(10) }, &networks, &on_link, &leases)
        };
        let ip = |text: &str| text.parse::<IpAddr>().ok();
        // Two that refuse, and two peers with two families each.
        let tunnelled = plan(false);
        assert_eq!((tunnelled.routes.len(), tunnelled.neighbours.len()), (6, 8));
        for (index, gateway, device) in [(2, "10.5.2.0", 9), (3, "fc00:0:0:2::", 10)] {
            let route = &tunnelled.routes[index];
            assert_eq!((route.gateway, route.oif, route.onlink), (ip(gateway), Some(device), true));
        }
        let outer = tunnelled.neighbours.iter().filter(|n| n.table == Table::Forwarding && n.index == 10);
        assert_eq!(outer.map(|n| n.ip).collect::<Vec<_>>(), [ip("fd00::2").unwrap(), ip("fd01::3").unwrap()]);
        let direct = plan(true);
        assert_eq!((direct.routes.len(), direct.neighbours.len()), (6, 4));
        for (index, gateway) in [(2, "192.0.2.2"), (3, "fd00::2")] {
            let route = &direct.routes[index];
            assert_eq!((route.gateway, route.oif, route.onlink), (ip(gateway), Some(2), false));
        }
    }
}
