//! What carries this node's packets, whatever the backend: prepared before the lease, started with it, told the leases, and mended
//! when somebody takes a part of it away.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::BorrowedFd;
use std::time::Instant;

use anyhow::{Result, bail};
use hostnet::Netlink;
use ipnetwork::{IpNetwork, Ipv4Network};
use serde::{Deserialize, Serialize};

use super::extension::Extension;
use super::kernel::{self, Scope};
use super::udp::Tunnel;
use super::{BackendKind, host_gw, ipip, udp, vxlan, wireguard};
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
    Udp(Tunnel),
    Wireguard(Tunnel, wireguard::Node),
    Vxlan(vxlan::Device),
    Ipip(ipip::Device),
    HostGw,
    Extension(Extension),
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
        let way = match &network.backend {
            BackendKind::Udp { port } => Way::Udp(Tunnel {
                device: udp::DEVICE,
                address: SocketAddrV4::new(external.address, *port),
                mtu: udp::mtu(&external),
                options,
                routes: Handle::default(),
                meters,
                wireguard: None,
                engine: None,
                given: None,
            }),
            BackendKind::Wireguard(wanted) => {
                let node = wireguard::Node::new(wanted.clone())?;
                let tunnel = Tunnel {
                    device: wireguard::DEVICE,
                    address: SocketAddrV4::new(external.address, wanted.port),
                    mtu: wanted.mtu(&external),
                    options,
                    routes: Handle::default(),
                    meters,
                    wireguard: Some(node.wireguard.clone()),
                    engine: None,
                    given: None,
                };
                Way::Wireguard(tunnel, node)
            }
            BackendKind::Vxlan(options) => {
                let mac = vxlan::choose_mac(&netlink, options, &leases, external.public).await?;
                Way::Vxlan(vxlan::Device { options: *options, external: external.clone(), mac })
            }
            BackendKind::Ipip(options) => {
                Way::Ipip(ipip::Device { options: *options, external: external.clone() })
            }
            BackendKind::HostGw if external.public != external.address => bail!(
                "host-gw: --public-ip {} must be an address of {}, which has {}",
                external.public,
                external.link.name,
                external.address
            ),
            BackendKind::HostGw => Way::HostGw,
            BackendKind::Extension(options) => Way::Extension(Extension::prepare(options.clone()).await?),
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
            // Besides, flannel's udp and alloc leases say nothing.
            Way::Udp(_) => Advert { features: udp::features(), ..Advert::default() },
            Way::Nothing => Advert::default(),
            Way::Wireguard(_, node) => node.advert(),
            Way::Vxlan(device) => device.options.advert(device.mac),
            Way::Ipip(_) => Advert { kind: ipip::TYPE.to_owned(), ..Advert::default() },
            Way::HostGw => Advert { kind: host_gw::TYPE.to_owned(), ..Advert::default() },
            Way::Extension(extension) => extension.advert(),
        }
    }

    /// The largest packet of a pod.
    pub fn mtu(&self) -> u32 {
        match &self.way {
            Way::Udp(tunnel) | Way::Wireguard(tunnel, _) => tunnel.mtu,
            Way::Vxlan(device) => device.options.mtu(&self.external),
            Way::Ipip(device) => device.mtu(),
            Way::HostGw | Way::Extension(_) | Way::Nothing => self.external.link.mtu,
        }
    }

    /// Whether packets are carried.
    pub fn is_alive(&self) -> bool {
        match &self.way {
            Way::Udp(tunnel) | Way::Wireguard(tunnel, _) => tunnel.is_alive(),
            _ => true,
        }
    }

    /// What it could go on with, if another process passed it on.
    pub fn wish(&self) -> Option<Wish> {
        match &self.way {
            Way::Udp(tunnel) => Some(Wish { listen: tunnel.address, level: tunnel.options.level }),
            // WireGuard's sessions are one process's: the next one makes its own, and both cannot read one queue.
            _ => None,
        }
    }

    /// Goes on with that from its next start on.
    pub fn inherit(&mut self, inherited: Option<Given>) {
        if let Way::Udp(tunnel) = &mut self.way {
            tunnel.given = inherited;
        }
    }

    /// What is passed on to a process with this wish, while packets are carried as before. If there is nothing that it could go on
    /// with, this one lets go of what it has.
    pub fn pass_on(&mut self, wish: Option<&Wish>) -> Vec<BorrowedFd<'_>> {
        let fits = wish.is_some() && self.wish().as_ref() == wish;
        match &mut self.way {
            Way::Udp(tunnel) | Way::Wireguard(tunnel, _) => {
                if !fits {
                    tunnel.engine = None;
                }
                tunnel.engine.as_ref().map(Engine::descriptors).unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }

    /// Stops what belongs to an earlier lease, and makes what this one needs.
    pub async fn start(&mut self, own: Ipv4Network) -> Result<()> {
        if let Way::Udp(tunnel) | Way::Wireguard(tunnel, _) = &mut self.way {
            tunnel.engine = None;
        }
        if let Way::Extension(extension) = &self.way {
            extension.start(self.network, own, self.external.public).await?;
        }
        self.mend(own).await
    }

    /// Without a lease nothing is carried.
    pub async fn withdraw(&mut self, own: Ipv4Network) -> Result<()> {
        self.leases.clear();
        if let Way::Udp(tunnel) | Way::Wireguard(tunnel, _) = &self.way {
            tunnel.routes.publish(Table::default());
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
        match &mut self.way {
            Way::Udp(tunnel) => {
                let port = tunnel.address.port();
                let peers = others.map(|lease| (lease.subnet, SocketAddrV4::new(lease.public_ip, port)));
                tunnel.routes.publish(Table::new(Some(own), peers).valid_until(until));
                Ok(())
            }
            Way::Wireguard(tunnel, node) => {
                let peers = node.publish(others);
                tunnel.routes.publish(Table::new(Some(own), peers).valid_until(until));
                Ok(())
            }
            _ => {
                self.leases = others.cloned().collect();
                self.sync(own).await
            }
        }
    }

    /// Mends what somebody took away: device, address, routes, or a data path that ended.
    pub async fn mend(&mut self, own: Ipv4Network) -> Result<()> {
        if let Way::Udp(tunnel) | Way::Wireguard(tunnel, _) = &mut self.way
            && !tunnel.is_alive()
        {
            tunnel.start(own)?;
        }
        self.sync(own).await
    }

    /// Brings device and tables into the state that the lease and the others' leases ask for.
    async fn sync(&self, own: Ipv4Network) -> Result<()> {
        let (device, mut desired) = match &self.way {
            // Devices and routes are somebody else's.
            Way::Nothing => return self.drop_only(own).await,
            Way::Extension(extension) => {
                extension.publish(self.leases.clone());
                return self.drop_only(own).await;
            }
            Way::Udp(tunnel) | Way::Wireguard(tunnel, _) => {
                let device = tunnel.ensure(&self.netlink, own).await?;
                (Some(device), tunnel.plan(device, self.network))
            }
            Way::Vxlan(vxlan) => {
                let device = vxlan.ensure(&self.netlink, own).await?;
                let on_link = self.on_link().await?;
                (Some(device), vxlan.plan(device, self.network, &on_link, &self.leases))
            }
            Way::Ipip(ipip) => {
                let device = ipip.ensure(&self.netlink, own).await?;
                let on_link = self.on_link().await?;
                (Some(device), ipip.plan(device, self.network, &on_link, &self.leases))
            }
            Way::HostGw => (None, host_gw::plan(self.network, &self.external, &self.leases)),
        };
        if self.blackhole {
            desired.routes.push(kernel::blackhole(own));
        }
        let scope = Scope { network: self.network, underlay: self.external.link.index, device };
        kernel::sync(&self.netlink, scope, &desired).await
    }

    /// Drops what is sent to own pods that are not there, if that is wished, and leaves all other routes alone.
    async fn drop_only(&self, own: Ipv4Network) -> Result<()> {
        if self.blackhole {
            self.netlink.replace_route(&kernel::blackhole(own)).await?;
        }
        Ok(())
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
