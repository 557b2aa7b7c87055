//! Addresses of links.

use std::net::IpAddr;

use futures::TryStreamExt;
use ipnetwork::IpNetwork;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use nix::errno::Errno;

use crate::error::{during, unless};
use crate::{Netlink, Result};

/// An address with its prefix length, on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The link.
    pub index: u32,
    /// The address and its network's prefix length.
    pub net: IpNetwork,
}

impl Netlink {
    /// The addresses of one link, or of all.
    pub async fn addresses(&self, index: Option<u32>) -> Result<Vec<Address>> {
        let messages = self.messages(index).await?;
        Ok(messages.iter().filter_map(parse).collect())
    }

    /// Gives a link an address; one that is there is fine.
    pub async fn add_address(&self, index: u32, net: IpNetwork) -> Result<()> {
        let added = self.handle.address().add(index, net.ip(), net.prefix()).execute().await;
        unless(added.map_err(during(|| format!("add the address {net} to link {index}"))), &[Errno::EEXIST])
    }

    /// Takes an address away; one that is gone is fine.
    pub async fn delete_address(&self, index: u32, net: IpNetwork) -> Result<()> {
        let wanted = Address { index, net };
        for message in self.messages(Some(index)).await?.into_iter().filter(|m| parse(m) == Some(wanted)) {
            let deleted = self.handle.address().del(message).execute().await;
            let deleted = deleted.map_err(during(|| format!("delete the address {net} of link {index}")));
            unless(deleted, &[Errno::EADDRNOTAVAIL, Errno::ENODEV])?;
        }
        Ok(())
    }

    async fn messages(&self, index: Option<u32>) -> Result<Vec<AddressMessage>> {
        let get = self.handle.address().get();
        let get = match index {
            Some(index) => get.set_link_index_filter(index),
            None => get,
        };
        get.execute().try_collect().await.map_err(during(|| "list the addresses".into()))
    }
}

fn parse(message: &AddressMessage) -> Option<Address> {
    let pick = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Local(ip) => Some((true, *ip)),
        AddressAttribute::Address(ip) => Some((false, *ip)),
        _ => None,
    };
    // On a point-to-point link `Address` is the peer's, and `Local` its own.
    let found: Vec<(bool, IpAddr)> = message.attributes.iter().filter_map(pick).collect();
    let (_, ip) = found.iter().find(|(local, _)| *local).or(found.first())?;
    Some(Address { index: message.header.index, net: IpNetwork::new(*ip, message.header.prefix_len).ok()? })
}
