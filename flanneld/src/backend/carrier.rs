//! What carries this node's packets, whatever the backend: prepared before the lease, started with it, told the leases, and mended
//! when somebody takes a part of it away.

use std::net::SocketAddrV4;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use hostnet::{Netlink, sysctl};
use ipnetwork::{IpNetwork, Ipv4Network};

use super::kernel::{self, Desired, Scope};
use super::{BackendKind, host_gw, udp, vxlan};
use crate::config::network::NetworkConfig;
use crate::datapath::counters::Meters;
use crate::datapath::engine::Engine;
use crate::family::{Dual, Family};
use crate::iface::External;
use crate::lease::key::{Advert, Lease};
use crate::route::{Handle, Table};

/// What every link of IPv6 must take in one piece (RFC 8200 section 5).
const IPV6_LEAST_MTU: u32 = 1280;

/// What packets are carried by.
enum Way {
    Udp { port: u16, options: udp::Options, routes: Handle, meters: Meters, engine: Option<Engine> },
    Vxlan(vxlan::Devices),
    HostGw,
    Nothing,
}

/// See the module.
pub struct Carrier {
    netlink: Netlink,
    networks: Dual<IpNetwork>,
    external: External,
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
                Way::Udp { port, options, routes: Handle::default(), meters, engine: None }
            }
            BackendKind::Vxlan(options) => {
                let last = leases.iter().find(|lease| lease.is_of(&external.public));
                let mut macs = Dual::default();
                if network.pools.v4.is_some() {
                    macs.v4 = Some(vxlan::choose_mac(&netlink, &options, Family::V4, last).await?);
                }
                if network.pools.v6.is_some() {
                    macs.v6 = Some(vxlan::choose_mac(&netlink, &options, Family::V6, last).await?);
                }
                Way::Vxlan(vxlan::Devices { options, external: external.clone(), macs })
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
        let others = leases.into_iter().filter(|lease| !lease.is_of(&external.public)).collect();
        let carrier = Carrier { netlink, networks: network.networks(), external, way, leases: others };
        if carrier.networks.v6.is_some() {
            carrier.prepare_ipv6()?;
        }
        Ok(carrier)
    }

    /// What IPv6 needs of the host before packets are forwarded.
    fn prepare_ipv6(&self) -> Result<()> {
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

    /// What the own lease says.
    pub fn advert(&self) -> Advert {
        match &self.way {
            // flannel's udp and alloc leases say nothing.
            Way::Udp { .. } | Way::Nothing => Advert::default(),
            Way::Vxlan(device) => device.options.advert(&device.macs),
            Way::HostGw => Advert { kind: host_gw::TYPE.to_owned(), data: Dual::default() },
        }
    }

    /// The largest packet of a pod, of whichever family.
    pub fn mtu(&self) -> u32 {
        match &self.way {
            Way::Udp { .. } => udp::mtu(&self.external),
            Way::Vxlan(devices) => {
                let mtus =
                    self.networks.iter().map(|(family, _)| devices.options.mtu(&self.external, family));
                mtus.min().unwrap_or(self.external.link.mtu)
            }
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

    /// Stops what belongs to an earlier lease, and makes what this one needs.
    pub async fn start(&mut self, own: Dual<IpNetwork>) -> Result<()> {
        if let Way::Udp { engine, .. } = &mut self.way {
            *engine = None;
        }
        self.mend(own).await
    }

    /// Without a lease nothing is carried.
    pub async fn withdraw(&mut self, own: Dual<IpNetwork>) -> Result<()> {
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
        own: Dual<IpNetwork>,
        others: impl Iterator<Item = &Lease>,
        until: Option<Instant>,
    ) -> Result<()> {
        if let Way::Udp { port, routes, .. } = &self.way {
            let peers = others.filter_map(|lease| {
                Some((lease.subnets.ipv4()?, SocketAddrV4::new(lease.public.ipv4()?, *port)))
            });
            routes.publish(Table::new(own.ipv4(), peers).valid_until(until));
            return Ok(());
        }
        self.leases = others.cloned().collect();
        self.sync(own).await
    }

    /// Mends what somebody took away: device, address, routes, or a data path that ended.
    pub async fn mend(&mut self, own: Dual<IpNetwork>) -> Result<()> {
        if let Way::Udp { port, options, routes, meters, engine } = &mut self.way
            && !engine.as_ref().is_some_and(Engine::is_alive)
        {
            if engine.take().is_some() {
                tracing::warn!("the data path ended; starting it again");
            }
            let address = self.external.address.ipv4().with_context(|| no_ipv4(&self.external))?;
            let (address, own) = (SocketAddrV4::new(address, *port), ipv4(own, &self.external)?);
            *engine = Some(udp::start(address, own, *options, routes.clone(), meters.clone())?);
        }
        self.sync(own).await
    }

    /// Brings device and tables into the state that the lease and the others' leases ask for.
    async fn sync(&self, own: Dual<IpNetwork>) -> Result<()> {
        let mut devices = Dual::default();
        let desired = match &self.way {
            Way::Udp { .. } => {
                let network = ipv4(self.networks, &self.external)?;
                let device = udp::ensure(&self.netlink, ipv4(own, &self.external)?, &self.external).await?;
                devices.v4 = Some(device);
                udp::plan(device, network, &self.external)
            }
            Way::Vxlan(vxlan) => {
                if let Some(subnet) = own.v4 {
                    devices.v4 = Some(vxlan.ensure(&self.netlink, subnet).await?);
                }
                if let Some(subnet) = own.v6 {
                    devices.v6 = Some(vxlan.ensure(&self.netlink, subnet).await?);
                }
                let on_link = self.on_link().await?;
                vxlan.plan(&devices, &self.networks, &on_link, &self.leases)
            }
            Way::HostGw => host_gw::plan(&self.networks, &self.external, &self.leases),
            Way::Nothing => Desired::default(),
        };
        let scope = Scope { networks: self.networks, underlay: self.external.link.index, devices };
        kernel::sync(&self.netlink, scope, &desired).await
    }

    /// The networks of the interface to the other nodes.
    async fn on_link(&self) -> Result<Vec<IpNetwork>> {
        let addresses = self.netlink.addresses(Some(self.external.link.index)).await?;
        let networks = addresses.into_iter().map(|address| address.net);
        Ok(networks.filter(|net| !net.ip().is_unspecified()).collect())
    }
}

/// The udp backend carries IPv4 only, and a network without it is refused when it is read.
fn ipv4(subnets: Dual<IpNetwork>, external: &External) -> Result<Ipv4Network> {
    subnets.ipv4().with_context(|| no_ipv4(external))
}

fn no_ipv4(external: &External) -> String {
    format!("the udp backend needs IPv4, which {} or the network lacks", external.link.name)
}
