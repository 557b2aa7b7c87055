//! Links: bridges, veth pairs, TUNs and what they are set to.

use std::os::fd::{AsFd, AsRawFd};

use futures::TryStreamExt;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use nix::errno::Errno;
use rtnetlink::{LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth};

use crate::error::{during, unless};
use crate::{Netlink, Result};

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// E.g. `cni0`.
    pub name: String,
    /// In bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Its hardware address; empty if it has none (TUN).
    pub mac: Vec<u8>,
    /// E.g. `bridge`, `veth`, `tun`; none for hardware.
    pub kind: Option<String>,
    /// The bridge it belongs to.
    pub master: Option<u32>,
    /// What somebody wrote on it (`ip link set … alias`).
    pub alias: Option<String>,
}

impl Link {
    /// The hardware address as text, e.g. `52:54:00:12:34:56`.
    pub fn mac_text(&self) -> String {
        self.mac.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")
    }
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Link {
        let mut link = Link {
            index: message.header.index,
            name: String::new(),
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            mac: Vec::new(),
            kind: None,
            master: None,
            alias: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Address(mac) => link.mac = mac,
                LinkAttribute::Controller(master) => link.master = Some(master),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::LinkInfo(infos) => link.kind = infos.into_iter().find_map(kind),
                _ => {}
            }
        }
        link
    }
}

fn kind(info: LinkInfo) -> Option<String> {
    match info {
        LinkInfo::Kind(InfoKind::Other(kind)) => Some(kind),
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}

impl Netlink {
    /// All links.
    pub async fn links(&self) -> Result<Vec<Link>> {
        let messages: Vec<LinkMessage> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(during(|| "list the links".into()))?;
        Ok(messages.into_iter().map(Link::from).collect())
    }

    /// The link of this name, if there is one.
    pub async fn link_by_name(&self, name: &str) -> Result<Option<Link>> {
        let found = self.handle.link().get().match_name(name).execute().try_next().await;
        match found.map_err(during(|| format!("look up the link {name}"))) {
            Ok(message) => Ok(message.map(Link::from)),
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a bridge; one of that name is fine.
    pub async fn add_bridge(&self, name: &str) -> Result<()> {
        let made = self.handle.link().add(LinkBridge::new(name).build()).execute().await;
        unless(made.map_err(during(|| format!("make the bridge {name}"))), &[Errno::EEXIST])
    }

    /// Makes a veth pair, both ends here.
    pub async fn add_veth(&self, name: &str, peer: &str, mtu: u32) -> Result<()> {
        let message = LinkVeth::new(name, peer).mtu(mtu).build();
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(during(|| format!("make the veth pair {name}–{peer}")))
    }

    /// Makes a veth pair whose peer is born in another namespace: moving it there afterwards costs the kernel several grace periods.
    pub async fn add_veth_into(&self, name: &str, peer: &str, mtu: u32, namespace: impl AsFd) -> Result<()> {
        let fd = namespace.as_fd().as_raw_fd();
        let far =
            LinkMessageBuilder::<LinkUnspec>::new().name(peer.to_owned()).mtu(mtu).setns_by_fd(fd).build();
        let message =
            LinkVeth::new(name, peer).mtu(mtu).set_info_data(InfoData::Veth(InfoVeth::Peer(far))).build();
        let made = self.handle.link().add(message).execute().await;
        made.map_err(during(|| format!("make the veth pair {name}–{peer}")))
    }

    /// Deletes a link; one that is gone is fine.
    pub async fn delete_link(&self, index: u32) -> Result<()> {
        let deleted = self.handle.link().del(index).execute().await;
        unless(deleted.map_err(during(|| format!("delete the link {index}"))), &[Errno::ENODEV])
    }

    /// Brings a link up or down.
    pub async fn set_up(&self, index: u32, up: bool) -> Result<()> {
        let message = LinkUnspec::new_with_index(index);
        self.set(index, "bring up", if up { message.up() } else { message.down() }).await
    }

    /// Sets the MTU in bytes.
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<()> {
        self.set(index, "set the MTU of", LinkUnspec::new_with_index(index).mtu(mtu)).await
    }

    /// Sets the length of the transmit queue in packets.
    pub async fn set_txqlen(&self, index: u32, packets: u32) -> Result<()> {
        self.set(index, "set the queue length of", LinkUnspec::new_with_index(index).txqueuelen(packets))
            .await
    }

    /// Plugs a link into a bridge.
    pub async fn set_master(&self, index: u32, master: u32) -> Result<()> {
        self.set(index, "plug into its bridge", LinkUnspec::new_with_index(index).controller(master)).await
    }

    /// Lets a bridge send a packet back out of the port it came from.
    pub async fn set_hairpin(&self, index: u32, on: bool) -> Result<()> {
        let message = LinkBridgePort::new(index).hairpin(on).build();
        let set = self.handle.link().set_port(message).execute().await;
        set.map_err(during(|| format!("set hairpin mode of link {index}")))
    }

    /// Gives a link a hardware address.
    pub async fn set_mac(&self, index: u32, mac: [u8; 6]) -> Result<()> {
        self.set(index, "set the address of", LinkUnspec::new_with_index(index).address(mac.to_vec())).await
    }

    /// Writes something on a link, of at most 255 bytes.
    pub async fn set_alias(&self, index: u32, alias: &str) -> Result<()> {
        let alias = LinkAttribute::IfAlias(alias.to_owned());
        self.set(index, "label", LinkUnspec::new_with_index(index).append_extra_attribute(alias)).await
    }

    /// Renames a link, which must be down.
    pub async fn rename(&self, index: u32, name: &str) -> Result<()> {
        self.set(index, "rename", LinkUnspec::new_with_index(index).name(name)).await
    }

    /// Moves a link to another network namespace.
    pub async fn move_to_netns(&self, index: u32, namespace: impl AsFd) -> Result<()> {
        let fd = namespace.as_fd().as_raw_fd();
        self.set(index, "move to another namespace", LinkUnspec::new_with_index(index).setns_by_fd(fd)).await
    }

    async fn set(&self, index: u32, what: &str, message: LinkMessageBuilder<LinkUnspec>) -> Result<()> {
        let set = self.handle.link().set(message.build()).execute().await;
        set.map_err(during(|| format!("{what} link {index}")))
    }
}
