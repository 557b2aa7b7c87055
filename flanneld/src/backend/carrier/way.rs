//! What packets are carried by: a backend's devices and tunnels, made ready before the lease.

use std::net::SocketAddr;

use anyhow::Result;
use hostnet::Netlink;

use super::ipv4_of;
use crate::backend::extension::Extension;
use crate::backend::fast::FastPath;
use crate::backend::udp::Tunnel;
use crate::backend::{BackendKind, host_gw, ipip, udp, vxlan, wireguard};
use crate::config::network::NetworkConfig;
use crate::datapath::counters::Meters;
use crate::family::Family;
use crate::iface::External;
use crate::lease::key::Lease;
use crate::owner::Owner;

/// What packets are carried by.
pub(super) enum Way {
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
    pub(super) fn tunnels(&self) -> &[Tunnel] {
        match self {
            Way::Udp(tunnel) => std::slice::from_ref(&**tunnel),
            Way::Wireguard(tunnels, _) => tunnels,
            _ => &[],
        }
    }

    pub(super) fn tunnels_mut(&mut self) -> &mut [Tunnel] {
        match self {
            Way::Udp(tunnel) => std::slice::from_mut(&mut **tunnel),
            Way::Wireguard(tunnels, _) => tunnels,
            _ => &mut [],
        }
    }

    /// Before the lease; `leases` are those that are there, the own one of the last time among them.
    pub(super) async fn prepare(
        netlink: &Netlink,
        network: &NetworkConfig,
        external: &External,
        (options, meters): (udp::Options, Meters),
        owner: &Owner,
        leases: &[Lease],
    ) -> Result<Way> {
        Ok(match &network.backend {
            BackendKind::Udp { port, mtu } => {
                let address = SocketAddr::new(ipv4_of(external)?.into(), *port);
                let devices = udp::devices(netlink, owner, udp::device).await?;
                Way::Udp(Box::new(Tunnel {
                    inner: Some(Family::V4),
                    mtu: udp::mtu(external, *mtu),
                    outer_mtu: *mtu,
                    fast: FastPath::load(options.fast, &external.link, &meters, owner),
                    ..Tunnel::new((devices, owner.clone()), address, options, meters)
                }))
            }
            BackendKind::Wireguard(wanted) => {
                let node = wireguard::Node::new(wanted.clone(), network.networks())?;
                match node.is_in_kernel(netlink, options.wireguard, owner).await? {
                    true => Way::KernelWireguard(node.devices(netlink, owner).await?, node),
                    false => {
                        let mut tunnels = Vec::new();
                        for lane in &node.lanes {
                            let devices = udp::devices(netlink, owner, lane.device).await?;
                            let listen = lane.listen(external)?;
                            tunnels.push(Tunnel {
                                inner: lane.inner,
                                mtu: node.mtu(external),
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
                Way::Vxlan(vxlan::Devices::prepare(netlink, *options, whose, &families, last).await?)
            }
            BackendKind::HostGw => {
                host_gw::check(external)?;
                Way::HostGw
            }
            BackendKind::Ipip(options) => {
                owner.device(netlink, ipip::DEVICE, ipip::REMEDY).await?;
                let (owner, external) = (owner.clone(), external.clone());
                Way::Ipip(ipip::Device { options: *options, owner, external })
            }
            BackendKind::Extension(options) => Way::Extension(Extension::prepare(options.clone()).await?),
            BackendKind::Alloc => Way::Nothing,
        })
    }
}
