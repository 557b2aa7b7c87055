//! The kernel's WireGuard, where there is one: a device for each lane, brought to what the leases say by difference, so that sessions with
//! peers of which nothing has changed go on. It carries packets while flanneld is away, too.
//!
//! What comes in from a peer is of its subnets, as with ours; that it is for the own subnet is left to the host's routes and rules.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use hostnet::wireguard::{self, Change, KIND, Key};
use hostnet::{Netlink, sysctl};
use ipnetwork::IpNetwork;

use super::{Described, Lane, Node};
use crate::backend::kernel;
use crate::family::{Dual, Family};
use crate::owner::Owner;

/// One device.
pub struct Device {
    /// Its name.
    pub name: String,
    owner: Owner,
    /// The family of the pods' packets in it; none: both.
    pub inner: Option<Family>,
    /// What it should be.
    wanted: wireguard::Device,
    /// Where the kernel was told that peers are. It knows better once it has heard them.
    told: HashMap<Key, SocketAddr>,
}

/// There is a device of this name, made anew if it was one of another kind.
async fn make(netlink: &Netlink, name: &str) -> Result<()> {
    if let Some(link) = netlink.link_by_name(name).await? {
        if link.kind.as_deref() == Some(KIND) {
            return Ok(());
        }
        tracing::info!(device = name, "the device is one of another kind; making it anew");
        netlink.delete_link(link.index).await?;
    }
    Ok(netlink.add_wireguard(name).await?)
}

/// Takes away a device of the kernel's WireGuard: its name is wanted for one of ours.
pub async fn remove(netlink: &Netlink, name: &str) -> Result<()> {
    match netlink.link_by_name(name).await?.filter(|link| link.kind.as_deref() == Some(KIND)) {
        Some(link) => Ok(netlink.delete_link(link.index).await?),
        None => Ok(()),
    }
}

impl Device {
    /// That of a lane, without peers yet.
    pub(super) fn new(node: &Node, lane: &Lane, name: String, owner: Owner) -> Device {
        let private = node.identity.private_bytes();
        let wanted = wireguard::Device { private, port: lane.port, peers: BTreeMap::new() };
        Device { name, owner, inner: lane.inner, wanted, told: HashMap::new() }
    }

    /// Takes over the peers; [`Device::ensure`] tells the kernel.
    pub fn publish(&mut self, node: &Node, described: &[Described]) {
        self.wanted.peers.clear();
        for Described { subnet, at, key } in described {
            let peer = self.wanted.peers.entry(key.bytes()).or_insert_with(|| wireguard::Peer {
                preshared: node.options.preshared.as_ref().map(|key| key.bytes()),
                endpoint: Some(*at),
                keepalive: node.options.keepalive,
                ..wireguard::Peer::default()
            });
            peer.subnets.insert(*subnet);
        }
    }

    /// Without a lease there are no peers.
    pub fn withdraw(&mut self) {
        self.wanted.peers.clear();
    }

    /// Brings the device into the wanted state; its index.
    pub async fn ensure(&mut self, netlink: &Netlink, mtu: u32, own: &Dual<IpNetwork>) -> Result<u32> {
        let (name, own) = (self.name.clone(), own.only(self.inner));
        let Some((family, _)) = own.iter().next() else {
            bail!("{name} carries packets of a family that the lease has no subnet of")
        };
        make(netlink, &name).await?;
        self.set_up()?;
        let link = netlink.link_by_name(&name).await?.with_context(|| format!("{name} vanished"))?;
        self.owner.mark(netlink, &link, family).await?;
        if link.mtu != mtu {
            netlink.set_mtu(link.index, mtu).await?;
        }
        if own.v6.is_some() {
            // Nobody is on the link: there is no router to be believed (RFC 4861).
            sysctl::set(&format!("net/ipv6/conf/{name}/accept_ra"), "0")?;
        }
        for subnet in own.values() {
            kernel::set_address(netlink, link.index, subnet.network()).await?;
        }
        if !link.up {
            let problem = || format!("is UDP port {} taken by another program?", self.wanted.port);
            netlink.set_up(link.index, true).await.with_context(problem)?;
        }
        Ok(link.index)
    }

    /// Tells the kernel what it doesn't know: key, port and peers.
    fn set_up(&mut self) -> Result<()> {
        let there = wireguard::read(&self.name)?;
        let changes = difference(&there, &self.wanted, &self.told);
        if !changes.is_empty() {
            wireguard::change(&self.name, &changes)?;
        }
        let at = |(key, peer): (&Key, &wireguard::Peer)| Some((*key, peer.endpoint?));
        self.told = self.wanted.peers.iter().filter_map(at).collect();
        Ok(())
    }
}

