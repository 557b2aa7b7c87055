//! WireGuard's messages of generic netlink (linux/wireguard.h, linux/genetlink.h). Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnetwork::IpNetwork;

use super::{Change, Device, KEY_LEN, Key, Peer};
use crate::raw::{self, Message, attribute, attributes, nested};

/// The controller, which knows the families' numbers.
const CONTROLLER: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
const NAME: &str = "wireguard";
/// Of all these dialects.
const VERSION: u8 = 1;
/// `WG_CMD_*`.
const GET_DEVICE: u8 = 0;
const SET_DEVICE: u8 = 1;
/// Peers of one message take no more than this: the kernel takes 32 KiB for sure, and an attribute's length has 16 bits.
const MOST: usize = 16 * 1024;
/// Subnets of one peer at a time.
const MOST_SUBNETS: usize = 256;

/// `WGDEVICE_A_*`.
mod device {
    pub const IFNAME: u16 = 2;
    pub const PRIVATE_KEY: u16 = 3;
    pub const LISTEN_PORT: u16 = 6;
    pub const PEERS: u16 = 8;
}

/// `WGPEER_A_*` and `WGPEER_F_*`.
mod peer {
    pub const PUBLIC_KEY: u16 = 1;
    pub const PRESHARED_KEY: u16 = 2;
    pub const FLAGS: u16 = 3;
    pub const ENDPOINT: u16 = 4;
    pub const KEEPALIVE: u16 = 5;
    pub const ALLOWED_IPS: u16 = 9;
    pub const REMOVE_ME: u32 = 1;
    pub const REPLACE_ALLOWED_IPS: u32 = 2;
}

/// `WGALLOWEDIP_A_*`.
mod allowed {
    pub const FAMILY: u16 = 1;
    pub const ADDRESS: u16 = 2;
    pub const LENGTH: u16 = 3;
}

/// Asks for the number of WireGuard's family.
pub(super) fn get_family() -> Vec<u8> {
    let message = Message::new(CONTROLLER, 0, [GET_FAMILY, VERSION, 0, 0]);
    message.attribute(FAMILY_NAME, &raw::text(NAME)).finish()
}

/// The number out of the answer.
pub(super) fn family(answer: &[u8]) -> Option<u16> {
    let (_, value) = attributes(answer).find(|(kind, _)| *kind == FAMILY_ID)?;
    Some(u16::from_ne_bytes(value.try_into().ok()?))
}

/// Asks for all of a device.
pub(super) fn get_device(family: u16, name: &str) -> Vec<u8> {
    let message = Message::new(family, libc::NLM_F_DUMP, [GET_DEVICE, VERSION, 0, 0]);
    message.attribute(device::IFNAME, &raw::text(name)).finish()
}

/// The device out of the parts of the answer. A peer that has many subnets is in several of them.
pub(super) fn read(parts: &[Vec<u8>]) -> Device {
    let mut device = Device::default();
    for (kind, value) in parts.iter().flat_map(|part| attributes(part)) {
        match kind {
            device::PRIVATE_KEY => device.private = key(value).unwrap_or_default(),
            device::LISTEN_PORT => device.port = half(value).unwrap_or_default(),
            device::PEERS => {
                for (key, peer) in attributes(value).filter_map(|(_, peer)| read_peer(peer)) {
                    let subnets = peer.subnets.clone();
                    device.peers.entry(key).or_insert(peer).subnets.extend(subnets);
                }
            }
            _ => {}
        }
    }
    device
}

fn read_peer(bytes: &[u8]) -> Option<(Key, Peer)> {
    let (mut public, mut peer) = (None, Peer::default());
    for (kind, value) in attributes(bytes) {
        match kind {
            peer::PUBLIC_KEY => public = key(value),
            peer::PRESHARED_KEY => peer.preshared = key(value).filter(|key| *key != Key::default()),
            peer::ENDPOINT => peer.endpoint = read_endpoint(value),
            peer::KEEPALIVE => peer.keepalive = half(value).unwrap_or_default(),
            peer::ALLOWED_IPS => {
                peer.subnets.extend(attributes(value).filter_map(|(_, subnet)| read_subnet(subnet)));
            }
            _ => {}
        }
    }
    Some((public?, peer))
}

fn read_subnet(bytes: &[u8]) -> Option<IpNetwork> {
    let (mut ip, mut length) = (None, None);
    for (kind, value) in attributes(bytes) {
        match kind {
            allowed::ADDRESS => ip = address(value),
            allowed::LENGTH => length = value.first().copied(),
            _ => {}
        }
    }
    IpNetwork::new(ip?, length?).ok()
}

