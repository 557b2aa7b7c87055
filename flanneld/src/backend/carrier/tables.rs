//! What a carrier has the kernel and the data path know: the leases as routes, and its devices where somebody took them away.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result};
use ipnetwork::{IpNetwork, Ipv4Network};

use super::{Carrier, Way};
use crate::backend::kernel::{self, Desired, Scope};
use crate::backend::{host_gw, udp};
use crate::family::Dual;
use crate::lease::features::Feature;
use crate::lease::key::Lease;
use crate::route::Table;

impl Carrier {
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
    pub(super) async fn sync(&mut self, own: Dual<IpNetwork>) -> Result<()> {
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
