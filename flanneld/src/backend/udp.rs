//! The udp backend: a persistent TUN with the route to the whole network, and the engine between it and the socket.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use hostnet::{Netlink, sysctl};
use ipnetwork::IpNetwork;

use super::fast::{self, FastPath};
use super::{kernel, wireguard};
use crate::datapath::counters::Meters;
use crate::datapath::engine::{Engine, Parts, Voice};
use crate::datapath::fast::{Neighbour, Place};
use crate::datapath::pass::Given;
use crate::datapath::path::Level;
use crate::datapath::tun::{Tun, TunError};
use crate::datapath::udp::Udp;
use crate::datapath::wireguard::Wireguard;
use crate::family::{Dual, Family};
use crate::iface::External;
use crate::lease::features::{Feature, Features};
use crate::lease::key::Lease;
use crate::owner::{self, Owner};
use crate::path_mtu;
use crate::route::Handle;

/// The device's name, as flannel has it: it counts the networks of a host from 0 on.
pub fn device(network: usize) -> String {
    format!("flannel{network}")
}
/// The outer IPv4 and UDP headers.
const OVERHEAD: u32 = 28;
/// The least outer MTU: that which each host has to take (RFC 791 section 3.2).
pub const LEAST_MTU: u32 = 576;
/// Short, so that a busy daemon drops early in place of letting packets wait for milliseconds; long enough for small packets that come while
/// the loop waits for a processor.
const QUEUE: u32 = 250;

/// The largest inner packet. `outer` is the configuration's MTU; more than the interface's would never leave it.
pub fn mtu(external: &External, outer: Option<u32>) -> u32 {
    outer.unwrap_or(u32::MAX).min(external.link.mtu).saturating_sub(OVERHEAD)
}

/// What others may send here that a Go flannel could not take: see [`crate::datapath::partial`] and [`crate::datapath::ecn`].
pub fn features() -> Features {
    Features::default().with(Feature::Offload).with(Feature::Ecn)
}

/// What the kernel's programs are told of a peer.
pub fn neighbour(lease: &Lease) -> Option<Neighbour> {
    let has = |feature| lease.backend.features.has(feature);
    let (subnet, next_hop) = (lease.subnets.ipv4()?, lease.public.ipv4()?);
    Some(Neighbour {
        subnet,
        next_hop,
        takes: has(Feature::Offload),
        takes_marks: has(Feature::Ecn),
        narrow: false,
    })
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
    /// Whether the kernel is to carry packets by itself.
    pub fast: fast::Wanted,
    /// Whose WireGuard seals packets.
    pub wireguard: wireguard::Wanted,
}

impl Options {
    /// Two threads a queue, so half as many queues as processors.
    fn queues(&self) -> usize {
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        self.queues.map_or(processors / 2, NonZeroUsize::get).clamp(1, MOST_QUEUES)
    }
}

/// A tunnel of our own: a device, a socket, and the data path between them. The wireguard backend has one as well.
pub struct Tunnel {
    /// Whose the device is.
    pub owner: Owner,
    /// Names that it may have, the likeliest first; one only once it is there.
    pub devices: Vec<String>,
    /// The family of the pods' packets in it; none: both.
    pub inner: Option<Family>,
    /// Where the socket listens.
    pub address: SocketAddr,
    /// The largest inner packet.
    pub mtu: u32,
    /// The outer MTU, if the udp backend's configuration has one.
    pub outer_mtu: Option<u32>,
    /// How the data path is made.
    pub options: Options,
    /// Where packets go.
    pub routes: Handle,
    /// What is counted.
    pub meters: Meters,
    /// Packets are sealed; none: they travel as they are.
    pub wireguard: Option<Arc<Wireguard>>,
    /// The data path, while it runs.
    pub engine: Option<Engine>,
    /// The search for how large packets to each peer may be; packets that are sealed are fragmented outside where they have to be.
    pub path_mtu: Option<path_mtu::Task>,
    /// What another process passed on, for the next start.
    pub given: Option<Given>,
    /// What the kernel carries by itself, if it does.
    pub fast: Option<FastPath>,
}

impl Tunnel {
    /// One that carries nothing yet, of no MTU.
    pub fn new(
        (devices, owner): (Vec<String>, Owner),
        address: SocketAddr,
        options: Options,
        meters: Meters,
    ) -> Tunnel {
        Tunnel {
            devices,
            owner,
            inner: None,
            address,
            mtu: 0,
            outer_mtu: None,
            options,
            routes: Handle::default(),
            meters,
            wireguard: None,
            engine: None,
            path_mtu: None,
            given: None,
            fast: None,
        }
    }

    /// Whether packets are carried.
    pub fn is_alive(&self) -> bool {
        self.engine.as_ref().is_some_and(Engine::is_alive)
    }

