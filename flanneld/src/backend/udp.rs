//! The udp backend: a persistent TUN with the route to the whole network, and the engine between it and the socket.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result};
use hostnet::{Kind, Netlink, Route, sysctl};
use ipnetwork::{IpNetwork, Ipv4Network};

use crate::datapath::counters::Counters;
use crate::datapath::engine::Engine;
use crate::datapath::tun::Tun;
use crate::datapath::udp::Udp;
use crate::iface::External;
use crate::route::Handle;

/// The device's name, as flannel has it.
pub const DEVICE: &str = "flannel0";
/// The outer IPv4 and UDP headers.
const OVERHEAD: u32 = 28;
/// Short, so that a busy daemon drops early in place of letting packets wait for milliseconds.
const QUEUE: u32 = 100;
/// Behind the route into the TUN: while the device is away, packets to pods are refused and do not leave in clear.
const REFUSE_METRIC: u32 = 4_294_967_295;

/// What the backend is made from.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The whole network.
    pub network: Ipv4Network,
    /// The own subnet.
    pub subnet: Ipv4Network,
    /// The interface below.
    pub external: External,
    /// The same on all nodes.
    pub port: u16,
}

impl Settings {
    /// The largest inner packet.
    pub fn mtu(&self) -> u32 {
        self.external.link.mtu.saturating_sub(OVERHEAD)
    }

    /// The tunnel's own address: the subnet's first, which no pod gets.
    pub fn tunnel_ip(&self) -> Ipv4Addr {
        self.subnet.network()
    }

    /// Attaches to the device, brings it into shape, and starts to carry packets.
    pub async fn start(
        &self,
        netlink: &Netlink,
        routes: Handle,
        counters: (Counters, Counters),
    ) -> Result<Engine> {
        let address = SocketAddrV4::new(self.external.address, self.port);
        let udp = Udp::bind(address).with_context(|| {
            format!("cannot listen on UDP {address}: does another flanneld run on this host?")
        })?;
        let tun = Tun::open(DEVICE)?;
        self.ensure(netlink).await?;
        Ok(Engine::start(tun, udp, routes, self.tunnel_ip(), counters)?)
    }

    /// Brings device, address and routes into the wanted state; what a predecessor left in another state is removed.
    pub async fn ensure(&self, netlink: &Netlink) -> Result<()> {
        let link = netlink.link_by_name(DEVICE).await?.with_context(|| format!("{DEVICE} is gone"))?;
        if link.mtu != self.mtu() {
            netlink.set_mtu(link.index, self.mtu()).await?;
        }
        let wanted = IpNetwork::from(std::net::IpAddr::V4(self.tunnel_ip()));
        for address in netlink.addresses(Some(link.index)).await? {
            if address.net.is_ipv4() && address.net != wanted {
                netlink.delete_address(link.index, address.net).await?;
            }
        }
        netlink.add_address(link.index, wanted).await?;
        if !link.up {
            netlink.set_txqlen(link.index, QUEUE).await?;
            netlink.set_up(link.index, true).await?;
        }
        // ICMP answers come in over the device with the device's own address; without this they are martians.
        sysctl::set(&format!("net/ipv4/conf/{DEVICE}/accept_local"), "1")?;
        self.ensure_routes(netlink, link.index).await
    }

    async fn ensure_routes(&self, netlink: &Netlink, device: u32) -> Result<()> {
        let network = IpNetwork::V4(self.network);
        let into = Route { oif: Some(device), mtu: Some(self.mtu()), ..Route::to(network) };
        let refuse = Route { kind: Kind::Unreachable, metric: Some(REFUSE_METRIC), ..Route::to(network) };
        let there = netlink.routes().await?;
        for route in
            there.iter().filter(|r| r.oif == Some(device) && r.kind == Kind::Unicast && r.dst != network)
        {
            if route.dst.is_ipv4() {
                netlink.delete_route(route).await?;
            }
        }
        let has = |wanted: &Route| {
            there.iter().any(|r| r.dst == wanted.dst && r.kind == wanted.kind && r.mtu == wanted.mtu)
        };
        for route in [into, refuse] {
            if !has(&route) {
                netlink.replace_route(&route).await?;
            }
        }
        Ok(())
    }
}
