//! What a carrier says: to the other nodes by the lease, to the pods by the MTU, to whoever looks by the status.

use super::{Carrier, Way};
use crate::backend::{host_gw, ipip, udp, vxlan, wireguard};
use crate::family::Family;
use crate::lease::key::Advert;
use crate::look::status as told;

impl Carrier {
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
}
