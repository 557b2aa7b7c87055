//! The ipip backend: the kernel puts each packet into another IPv4 packet (protocol 4), in flannel's layout. One device without a remote
//! end, and per peer one route by way of its host, which is where the outer packet goes.
//!
//! As with Go flannel the kernel takes tunnelled packets from any host: what may reach protocol 4 is for the firewall to say.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use hostnet::{Ipip, Netlink, Route};
use ipnetwork::{IpNetwork, Ipv4Network};
use nix::errno::Errno;
use serde_json::{Map, Value};

use super::host_gw;
use super::kernel::{self, Desired};
use crate::config::network::{BadNetwork, get};
use crate::family::{Dual, Family};
use crate::iface::External;
use crate::lease::key::{Half, Lease};
use crate::owner::Owner;

/// What leases call it, and what the kernel calls such devices.
pub const TYPE: &str = "ipip";
/// The device's name, as flannel has it.
pub const DEVICE: &str = "flannel.ipip";
/// Where another network of this host has the device.
pub const REMEDY: &str =
    "the kernel has one such device for an address, so use another backend for this network";
/// The outer IPv4 header.
const OVERHEAD: u32 = 20;

/// The options of the network's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Whether nodes on the own link are reached by plain routes.
    pub direct_routing: bool,
}

impl Options {
    /// From the `Backend` object.
    pub fn parse(map: &Map<String, Value>) -> Result<Options, BadNetwork> {
        let direct_routing = match get(map, "DirectRouting") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(wanted)) => *wanted,
            Some(_) => {
                let problem = "DirectRouting must be true or false".to_owned();
                return Err(BadNetwork::Field { field: "Backend", problem });
            }
        };
        Ok(Options { direct_routing })
    }
}

/// The device of a node with a lease.
#[derive(Debug, Clone)]
pub struct Device {
    /// The network's.
    pub options: Options,
    /// Whose it is.
    pub owner: Owner,
    /// The interface below.
    pub external: External,
}

impl Device {
    /// The largest inner packet.
    pub fn mtu(&self) -> u32 {
        self.external.link.mtu.saturating_sub(OVERHEAD)
    }

    /// Brings the device into the wanted state, made anew if it is set to something else; its index.
    pub async fn ensure(&self, netlink: &Netlink, subnet: Ipv4Network) -> Result<u32> {
        let local = self.external.address.ipv4();
        let local = local.with_context(|| format!("{} has no IPv4 address", self.external.link.name))?;
        let wanted = Ipip { local, remote: None };
        if let Some(link) = self.owner.device(netlink, DEVICE, REMEDY).await?
            && (link.kind.as_deref() != Some(TYPE) || netlink.ipip(DEVICE).await? != Some(wanted))
        {
            tracing::info!(device = DEVICE, "the device is not as it should be; making it anew");
            netlink.delete_link(link.index).await?;
        }
        let link = match netlink.link_by_name(DEVICE).await? {
            Some(link) => link,
            None => {
                make(netlink, &wanted).await?;
                netlink.link_by_name(DEVICE).await?.with_context(|| format!("{DEVICE} vanished"))?
            }
        };
        self.owner.mark(netlink, &link, Family::V4).await?;
        if link.mtu != self.mtu() {
            netlink.set_mtu(link.index, self.mtu()).await?;
        }
        kernel::set_address(netlink, link.index, IpAddr::V4(subnet.network())).await?;
        if !link.up {
            netlink.set_up(link.index, true).await?;
        }
        Ok(link.index)
    }

    /// Routes to the other nodes. `on_link` are the networks of the interface below. Pure.
    pub fn plan(
        &self,
        device: u32,
        networks: &Dual<IpNetwork>,
        on_link: &[IpNetwork],
        others: &[Lease],
    ) -> Desired {
        let route = |half: Half<'_>| {
            if self.options.direct_routing && on_link.iter().any(|net| net.contains(half.public)) {
                return host_gw::via(&half, &self.external);
            }
            let to = Route::to(half.subnet);
            Route { gateway: Some(half.public), oif: Some(device), onlink: true, ..to }
        };
        let halves = others.iter().filter(|lease| lease.backend.kind == TYPE).flat_map(Lease::halves);
        let mut desired = Desired::refusing(networks);
        desired.routes.extend(halves.filter(|half| Family::of(half.public) == Family::V4).map(route));
        desired
    }
}

async fn make(netlink: &Netlink, wanted: &Ipip) -> Result<()> {
    match netlink.add_ipip(DEVICE, wanted).await {
        Err(error) if error.errno() == Some(Errno::EOPNOTSUPP) => bail!(
            "{error}: this kernel has no IPIP tunnels. Load the module ipip (CONFIG_NET_IPIP), or choose another backend: vxlan needs \
             CONFIG_VXLAN, udp and wireguard need CONFIG_TUN"
        ),
        made => made.context("is another IPIP device with the same local address here?"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::key::Advert;
    use serde_json::json;

    fn lease(subnet: &str, ip: [u8; 4], kind: &str) -> Lease {
        let backend = Advert { kind: kind.into(), ..Advert::default() };
        let (subnet, ip) = (subnet.parse().unwrap(), ip.into());
        Lease { subnets: Dual::only_v4(subnet), public: Dual::only_v4(ip), backend }
    }

    fn device(direct_routing: bool) -> Device {
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
        let ip = Dual::only_v4([192, 0, 2, 1].into());
        let (owner, external) = (
            Owner::new("/run/flannel/subnet.env".as_ref(), Dual::default()),
            External { link, address: ip, public: ip },
        );
        Device { options: Options { direct_routing }, owner, external }
    }

    #[test]
    fn options_have_flannels_default() {
        let parse = |value: Value| Options::parse(value.as_object().unwrap());
        assert_eq!(parse(json!({ "Type": "ipip" })), Ok(Options { direct_routing: false }));
        assert_eq!(parse(json!({ "directrouting": true })), Ok(Options { direct_routing: true }));
        assert!(parse(json!({ "DirectRouting": "yes" })).is_err());
    }

    #[test]
    fn each_peer_has_a_route_by_way_of_its_host() {
        let leases = [
            lease("10.5.2.0/24", [192, 0, 2, 2], TYPE),
            lease("10.5.3.0/24", [198, 51, 100, 3], TYPE),
            lease("10.5.4.0/24", [192, 0, 2, 4], "vxlan"),
        ];
        let plan = |direct| {
            let networks = Dual::only_v4("10.5.0.0/16".parse().unwrap());
            let on_link = ["192.0.2.0/24".parse().unwrap()];
            let routes = device(direct).plan(9, &networks, &on_link, &leases).routes;
            assert_eq!(routes.len(), 3, "two peers, and the refusal");
            [1, 2].map(|n| (routes[n].gateway.unwrap().to_string(), routes[n].oif, routes[n].onlink))
        };
        let tunnelled = |ip: &str| (ip.to_owned(), Some(9), true);
        assert_eq!(device(false).mtu(), 1480);
        assert_eq!(plan(false), [tunnelled("192.0.2.2"), tunnelled("198.51.100.3")]);
        assert_eq!(plan(true), [("192.0.2.2".to_owned(), Some(2), false), tunnelled("198.51.100.3")]);
    }
}