    /// Attaches to the device, which is made if it isn't there, and carries packets; or goes on with the queues and sockets that
    /// another process passed on. The tunnel's own address is the subnet's first, which no pod gets.
    pub fn start(&mut self, own: &Dual<IpNetwork>) -> Result<()> {
        if self.engine.take().is_some() {
            tracing::warn!("the data path ended; starting it again");
        }
        let (queues, level, meters) = (self.options.queues(), self.options.level, self.meters.clone());
        let address = self.address;
        let (tun, udp) = match self.given.take() {
            Some(Given { alone, queues, sockets }) => {
                let udp = Udp::adopt(sockets, level, meters.path.clone());
                let tun = Tun::adopt(self.device(), (alone, queues), level, &meters.path)?;
                self.devices.truncate(1);
                (tun, udp)
            }
            None => {
                let udp = Udp::bind(address, queues, level, meters.path.clone()).with_context(|| {
                    format!(
                        "cannot listen on UDP {address}: does another flanneld run on this host? Each of its networks needs a port of its own \
                         ({} of its Backend)",
                        if self.wireguard.is_some() { "ListenPort" } else { "Port" }
                    )
                })?;
                (self.open(queues)?, udp)
            }
        };
        if self.wireguard.is_none() {
            udp.carries_bare_packets().context("cannot forbid that datagrams are fragmented")?;
        }
        let (routes, wireguard, mtu) = (self.routes.clone(), self.wireguard.clone(), self.mtu as usize);
        let own = own.only(self.inner).map(IpNetwork::network);
        let engine = Engine::start(Parts { tun, udp, routes, own, level, meters, wireguard, mtu })?;
        self.path_mtu =
            own.ipv4().filter(|_| self.wireguard.is_none()).and_then(|own| self.search(own, engine.voice()));
        self.engine = Some(engine);
        Ok(())
    }

    /// Attaches to the first device that no other process has.
    fn open(&mut self, queues: usize) -> Result<Tun, TunError> {
        let mut outcome = Err(TunError::Name(String::new()));
        for name in &self.devices {
            outcome = Tun::open(name, queues, self.options.level, &self.meters.path);
            if !matches!(outcome, Err(TunError::Busy(_))) {
                self.devices = vec![name.clone()];
                break;
            }
        }
        outcome
    }

    /// The device's name, or the likeliest.
    pub fn device(&self) -> &str {
        self.devices.first().map_or("", String::as_str)
    }

    fn search(&self, own: Ipv4Addr, voice: Voice) -> Option<path_mtu::Task> {
        let SocketAddr::V4(address) = self.address else { return None };
        let (routes, meters) = (self.routes.clone(), self.meters.path_mtu.clone());
        Some(path_mtu::Task::start(path_mtu::Parts { voice, address, own, routes, meters }, self.mtu))
    }

    /// Has another address, or another MTU. With another address the data path is started again, and where packets are padded up
    /// to the MTU.
    pub fn move_to(&mut self, address: IpAddr, mtu: u32) {
        if self.address.ip() != address || (self.mtu != mtu && self.wireguard.is_some()) {
            self.address.set_ip(address);
            self.engine = None;
        }
        self.mtu = mtu;
        if let Some(path_mtu) = &self.path_mtu {
            path_mtu.set_mtu(mtu);
        }
    }

    /// The kernel's programs are where they should be and know what they should, once the device is there.
    pub async fn ensure_fast(&mut self, netlink: &Netlink, external: &External) -> Result<()> {
        if self.fast.is_none() {
            return Ok(());
        }
        let Some(device) = netlink.link_by_name(self.device()).await? else { return Ok(()) };
        let SocketAddr::V4(address) = self.address else { return Ok(()) };
        let place = Place {
            address: *address.ip(),
            port: self.address.port(),
            underlay: external.link.index,
            device: device.index,
            mtu: self.mtu,
            wire: fast::leads_to_a_wire(&external.link),
        };
        match &mut self.fast {
            Some(fast) => fast.ensure(netlink, place).await,
            None => Ok(()),
        }
    }

    /// Brings the device into the wanted state; its index.
    pub async fn ensure(&self, netlink: &Netlink, own: &Dual<IpNetwork>) -> Result<u32> {
        let (name, own) = (self.device(), own.only(self.inner));
        let Some((family, _)) = own.iter().next() else {
            bail!("{name} carries packets of a family that the lease has no subnet of")
        };
        let link = netlink.link_by_name(name).await?.with_context(|| format!("{name} is gone"))?;
        self.owner.mark(netlink, &link, family).await?;
        if link.mtu != self.mtu {
            netlink.set_mtu(link.index, self.mtu).await?;
        }
        if own.v6.is_some() {
            // Nobody is on the link: neither is there an address to be made for it, nor a router to be believed (RFC 4861).
            sysctl::set(&format!("net/ipv6/conf/{name}/addr_gen_mode"), "1")?;
            sysctl::set(&format!("net/ipv6/conf/{name}/accept_ra"), "0")?;
        }
        for subnet in own.values() {
            kernel::set_address(netlink, link.index, subnet.network()).await?;
        }
        if !link.up {
            netlink.set_txqlen(link.index, QUEUE).await?;
            netlink.set_up(link.index, true).await?;
        }
        // ICMP answers come in over the device with the device's own address; without this they are martians.
        sysctl::set(&format!("net/ipv4/conf/{name}/accept_local"), "1")?;
        Ok(link.index)
    }
}

/// The names of devices that a tunnel of this owner may have, by how they are counted: the one that bears its label, else those that nobody
/// has.
pub async fn devices(netlink: &Netlink, owner: &Owner, name: fn(usize) -> String) -> Result<Vec<String>> {
    let links = netlink.links().await?;
    let label = |n| links.iter().find(|link| link.name == name(n))?.alias.as_deref();
    let chosen = owner.choose((0..owner::MOST).map(label));
    if chosen.is_empty() {
        bail!("{} to {} are devices of other flannelds on this host", name(0), name(owner::MOST - 1));
    }
    Ok(chosen.into_iter().map(name).collect())
}