/// `sockaddr_in` and `sockaddr_in6`.
fn read_endpoint(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    let ip = match i32::from(half(bytes.get(..2)?)?) {
        libc::AF_INET => address(bytes.get(4..8)?)?,
        libc::AF_INET6 => address(bytes.get(8..24)?)?,
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn endpoint(at: SocketAddr) -> Vec<u8> {
    let begin = |family: libc::c_int| [(family as u16).to_ne_bytes(), at.port().to_be_bytes()].concat();
    match at.ip() {
        // Filled up to the length of the struct.
        IpAddr::V4(ip) => [begin(libc::AF_INET), ip.octets().to_vec(), vec![0; 8]].concat(),
        IpAddr::V6(ip) => [begin(libc::AF_INET6), vec![0; 4], ip.octets().to_vec(), vec![0; 4]].concat(),
    }
}

fn subnet(net: IpNetwork) -> Vec<u8> {
    let (family, ip) = match net.network() {
        IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (libc::AF_INET6, ip.octets().to_vec()),
    };
    let mut bytes = Vec::new();
    attribute(&mut bytes, allowed::FAMILY, &(family as u16).to_ne_bytes());
    attribute(&mut bytes, allowed::ADDRESS, &ip);
    attribute(&mut bytes, allowed::LENGTH, &[net.prefix()]);
    bytes
}

/// The messages that bring about the changes, in their order.
pub(super) fn set_device(family: u16, name: &str, changes: &[Change]) -> Vec<Vec<u8>> {
    let begin = || {
        let message = Message::new(family, libc::NLM_F_ACK, [SET_DEVICE, VERSION, 0, 0]);
        message.attribute(device::IFNAME, &raw::text(name))
    };
    let (mut messages, mut peers) = (Vec::new(), Vec::new());
    for change in changes {
        if let Change::Own { private, port } = change {
            let own = begin().attribute(device::PRIVATE_KEY, private);
            messages.push(own.attribute(device::LISTEN_PORT, &port.to_ne_bytes()).finish());
        }
        for part in parts(change) {
            if peers.len() + part.len() > MOST {
                messages.push(begin().nested(device::PEERS, &peers).finish());
                peers.clear();
            }
            nested(&mut peers, 0, &part);
        }
    }
    if !peers.is_empty() {
        messages.push(begin().nested(device::PEERS, &peers).finish());
    }
    messages
}

/// What is said of a peer, divided if it has many subnets: the first part replaces those that it had.
fn parts(change: &Change) -> Vec<Vec<u8>> {
    let begin = |key: &Key, flags: u32| {
        let mut bytes = Vec::new();
        attribute(&mut bytes, peer::PUBLIC_KEY, key);
        attribute(&mut bytes, peer::FLAGS, &flags.to_ne_bytes());
        bytes
    };
    let (key, peer) = match change {
        Change::Own { .. } => return Vec::new(),
        Change::Remove(key) => return vec![begin(key, peer::REMOVE_ME)],
        Change::Set(key, peer) => (key, peer),
    };
    let subnets: Vec<IpNetwork> = peer.subnets.iter().copied().collect();
    let mut first = begin(key, peer::REPLACE_ALLOWED_IPS);
    attribute(&mut first, peer::PRESHARED_KEY, &peer.preshared.unwrap_or_default());
    if let Some(at) = peer.endpoint {
        attribute(&mut first, peer::ENDPOINT, &endpoint(at));
    }
    attribute(&mut first, peer::KEEPALIVE, &peer.keepalive.to_ne_bytes());
    let mut heads = std::iter::once(first).chain(std::iter::repeat_with(|| begin(key, 0)));
    let mut all: Vec<Vec<u8>> = Vec::new();
    for some in subnets.chunks(MOST_SUBNETS) {
        let Some(mut part) = heads.next() else { break };
        let mut list = Vec::new();
        some.iter().for_each(|net| nested(&mut list, 0, &subnet(*net)));
        nested(&mut part, peer::ALLOWED_IPS, &list);
        all.push(part);
    }
    if all.is_empty() {
        all.extend(heads.next());
    }
    all
}

fn key(bytes: &[u8]) -> Option<Key> {
    <[u8; KEY_LEN]>::try_from(bytes).ok()
}

fn half(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
