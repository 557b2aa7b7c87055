//! IPIP devices: made, and read back to see whether they are what is wanted (RFC 2003).

use std::net::{IpAddr, Ipv4Addr};

use futures::TryStreamExt;
use netlink_packet_route::link::{InfoData, InfoIpTunnel, LinkAttribute, LinkInfo};
use rtnetlink::LinkIpIp;

use crate::error::during;
use crate::{Netlink, Result};

/// What an IPIP device is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipip {
    /// The outer source address.
    pub local: Ipv4Addr,
    /// The outer destination of all packets; none: the gateway of each one's route.
    pub remote: Option<Ipv4Addr>,
}

impl Netlink {
    /// Makes an IPIP device.
    pub async fn add_ipip(&self, name: &str, wanted: &Ipip) -> Result<()> {
        let mut message = LinkIpIp::new(name).local(wanted.local);
        if let Some(remote) = wanted.remote {
            message = message.remote(remote);
        }
        let made = self.handle.link().add(message.build()).execute().await;
        made.map_err(during(|| format!("make the IPIP device {name}")))
    }

    /// What a device is set to; none if it is no IPIP device.
    pub async fn ipip(&self, name: &str) -> Result<Option<Ipip>> {
        let found = self.handle.link().get().match_name(name.to_owned()).execute().try_next().await;
        let message = found.map_err(during(|| format!("look up the link {name}")))?;
        let infos = message.into_iter().flat_map(|message| message.attributes).find_map(|attribute| {
            let LinkAttribute::LinkInfo(infos) = attribute else { return None };
            infos.into_iter().find_map(|info| match info {
                LinkInfo::Data(InfoData::IpTunnel(infos)) => Some(infos),
                _ => None,
            })
        });
        Ok(infos.map(|infos| parse(&infos)))
    }
}

fn parse(infos: &[InfoIpTunnel]) -> Ipip {
    let mut read = Ipip { local: Ipv4Addr::UNSPECIFIED, remote: None };
    for info in infos {
        match info {
            InfoIpTunnel::Local(IpAddr::V4(local)) => read.local = *local,
            InfoIpTunnel::Remote(IpAddr::V4(remote)) => {
                read.remote = Some(*remote).filter(|remote| !remote.is_unspecified());
            }
            _ => {}
        }
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_remote_is_told_as_zeroes() {
        let local = Ipv4Addr::new(192, 0, 2, 1);
        let told = |remote: [u8; 4]| {
            parse(&[
                InfoIpTunnel::Link(2),
                InfoIpTunnel::Local(local.into()),
                InfoIpTunnel::Remote(IpAddr::from(remote)),
                InfoIpTunnel::Ttl(0),
            ])
        };
        assert_eq!(told([0; 4]), Ipip { local, remote: None });
        assert_eq!(told([192, 0, 2, 9]), Ipip { local, remote: Some([192, 0, 2, 9].into()) });
    }
}