/// The steps from what is there to what is wanted. Where a peer is, is said if the kernel was told nothing of it or something else: it
/// follows a peer that moves by itself. Pure.
fn difference(
    there: &wireguard::Device,
    wanted: &wireguard::Device,
    told: &HashMap<Key, SocketAddr>,
) -> Vec<Change> {
    let mut changes = Vec::new();
    if (there.private, there.port) != (wanted.private, wanted.port) {
        changes.push(Change::Own { private: wanted.private, port: wanted.port });
    }
    let gone = there.peers.keys().filter(|key| !wanted.peers.contains_key(*key));
    changes.extend(gone.map(|key| Change::Remove(*key)));
    for (key, peer) in &wanted.peers {
        let found = there.peers.get(key);
        let endpoint = peer.endpoint.filter(|at| found.is_none() || told.get(key) != Some(at));
        let all = |peer: &wireguard::Peer| (peer.preshared, peer.keepalive, peer.subnets.clone());
        if endpoint.is_some() || found.map(all) != Some(all(peer)) {
            changes.push(Change::Set(*key, wireguard::Peer { endpoint, ..peer.clone() }));
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(at: &str, subnets: &[&str]) -> wireguard::Peer {
        wireguard::Peer {
            preshared: None,
            endpoint: at.parse().ok(),
            keepalive: 0,
            subnets: subnets.iter().map(|net| net.parse().unwrap()).collect(),
        }
    }

    fn device(peers: &[(u8, wireguard::Peer)]) -> wireguard::Device {
        let peers = peers.iter().map(|(n, peer)| ([*n; 32], peer.clone())).collect();
        wireguard::Device { private: [7; 32], port: 51820, peers }
    }

    #[test]
    fn only_what_differs_is_changed() {
        let (a, b) = (peer("192.0.2.1:51820", &["10.5.1.0/24"]), peer("192.0.2.2:51820", &["10.5.2.0/24"]));
        let wanted = device(&[(1, a.clone()), (2, b.clone())]);
        let told: HashMap<Key, SocketAddr> =
            wanted.peers.iter().map(|(key, peer)| (*key, peer.endpoint.unwrap())).collect();
        assert_eq!(difference(&wanted, &wanted, &told), []);

        let fresh = difference(&wireguard::Device::default(), &wanted, &HashMap::new());
        let own = Change::Own { private: [7; 32], port: 51820 };
        let set = |n: u8, peer: &wireguard::Peer| Change::Set([n; 32], peer.clone());
        assert_eq!(fresh, [own.clone(), set(1, &a), set(2, &b)]);
        assert_eq!(
            difference(&wireguard::Device::default(), &wanted, &told),
            fresh,
            "the device was made anew"
        );

        let moved = device(&[
            (1, wireguard::Peer { endpoint: "198.51.100.9:7".parse().ok(), ..a.clone() }),
            (2, b.clone()),
        ]);
        assert_eq!(difference(&moved, &wanted, &told), [], "it was heard elsewhere");
        let elsewhere = wireguard::Peer { endpoint: "192.0.2.77:51820".parse().ok(), ..a.clone() };
        let published = device(&[(1, elsewhere.clone()), (2, b.clone())]);
        assert_eq!(
            difference(&wanted, &published, &told),
            [set(1, &elsewhere)],
            "its lease says something new"
        );

        let stays = |peer: &wireguard::Peer| wireguard::Peer { endpoint: None, ..peer.clone() };
        let more = wireguard::Peer {
            subnets: ["10.5.2.0/24", "10.5.9.0/24"].map(|net| net.parse().unwrap()).into(),
            ..b.clone()
        };
        let published = device(&[(2, more.clone())]);
        assert_eq!(difference(&wanted, &published, &told), [Change::Remove([1; 32]), set(2, &stays(&more))]);
        let secret = wireguard::Peer { preshared: Some([9; 32]), ..b.clone() };
        assert_eq!(
            difference(&wanted, &device(&[(1, a), (2, secret.clone())]), &told),
            [set(2, &stays(&secret))]
        );
        assert_eq!(difference(&wireguard::Device { port: 7, ..wanted.clone() }, &wanted, &told), [own]);
    }
}
