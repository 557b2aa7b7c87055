//! What carries this node's packets, whatever the backend: prepared before the lease, started with it, told the leases, and mended
//! when somebody takes a part of it away.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::BorrowedFd;
use std::time::Instant;

use anyhow::{Result, bail};
use hostnet::Netlink;
use ipnetwork::{IpNetwork, Ipv4Network};
use serde::{Deserialize, Serialize};

use super::kernel::{self, Desired, Scope};
use super::{BackendKind, host_gw, udp, vxlan};
use crate::config::network::NetworkConfig;
use crate::datapath::counters::Meters;
use crate::datapath::engine::Engine;
use crate::datapath::pass::Given;
use crate::datapath::path::Level;
use crate::iface::External;
use crate::lease::key::{Advert, Lease};
use crate::route::{Handle, Table};

/// What packets are carried by.
enum Way {
    Udp {
        port: u16,
        options: udp::Options,
        routes: Handle,
        meters: Meters,
        engine: Option<Engine>,
        given: Option<Given>,
    },
    Vxlan(vxlan::Device),
    HostGw,
    Nothing,
}

/// What a data path has to be like that one process starts and another one goes on with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    listen: SocketAddrV4,
    level: Level,
}

/// See the module.
pub struct Carrier {
    netlink: Netlink,
    network: Ipv4Network,
    external: External,
    /// Whether what is sent to the own subnet is dropped while no interface has it.
    blackhole: bool,
    way: Way,
    /// What the kernel should have, as of the last leases; the device's part of it is made anew where the device is.
    leases: Vec<Lease>,
}

impl Carrier {
    /// Before the lease: `leases` are those that are there, the own one of the last time among them. What they ask for stays in the
    /// kernel across a restart.
    pub async fn prepare(
        netlink: Netlink,
        network: &NetworkConfig,
        external: External,
        (options, meters): (udp::Options, Meters),
        leases: Vec<Lease>,
    ) -> Result<Carrier> {
        let way = match network.backend {
            BackendKind::Udp { port } => {
                Way::Udp { port, options, routes: Handle::default(), meters, engine: None, given: None }
            }
            BackendKind::Vxlan(options) => {
                let mac = vxlan::choose_mac(&netlink, &options, &leases, external.public).await?;
                Way::Vxlan(vxlan::Device { options, external: external.clone(), mac })
            }
            BackendKind::HostGw if external.public != external.address => bail!(
                "host-gw: --public-ip {} must be an address of {}, which has {}",
                external.public,
                external.link.name,
                external.address
            ),
            BackendKind::HostGw => Way::HostGw,
            BackendKind::Alloc => Way::Nothing,
        };
        let others = leases.into_iter().filter(|lease| lease.public_ip != external.public).collect();
        Ok(Carrier { netlink, network: network.network, external, blackhole: false, way, leases: others })
    }

    /// Drops what is sent to the own subnet while no interface has it, or refuses it.
    #[must_use]
    pub fn with_blackhole(self, blackhole: bool) -> Carrier {
        Carrier { blackhole, ..self }
    }

    /// What the own lease says.
    pub fn advert(&self) -> Advert {
        match &self.way {
            // flannel's udp and alloc leases say nothing.
            Way::Udp { .. } | Way::Nothing => Advert::default(),
            Way::Vxlan(device) => device.options.advert(device.mac),
            Way::HostGw => Advert { kind: host_gw::TYPE.to_owned(), data: String::new() },
        }
    }

    /// The largest packet of a pod.
    pub fn mtu(&self) -> u32 {
        match &self.way {
            Way::Udp { .. } => udp::mtu(&self.external),
            Way::Vxlan(device) => device.options.mtu(&self.external),
            Way::HostGw | Way::Nothing => self.external.link.mtu,
        }
    }

    /// Whether packets are carried.
    pub fn is_alive(&self) -> bool {
        match &self.way {
            Way::Udp { engine, .. } => engine.as_ref().is_some_and(Engine::is_alive),
            _ => true,
        }
    }

    /// What it could go on with, if another process passed it on.
    pub fn wish(&self) -> Option<Wish> {
        match &self.way {
            Way::Udp { port, options, .. } => {
                Some(Wish { listen: SocketAddrV4::new(self.external.address, *port), level: options.level })
            }
            _ => None,
        }
    }

