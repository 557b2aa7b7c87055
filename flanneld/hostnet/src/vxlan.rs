//! VXLAN devices: made, and read back to see whether they are what is wanted (RFC 7348).

use std::net::{IpAddr, Ipv4Addr};

use futures::TryStreamExt;
use netlink_packet_route::link::{InfoData, InfoVxlan, LinkAttribute, LinkInfo};
use rtnetlink::LinkVxlan;

use crate::error::during;
use crate::{Netlink, Result};

/// What a VXLAN device is set to. The kernel changes none of it on a device that is there: another one has to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vxlan {
    /// The network's number, 24 bits.
    pub vni: u32,
    /// The outer UDP port, of all hosts.
    pub port: u16,
    /// The outer source address; its family is that of the outer packets.
    pub local: IpAddr,
    /// The interface below.
    pub link: u32,
    /// Whether the device learns from packets who is where; without it only entries that were set count.
    pub learning: bool,
    /// Whether it carries group policy marks (the GBP extension).
    pub gbp: bool,
}

impl Netlink {
    /// Makes a VXLAN device with this hardware address.
    pub async fn add_vxlan(&self, name: &str, wanted: &Vxlan, mac: [u8; 6]) -> Result<()> {
        let mut message = LinkVxlan::new(name, wanted.vni)
            .dev(wanted.link)
            .port(wanted.port)
            .learning(wanted.learning)
            .udp_csum(true)
            .address(mac.to_vec());
        message = match wanted.local {
            IpAddr::V4(local) => message.local(local),
            IpAddr::V6(local) => message.local6(local),
        };
        if wanted.gbp {
            message = message.gbp();
        }
        let made = self.handle.link().add(message.build()).execute().await;
        made.map_err(during(|| format!("make the VXLAN device {name}")))
    }

    /// What a device is set to; none if it is no VXLAN device.
    pub async fn vxlan(&self, name: &str) -> Result<Option<Vxlan>> {
        let found = self.handle.link().get().match_name(name.to_owned()).execute().try_next().await;
        let message = found.map_err(during(|| format!("look up the link {name}")))?;
        let infos = message.into_iter().flat_map(|message| message.attributes).find_map(|attribute| {
            let LinkAttribute::LinkInfo(infos) = attribute else { return None };
            infos.into_iter().find_map(|info| match info {
                LinkInfo::Data(InfoData::Vxlan(infos)) => Some(infos),
                _ => None,
            })
        });
        Ok(infos.map(|infos| parse(&infos)))
    }
}

fn parse(infos: &[InfoVxlan]) -> Vxlan {
    let mut read =
        Vxlan { vni: 0, port: 0, local: Ipv4Addr::UNSPECIFIED.into(), link: 0, learning: false, gbp: false };
    for info in infos {
        match info {
            InfoVxlan::Id(vni) => read.vni = *vni,
            InfoVxlan::Port(port) => read.port = *port,
            InfoVxlan::Local(local) => read.local = (*local).into(),
            InfoVxlan::Local6(local) => read.local = (*local).into(),
            InfoVxlan::Link(link) => read.link = *link,
            InfoVxlan::Learning(learning) => read.learning = *learning,
            InfoVxlan::Gbp => read.gbp = true,
            _ => {}
        }
    }
    read
}
