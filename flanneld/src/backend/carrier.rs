//! What carries this node's packets, whatever the backend: prepared before the lease, started with it, told the leases, and mended
//! when somebody takes a part of it away.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use hostnet::{Netlink, sysctl};
use ipnetwork::{IpNetwork, Ipv4Network};
use serde::{Deserialize, Serialize};

use super::extension::Extension;
use super::fast::{self, FastPath};
use super::kernel::{self, Desired, Scope};
use super::udp::Tunnel;
use super::{BackendKind, host_gw, ipip, udp, vxlan, wireguard};
use crate::config::IfaceChoice;
use crate::config::network::NetworkConfig;
use crate::datapath::counters::Meters;
use crate::datapath::engine::Engine;
use crate::datapath::pass::Given;
use crate::datapath::path::Level;
use crate::family::{Dual, Family};
use crate::iface::{self, External, Wanted};
use crate::lease::features::Feature;
use crate::lease::key::{Advert, Lease};
use crate::look::status as told;
use crate::owner::Owner;
use crate::route::Table;

/// What every link of IPv6 must take in one piece (RFC 8200 section 5).
const IPV6_LEAST_MTU: u32 = 1280;

/// What packets are carried by.
enum Way {
    Udp(Box<Tunnel>),
    /// The tunnels are those of the node's lanes, in their order.
    Wireguard(Vec<Tunnel>, wireguard::Node),
    KernelWireguard(Vec<wireguard::kernel::Device>, wireguard::Node),
    Vxlan(vxlan::Devices),
    Ipip(ipip::Device),
    HostGw,
    Extension(Extension),
    Nothing,
}

impl Way {
    /// The tunnels of our own.
    fn tunnels(&self) -> &[Tunnel] {
        match self {
            Way::Udp(tunnel) => std::slice::from_ref(&**tunnel),
            Way::Wireguard(tunnels, _) => tunnels,
            _ => &[],
        }
    }

    fn tunnels_mut(&mut self) -> &mut [Tunnel] {
        match self {
            Way::Udp(tunnel) => std::slice::from_mut(&mut **tunnel),
            Way::Wireguard(tunnels, _) => tunnels,
            _ => &mut [],
        }
    }
}

/// What a data path has to be like that one process starts and another one goes on with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    listen: SocketAddr,
    level: Level,
}

