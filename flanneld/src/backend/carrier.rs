//! What carries this node's packets, whatever the backend: prepared before the lease, started with it, told the leases, and mended
//! when somebody takes a part of it away.

mod tables;
mod told;
mod way;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;

use anyhow::{Context, Result, bail};
use hostnet::{Netlink, sysctl};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::fast::{self, FastPath};
use super::udp::Tunnel;
use super::{host_gw, udp, wireguard};
use crate::config::IfaceChoice;
use crate::config::network::NetworkConfig;
use crate::datapath::counters::Meters;
use crate::datapath::engine::Engine;
use crate::datapath::pass::Given;
use crate::datapath::path::Level;
use crate::family::{Dual, Family};
use crate::iface::{self, External, Wanted};
use crate::lease::key::Lease;
use crate::owner::Owner;
use crate::route::Table;
use way::Way;

/// What every link of IPv6 must take in one piece (RFC 8200 section 5).
const IPV6_LEAST_MTU: u32 = 1280;

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
        let way = Way::prepare(&netlink, network, &external, (options, meters), &owner, &leases).await?;
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
}

fn ipv4_of(external: &External) -> Result<Ipv4Addr> {
    external.address.ipv4().with_context(|| format!("{} has no IPv4 address", external.link.name))
}
