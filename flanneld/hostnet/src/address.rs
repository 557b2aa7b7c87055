//! Addresses of links.

use std::net::IpAddr;

use futures::TryStreamExt;
use ipnetwork::IpNetwork;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
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
    /// How long it will be there.
    pub standing: Standing,
}

/// How well an address can be relied on, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Somebody set it.
    Permanent,
    /// DHCP or a router gave it, for a time.
    Dynamic,
    /// IPv6 made it up for a day or so, so that its user is not recognised (RFC 8981).
    Temporary,
    /// It is going out of use, or is not known to be the only one on its link.
    Unusable,
}

impl Netlink {
    /// The addresses of one link, or of all.
    pub async fn addresses(&self, index: Option<u32>) -> Result<Vec<Address>> {
        let messages = self.messages(index).await?;
        Ok(messages.iter().filter_map(parse).collect())
    }

    /// Gives a link an address; one that is there is fine.
    ///
    /// It can be used when this returns. For IPv6 the kernel would first ask the link for a duplicate, a second long; addresses of this
    /// network are unique because they are leased.
    pub async fn add_address(&self, index: u32, net: IpNetwork) -> Result<()> {
        let mut request = self.handle.address().add(index, net.ip(), net.prefix());
        if net.is_ipv6() {
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let added = request.execute().await;
        unless(added.map_err(during(|| format!("add the address {net} to link {index}"))), &[Errno::EEXIST])
    }

    /// Takes an address away; one that is gone is fine.
    pub async fn delete_address(&self, index: u32, net: IpNetwork) -> Result<()> {
        let wanted = |message: &AddressMessage| parse(message).is_some_and(|address| address.net == net);
        for message in self.messages(Some(index)).await?.into_iter().filter(wanted) {
            let deleted = self.handle.address().del(message).execute().await;
            let deleted = deleted.map_err(during(|| format!("delete the address {net} of link {index}")));
            unless(deleted, &[Errno::EADDRNOTAVAIL, Errno::ENODEV])?;
        }
        Ok(())
    }

    /// Makes `net` the only address of its family that a link has, apart from IPv6's link-local ones.
    pub async fn replace_address(&self, index: u32, net: IpNetwork) -> Result<()> {
        let other = |present: &IpNetwork| {
            let link_local = matches!(present, IpNetwork::V6(v6) if v6.ip().is_unicast_link_local());
            *present != net && present.is_ipv4() == net.is_ipv4() && !link_local
        };
        for address in self.addresses(Some(index)).await?.iter().filter(|address| other(&address.net)) {
            self.delete_address(index, address.net).await?;
        }
        // Last, because IPv4's first address of a subnet takes the others with it.
        self.add_address(index, net).await
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
    let net = IpNetwork::new(*ip, message.header.prefix_len).ok()?;
    Some(Address { index: message.header.index, net, standing: standing(message, net.is_ipv6()) })
}

fn standing(message: &AddressMessage, v6: bool) -> Standing {
    let attribute = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    let flags = attribute.unwrap_or(AddressFlags::from_bits_retain(message.header.flags.bits().into()));
    let unsure = AddressFlags::Deprecated | AddressFlags::Tentative | AddressFlags::Dadfailed;
    if flags.intersects(unsure) {
        Standing::Unusable
    // With IPv4 the flag means that the link has another address of that network.
    } else if v6 && flags.contains(AddressFlags::Secondary) {
        Standing::Temporary
    } else if flags.contains(AddressFlags::Permanent) {
        Standing::Permanent
    } else {
        Standing::Dynamic
    }
}
