//! Who is behind an address: the neighbour table (IP address → hardware address) and a link's forwarding database (hardware address →
//! where to send it), which the kernel keeps in messages of one shape.
//!
//! A VXLAN device needs one entry of each per peer: the peer's tunnel address has this hardware address, and frames for that hardware
//! address go into a packet to the peer's host.

use std::net::IpAddr;

use futures::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteType;
use nix::errno::Errno;

use crate::error::{during, unless};
use crate::{Netlink, Result};

/// Which of the two tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    /// `ip neigh`: `ip` is the neighbour's own address.
    Neighbours,
    /// `bridge fdb … self`: `ip` is the host that the frame is sent to.
    Forwarding,
}

/// An entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Neighbour {
    /// In which table.
    pub table: Table,
    /// Of which link.
    pub index: u32,
    /// See [`Table`].
    pub ip: IpAddr,
    /// The hardware address.
    pub mac: [u8; 6],
    /// Whether somebody set it. What the kernel learnt itself, it also forgets.
    pub permanent: bool,
}

impl Neighbour {
    fn message(&self) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = self.index;
        message.header.kind = RouteType::Unspec;
        message.header.state =
            if self.permanent { NeighbourState::Permanent } else { NeighbourState::Reachable };
        match self.table {
            Table::Forwarding => {
                message.header.family = AddressFamily::Bridge;
                message.header.flags = NeighbourFlags::Own;
            }
            Table::Neighbours if self.ip.is_ipv4() => message.header.family = AddressFamily::Inet,
            Table::Neighbours => message.header.family = AddressFamily::Inet6,
        }
        let ip = match self.ip {
            IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        };
        message.attributes.push(NeighbourAttribute::Destination(ip));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(self.mac.to_vec()));
        message
    }

    /// Nothing for entries that have not both addresses: a bridge's own, and neighbours that did not answer yet.
    fn parse(message: &NeighbourMessage, table: Table) -> Option<Neighbour> {
        let (mut ip, mut mac) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(address) => ip = Some(parse_ip(address)?),
                NeighbourAttribute::LinkLayerAddress(bytes) => {
                    mac = <[u8; 6]>::try_from(bytes.as_slice()).ok();
                }
                _ => {}
            }
        }
        let permanent = message.header.state == NeighbourState::Permanent;
        Some(Neighbour { table, index: message.header.ifindex, ip: ip?, mac: mac?, permanent })
    }
}

/// In the forwarding database the family is the bridge's, and an address's length tells its own.
fn parse_ip(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        NeighbourAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        NeighbourAddress::Other(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes.as_slice()).ok().map(IpAddr::from),
            16 => <[u8; 16]>::try_from(bytes.as_slice()).ok().map(IpAddr::from),
            _ => None,
        },
        _ => None,
    }
}

impl Netlink {
    /// The entries of one link, of both families.
    pub async fn neighbours(&self, index: u32, table: Table) -> Result<Vec<Neighbour>> {
        let family = match table {
            Table::Neighbours => AddressFamily::Unspec,
            Table::Forwarding => AddressFamily::Bridge,
        };
        let listed: Vec<NeighbourMessage> = self
            .handle
            .neighbours()
            .get()
            .set_address_family(family)
            .execute()
            .try_collect()
            .await
            .map_err(during(|| format!("list the neighbours of link {index}")))?;
        let of_link = listed.iter().filter(|message| message.header.ifindex == index);
        Ok(of_link.filter_map(|message| Neighbour::parse(message, table)).collect())
    }

    /// Sets an entry, in place of one with the same key: the address in [`Table::Neighbours`], the hardware address in
    /// [`Table::Forwarding`].
    pub async fn replace_neighbour(&self, neighbour: &Neighbour) -> Result<()> {
        let mut request = self.handle.neighbours().add(neighbour.index, neighbour.ip).replace();
        *request.message_mut() = neighbour.message();
        let set = request.execute().await;
        set.map_err(during(|| format!("set the neighbour {} of link {}", neighbour.ip, neighbour.index)))
    }

    /// Deletes an entry; one that is gone is fine.
    pub async fn delete_neighbour(&self, neighbour: &Neighbour) -> Result<()> {
        let deleted = self.handle.neighbours().del(neighbour.message()).execute().await;
        let action = || format!("delete the neighbour {} of link {}", neighbour.ip, neighbour.index);
        unless(deleted.map_err(during(action)), &[Errno::ENOENT, Errno::ENODEV])
    }
}
