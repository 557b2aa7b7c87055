//! The udp backend: a persistent TUN with the route to the whole network, and the engine between it and the socket.

use std::net::SocketAddrV4;
use std::num::NonZeroUsize;

use anyhow::{Context, Result};
use hostnet::{Netlink, Route, sysctl};
use ipnetwork::{IpNetwork, Ipv4Network};

use super::kernel::{self, Desired, refuse};
use crate::datapath::counters::Meters;
use crate::datapath::engine::{Engine, Parts};
use crate::datapath::pass::Given;
use crate::datapath::path::Level;
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

/// The largest inner packet.
pub fn mtu(external: &External) -> u32 {
    external.link.mtu.saturating_sub(OVERHEAD)
}

/// Queues that are made at most, each with a thread a direction.
const MOST_QUEUES: usize = 8;

/// How the data path is made.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How far packets are moved together.
    pub level: Level,
    /// How many queues; none: as the processors allow.
    pub queues: Option<NonZeroUsize>,
}

impl Options {
    /// Two threads a queue, so half as many queues as processors.
    fn queues(&self) -> usize {
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        self.queues.map_or(processors / 2, NonZeroUsize::get).clamp(1, MOST_QUEUES)
    }
}

/// Attaches to the device, which is made if it isn't there, and carries packets; or goes on with the queues and sockets that
/// another process passed on. The tunnel's own address is the subnet's first, which no pod gets.
pub fn start(
    address: SocketAddrV4,
    own: Ipv4Network,
    options: Options,
    (routes, meters): (Handle, Meters),
    given: Option<Given>,
) -> Result<Engine> {
    let (queues, level) = (options.queues(), options.level);
    let (tun, udp) = match given {
        Some(Given { alone, queues, sockets }) => {
            let udp = Udp::adopt(sockets, level, meters.path.clone());
            (Tun::adopt(DEVICE, (alone, queues), level, &meters.path)?, udp)
        }
        None => {
            let udp = Udp::bind(address, queues, level, meters.path.clone()).with_context(|| {
                format!("cannot listen on UDP {address}: does another flanneld run on this host?")
            })?;
            (Tun::open(DEVICE, queues, level, &meters.path)?, udp)
        }
    };
    Ok(Engine::start(Parts { tun, udp, routes, own: own.network(), level, meters })?)
}

/// Brings the device into the wanted state; its index.
pub async fn ensure(netlink: &Netlink, own: Ipv4Network, external: &External) -> Result<u32> {
    let link = netlink.link_by_name(DEVICE).await?.with_context(|| format!("{DEVICE} is gone"))?;
    if link.mtu != mtu(external) {
        netlink.set_mtu(link.index, mtu(external)).await?;
    }
    kernel::set_address(netlink, link.index, own.network()).await?;
    if !link.up {
        netlink.set_txqlen(link.index, QUEUE).await?;
        netlink.set_up(link.index, true).await?;
    }
    // ICMP answers come in over the device with the device's own address; without this they are martians.
    sysctl::set(&format!("net/ipv4/conf/{DEVICE}/accept_local"), "1")?;
    Ok(link.index)
}

/// The route into the device, and the one that refuses while the device is away. Pure.
pub fn plan(device: u32, network: Ipv4Network, external: &External) -> Desired {
    let into = Route { oif: Some(device), mtu: Some(mtu(external)), ..Route::to(IpNetwork::V4(network)) };
    Desired { routes: vec![into, refuse(network)], neighbours: Vec::new() }
}