/// See the module.
pub struct Carrier {
    netlink: Netlink,
    networks: Dual<IpNetwork>,
    external: External,
    /// Whether what is sent to the own subnet is dropped while no interface has it.
    blackhole: bool,
    way: Way,
    /// The backend's own device of each family, as they were found last.
    devices: Dual<u32>,
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
        owner: Owner,
        leases: Vec<Lease>,
    ) -> Result<Carrier> {
        owner.check_networks(&netlink).await?;
        let way = match &network.backend {
            BackendKind::Udp { port, mtu } => {
                let address = SocketAddr::new(ipv4_of(&external)?.into(), *port);
                let devices = udp::devices(&netlink, &owner, udp::device).await?;
                Way::Udp(Box::new(Tunnel {
                    inner: Some(Family::V4),
                    mtu: udp::mtu(&external, *mtu),
                    outer_mtu: *mtu,
                    fast: FastPath::load(options.fast, &external.link, &meters, &owner),
                    ..Tunnel::new((devices, owner.clone()), address, options, meters)
                }))
            }
            BackendKind::Wireguard(wanted) => {
                let node = wireguard::Node::new(wanted.clone(), network.networks())?;
                match node.is_in_kernel(&netlink, options.wireguard, &owner).await? {
                    true => Way::KernelWireguard(node.devices(&netlink, &owner).await?, node),
                    false => {
                        let mut tunnels = Vec::new();
                        for lane in &node.lanes {
                            let devices = udp::devices(&netlink, &owner, lane.device).await?;
                            let listen = lane.listen(&external)?;
                            tunnels.push(Tunnel {
                                inner: lane.inner,
                                mtu: node.mtu(&external),
                                wireguard: Some(node.wireguard()),
                                ..Tunnel::new((devices, owner.clone()), listen, options, meters.clone())
                            });
                        }
                        Way::Wireguard(tunnels, node)
                    }
                }
            }
            BackendKind::Vxlan(options) => {
                let last = leases.iter().find(|lease| lease.is_of(&external.public));
                let families = network.pools.iter().map(|(family, _)| family).collect::<Vec<_>>();
                let whose = (owner.clone(), external.clone());
                Way::Vxlan(vxlan::Devices::prepare(&netlink, *options, whose, &families, last).await?)
            }
            BackendKind::HostGw => {
                host_gw::check(&external)?;
                Way::HostGw
            }
            BackendKind::Ipip(options) => {
                owner.device(&netlink, ipip::DEVICE, ipip::REMEDY).await?;
                let (owner, external) = (owner.clone(), external.clone());
                Way::Ipip(ipip::Device { options: *options, owner, external })
            }
            BackendKind::Extension(options) => Way::Extension(Extension::prepare(options.clone()).await?),
            BackendKind::Alloc => Way::Nothing,
        };
        if !matches!(&way, Way::Udp(tunnel) if tunnel.fast.is_some()) {
            fast::remove(&netlink, external.link.index, &owner).await?;
        }
        let carrier = Carrier {
            leases: leases.into_iter().filter(|lease| !lease.is_of(&external.public)).collect(),
            netlink,
            networks: network.networks(),
            external,
            blackhole: false,
            way,
            devices: Dual::default(),
        };
        carrier.prepare_ipv6()?;
        Ok(carrier)
    }

    /// What IPv6 needs of the host before packets are forwarded.
    fn prepare_ipv6(&self) -> Result<()> {
        if self.networks.v6.is_none() {
            return Ok(());
        }
        let mtu = self.mtu();
        if mtu < IPV6_LEAST_MTU {
            bail!(
                "packets of pods could have {mtu} bytes, and IPv6 needs {IPV6_LEAST_MTU}: enlarge the MTU of {}",
                self.external.link.name
            );
        }
        // A host that forwards does not listen to routers any more unless it is told to, and would lose its own default route in time.
        let accept = format!("net/ipv6/conf/{}/accept_ra", self.external.link.name);
        if sysctl::get(&accept)? == "1" {
            sysctl::set(&accept, "2")?;
        }
        Ok(sysctl::set("net/ipv6/conf/all/forwarding", "1")?)
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
            Way::Wireguard(_, node) | Way::KernelWireguard(_, node) => node.advert(),
            Way::Vxlan(devices) => devices.options.advert(&devices.macs),
            Way::Ipip(_) => Advert { kind: ipip::TYPE.to_owned(), ..Advert::default() },
            Way::HostGw => Advert { kind: host_gw::TYPE.to_owned(), ..Advert::default() },
            Way::Extension(extension) => extension.advert(),
        }
    }

    /// The largest packet of a pod, of whichever family.
    pub fn mtu(&self) -> u32 {
        match &self.way {
            Way::Udp(tunnel) => tunnel.mtu,
            Way::Wireguard(_, node) | Way::KernelWireguard(_, node) => node.mtu(&self.external),
            Way::Vxlan(devices) => {
                let mtus =
                    self.networks.iter().map(|(family, _)| devices.options.mtu(&self.external, family));
                mtus.min().unwrap_or(self.external.link.mtu)
            }
            Way::Ipip(device) => device.mtu(),
            Way::HostGw | Way::Extension(_) | Way::Nothing => self.external.link.mtu,
        }
    }

    /// What it tells of itself.
    pub fn told(&self) -> (told::Interface, told::Network) {
        // Of two tunnels the one of IPv4.
        let tunnel = self.way.tunnels().first();
        let (port, device) = tunnel.map(|it| (it.address.port(), it.device().to_owned())).unzip();
        let (backend, port, device) = match &self.way {
            Way::Udp(_) => ("udp", port, device),
            Way::Wireguard(..) => (wireguard::TYPE, port, device),
            Way::KernelWireguard(devices, node) => {
                let port = node.lanes.first().map(|lane| lane.port);
                (wireguard::TYPE, port, devices.first().map(|device| device.name.clone()))
            }
            Way::Vxlan(vxlan) => {
                (vxlan::TYPE, Some(vxlan.options.port), Some(vxlan.options.device(Family::V4)))
            }
            Way::Ipip(_) => (ipip::TYPE, None, Some(ipip::DEVICE.to_owned())),
            Way::HostGw => (host_gw::TYPE, None, None),
            Way::Extension(_) => ("extension", None, None),
            Way::Nothing => ("alloc", None, None),
        };
        let interface = told::Interface {
            name: self.external.link.name.clone(),
            index: self.external.link.index,
            addresses: self.external.address.values().copied().collect(),
            public_ips: self.external.public.values().copied().collect(),
            mtu: self.external.link.mtu,
        };
        let (backend, mtu) = (backend.to_owned(), self.mtu());
        (
            interface,
            told::Network { networks: self.networks.values().copied().collect(), backend, port, device, mtu },
        )
    }

    /// Whether packets are carried.
    pub fn is_alive(&self) -> bool {
        self.way.tunnels().iter().all(Tunnel::is_alive)
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
        if wish.is_none() || self.wish().as_ref() != wish {
            self.way.tunnels_mut().iter_mut().for_each(|tunnel| tunnel.engine = None);
        }
        self.way
            .tunnels()
            .iter()
            .filter_map(|tunnel| tunnel.engine.as_ref())
            .flat_map(Engine::descriptors)
            .collect()
    }

    /// Looks whether the interface to the other nodes is another one now or has another address, and goes over to it; whether that was
    /// so. As long as there is none, what was known of it stays.
    pub async fn follow_interface(&mut self, choice: &IfaceChoice, public: &Dual<IpAddr>) -> Result<bool> {
        let families: Vec<Family> = self.networks.iter().map(|(family, _)| family).collect();
        let wanted = Wanted { families: &families, public, used: &self.external.address };
        let found = iface::find(&self.netlink, choice, &wanted).await?;
        let what = |external: &External| (external.link.index, external.link.mtu, external.address);
        if what(&found) == what(&self.external) && found.public == self.external.public {
            return Ok(false);
        }
        tracing::warn!(interface = found.link.name, index = found.link.index, address = %found.address, public = %found.public,
            mtu = found.link.mtu, "the interface to the other nodes is another one now, or has changed");
        match &mut self.way {
            Way::Udp(tunnel) => tunnel.move_to(ipv4_of(&found)?.into(), udp::mtu(&found, tunnel.outer_mtu)),
            Way::Wireguard(tunnels, node) => {
                for (tunnel, lane) in tunnels.iter_mut().zip(&node.lanes) {
                    tunnel.move_to(lane.listen(&found)?.ip(), node.mtu(&found));
                }
            }
            Way::Vxlan(device) => device.external = found.clone(),
            Way::Ipip(device) => device.external = found.clone(),
            Way::HostGw => host_gw::check(&found)?,
            _ => {}
        }
        self.external = found;
        self.prepare_ipv6()?;
        Ok(true)
    }

    /// The addresses that other nodes are told.
    pub fn public(&self) -> Dual<IpAddr> {
        self.external.public
    }

    /// The backend's own devices, as they were found last.
    pub fn devices(&self) -> Vec<u32> {
        self.devices.values().copied().collect()
    }

    /// Stops what belongs to an earlier lease, and makes what this one needs.
    pub async fn start(&mut self, own: Dual<IpNetwork>) -> Result<()> {
        self.way.tunnels_mut().iter_mut().for_each(|tunnel| tunnel.engine = None);
        if let Way::Extension(extension) = &mut self.way {
            extension.start(&self.networks, &own, &self.external.public).await?;
        }
        self.mend(own).await
    }

    /// Without a lease nothing is carried.
    pub async fn withdraw(&mut self, own: Dual<IpNetwork>) -> Result<()> {
        self.leases.clear();
        if let Way::KernelWireguard(devices, _) = &mut self.way {
            devices.iter_mut().for_each(wireguard::kernel::Device::withdraw);
        }
        for tunnel in self.way.tunnels_mut() {
            tunnel.routes.publish(Table::default());
            tunnel.fast.as_mut().map_or(Ok(()), FastPath::withdraw)?;
        }
        self.sync(own).await
    }

    /// What is to be done each second, without asking the kernel for much: its own programs hear what was found out of the ways to peers.
    pub fn tend(&mut self) {
        self.way.tunnels_mut().iter_mut().filter_map(|tunnel| tunnel.fast.as_mut()).for_each(FastPath::tend);
    }

    /// Takes over the leases of the other nodes, for as long as the own one is certainly ours. What the kernel carries has no clock: there
    /// it is control that takes the routes away in time ([`Carrier::withdraw`]).
    pub async fn publish(
        &mut self,
        own: Dual<IpNetwork>,
        others: impl Iterator<Item = &Lease>,
        until: Option<Instant>,
    ) -> Result<()> {
        match &mut self.way {
            Way::Udp(tunnel) => {
                let port = tunnel.address.port();
                let ledger = &tunnel.meters.peers;
                let others: Vec<&Lease> = others.collect();
                let peers = others.iter().filter_map(|lease| {
                    let (subnet, at) = (lease.subnets.v4?, lease.public.v4?);
                    ledger.of(at).way.set_takes_marks(lease.backend.features.has(Feature::Ecn));
                    Some((subnet, SocketAddr::new(at, port)))
                });
                let table = Table::counted(own.only(tunnel.inner), peers, ledger).valid_until(until);
                ledger.keep(&table.next_hops());
                tunnel.routes.publish(table);
                if let (Some(fast), Some(own)) = (&mut tunnel.fast, own.ipv4()) {
                    fast.publish(own, others.into_iter().filter_map(udp::neighbour).collect(), until);
                }
                tunnel.ensure_fast(&self.netlink, &self.external).await
            }
            Way::Wireguard(tunnels, node) => {
                let others: Vec<&Lease> = others.collect();
                let lanes = node.publish(&others, &self.external.public);
                let mut reached = BTreeSet::new();
                for (tunnel, peers) in tunnels.iter().zip(lanes) {
                    if let Some(wireguard) = &tunnel.wireguard {
                        wireguard.publish(peers.iter().map(|peer| (peer.at, peer.key)));
                    }
                    let hops = peers.iter().map(|peer| (peer.subnet, peer.at));
                    let own = own.only(tunnel.inner);
                    let table = Table::counted(own, hops, &tunnel.meters.peers).valid_until(until);
                    reached.append(&mut table.next_hops());
                    tunnel.routes.publish(table);
                }
                tunnels.iter().for_each(|tunnel| tunnel.meters.peers.keep(&reached));
                Ok(())
            }
            Way::KernelWireguard(devices, node) => {
                let lanes = node.publish(&others.collect::<Vec<_>>(), &self.external.public);
                for (device, peers) in devices.iter_mut().zip(lanes) {
                    device.publish(node, &peers);
                }
                self.sync(own).await
            }
            _ => {
                self.leases = others.cloned().collect();
                self.sync(own).await
            }
        }
    }

    /// Mends what somebody took away: device, address, routes, or a data path that ended.
    pub async fn mend(&mut self, own: Dual<IpNetwork>) -> Result<()> {
        for tunnel in self.way.tunnels_mut().iter_mut().filter(|tunnel| !tunnel.is_alive()) {
            tunnel.start(&own)?;
        }
        self.sync(own).await?;
        match &mut self.way {
            Way::Udp(tunnel) => tunnel.ensure_fast(&self.netlink, &self.external).await,
            _ => Ok(()),
        }
    }

    /// Brings device and tables into the state that the lease and the others' leases ask for.
    async fn sync(&mut self, own: Dual<IpNetwork>) -> Result<()> {
        let mut devices = Dual::default();
        let mut desired = match self.way {
            // Devices and routes are somebody else's.
            Way::Nothing => return self.drop_only(own).await,
            Way::Extension(ref extension) => {
                extension.publish(self.leases.clone());
                return self.drop_only(own).await;
            }
            Way::Udp(_) | Way::Wireguard(..) => {
                let mut desired = Desired::refusing(&self.networks);
                for tunnel in self.way.tunnels() {
                    let device = tunnel.ensure(&self.netlink, &own).await?;
                    own.only(tunnel.inner).iter().for_each(|(family, _)| devices.set(family, device));
                    let networks = self.networks.only(tunnel.inner);
                    desired.routes.extend(kernel::into_device(device, tunnel.mtu, &networks));
                }
                desired
            }
            Way::KernelWireguard(ref mut all, ref node) => {
                let (mut desired, mtu) = (Desired::refusing(&self.networks), node.mtu(&self.external));
                for it in all {
                    let device = it.ensure(&self.netlink, mtu, &own).await?;
                    own.only(it.inner).iter().for_each(|(family, _)| devices.set(family, device));
                    let networks = self.networks.only(it.inner);
                    desired.routes.extend(kernel::into_device(device, mtu, &networks));
                }
                desired
            }
            Way::Vxlan(ref vxlan) => {
                if let Some(subnet) = own.v4 {
                    devices.v4 = Some(vxlan.ensure(&self.netlink, subnet).await?);
                }
                if let Some(subnet) = own.v6 {
                    devices.v6 = Some(vxlan.ensure(&self.netlink, subnet).await?);
                }
                let on_link = self.on_link().await?;
                vxlan.plan(&devices, &self.networks, &on_link, &self.leases)
            }
            Way::Ipip(ref ipip) => {
                let device = ipip.ensure(&self.netlink, ipv4(&own)?).await?;
                devices.v4 = Some(device);
                let on_link = self.on_link().await?;
                ipip.plan(device, &self.networks, &on_link, &self.leases)
            }
            Way::HostGw => host_gw::plan(&self.networks, &self.external, &self.leases),
        };
        if self.blackhole {
            desired.routes.extend(own.values().map(|subnet| kernel::blackhole(*subnet)));
        }
        self.devices = devices;
        let scope = Scope { networks: self.networks, underlay: self.external.link.index, devices };
        kernel::sync(&self.netlink, scope, &desired).await
    }

    /// Drops what is sent to own pods that are not there, if that is wished, and leaves all other routes alone.
    async fn drop_only(&self, own: Dual<IpNetwork>) -> Result<()> {
        if self.blackhole {
            for subnet in own.values() {
                self.netlink.replace_route(&kernel::blackhole(*subnet)).await?;
            }
        }
        Ok(())
    }

    /// The networks of the interface to the other nodes.
    async fn on_link(&self) -> Result<Vec<IpNetwork>> {
        let addresses = self.netlink.addresses(Some(self.external.link.index)).await?;
        let networks = addresses.into_iter().map(|address| address.net);
        Ok(networks.filter(|net| !net.ip().is_unspecified()).collect())
    }
}

/// IPIP is of IPv4 only; a network without it is refused when it is read.
fn ipv4(networks: &Dual<IpNetwork>) -> Result<Ipv4Network> {
    networks.ipv4().context("this backend needs IPv4, which the network lacks")
}

fn ipv4_of(external: &External) -> Result<Ipv4Addr> {
    external.address.ipv4().with_context(|| format!("{} has no IPv4 address", external.link.name))
}