    /// Goes on with that from its next start on.
    pub fn inherit(&mut self, inherited: Option<Given>) {
        if let Way::Udp { given, .. } = &mut self.way {
            *given = inherited;
        }
    }

    /// What is passed on to a process with this wish, while packets are carried as before. If there is nothing that it could go on
    /// with, this one lets go of what it has.
    pub fn pass_on(&mut self, wish: Option<&Wish>) -> Vec<BorrowedFd<'_>> {
        let fits = wish.is_some() && self.wish().as_ref() == wish;
        match &mut self.way {
            Way::Udp { engine, .. } => {
                if !fits {
                    *engine = None;
                }
                engine.as_ref().map(Engine::descriptors).unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }

    /// Stops what belongs to an earlier lease, and makes what this one needs.
    pub async fn start(&mut self, own: Ipv4Network) -> Result<()> {
        if let Way::Udp { engine, .. } = &mut self.way {
            *engine = None;
        }
        self.mend(own).await
    }

    /// Without a lease nothing is carried.
    pub async fn withdraw(&mut self, own: Ipv4Network) -> Result<()> {
        self.leases.clear();
        if let Way::Udp { routes, .. } = &self.way {
            routes.publish(Table::default());
        }
        self.sync(own).await
    }

    /// Takes over the leases of the other nodes, for as long as the own one is certainly ours. What the kernel carries has no clock: there
    /// it is control that takes the routes away in time ([`Carrier::withdraw`]).
    pub async fn publish(
        &mut self,
        own: Ipv4Network,
        others: impl Iterator<Item = &Lease>,
        until: Option<Instant>,
    ) -> Result<()> {
        if let Way::Udp { port, routes, .. } = &self.way {
            let peers = others.map(|lease| (lease.subnet, SocketAddrV4::new(lease.public_ip, *port)));
            routes.publish(Table::new(Some(own), peers).valid_until(until));
            return Ok(());
        }
        self.leases = others.cloned().collect();
        self.sync(own).await
    }

    /// Mends what somebody took away: device, address, routes, or a data path that ended.
    pub async fn mend(&mut self, own: Ipv4Network) -> Result<()> {
        if let Way::Udp { port, options, routes, meters, engine, given } = &mut self.way
            && !engine.as_ref().is_some_and(Engine::is_alive)
        {
            if engine.take().is_some() {
                tracing::warn!("the data path ended; starting it again");
            }
            let address = SocketAddrV4::new(self.external.address, *port);
            let shared = (routes.clone(), meters.clone());
            *engine = Some(udp::start(address, own, *options, shared, given.take())?);
        }
        self.sync(own).await
    }

    /// Brings device and tables into the state that the lease and the others' leases ask for.
    async fn sync(&self, own: Ipv4Network) -> Result<()> {
        let (device, mut desired) = match &self.way {
            Way::Udp { .. } => {
                let device = udp::ensure(&self.netlink, own, &self.external).await?;
                (Some(device), udp::plan(device, self.network, &self.external))
            }
            Way::Vxlan(vxlan) => {
                let device = vxlan.ensure(&self.netlink, own).await?;
                let on_link = self.on_link().await?;
                (Some(device), vxlan.plan(device, self.network, &on_link, &self.leases))
            }
            Way::HostGw => (None, host_gw::plan(self.network, &self.external, &self.leases)),
            Way::Nothing => (None, Desired::default()),
        };
        if self.blackhole {
            desired.routes.push(kernel::blackhole(own));
        }
        let scope = Scope { network: self.network, underlay: self.external.link.index, device };
        kernel::sync(&self.netlink, scope, &desired).await
    }

    /// The networks of the interface to the other nodes.
    async fn on_link(&self) -> Result<Vec<Ipv4Network>> {
        let addresses = self.netlink.addresses(Some(self.external.link.index)).await?;
        Ok(addresses.into_iter().filter_map(|address| v4(address.net)).collect())
    }
}

fn v4(net: IpNetwork) -> Option<Ipv4Network> {
    match (net.ip(), net) {
        (IpAddr::V4(ip), IpNetwork::V4(net)) if ip != Ipv4Addr::UNSPECIFIED => Some(net),
        _ => None,
    }
}
