//! WireGuard devices of the kernel: made, read, and brought by small steps to what is wanted. What isn't named in a step stays as it is, so
//! that sessions with other peers go on.

mod message;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;

use ipnetwork::IpNetwork;
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;
use rtnetlink::LinkWireguard;

use crate::error::during;
use crate::raw::exchange;
use crate::{Error, Netlink, Result};

/// The kind of such a device.
pub const KIND: &str = "wireguard";
/// Of keys of all kinds, in bytes.
pub const KEY_LEN: usize = 32;
/// A key: private, public or shared.
pub type Key = [u8; KEY_LEN];
/// How often a listing is begun anew because the device changed meanwhile.
const TRIES: usize = 5;

/// A device.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// The private key; all zero if it has none.
    pub private: Key,
    /// The UDP port.
    pub port: u16,
    /// By their public keys.
    pub peers: BTreeMap<Key, Peer>,
}

/// One of its peers.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// A secret that both have besides their keys.
    pub preshared: Option<Key>,
    /// Where it is; when it is set, none: where it was before.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between signs of life; 0: none.
    pub keepalive: u16,
    /// Packets to these go to it, and packets from it are from these.
    pub subnets: BTreeSet<IpNetwork>,
}

/// One step.
#[derive(Clone, PartialEq, Eq)]
pub enum Change {
    /// The device's own key and port.
    Own {
        /// The private key.
        private: Key,
        /// The UDP port.
        port: u16,
    },
    /// A peer is there, with these subnets and no others.
    Set(Key, Peer),
    /// A peer is there no longer.
    Remove(Key),
}

/// Without keys that are secret.
impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("port", &self.port).field("peers", &self.peers).finish_non_exhaustive()
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Peer { endpoint, keepalive, subnets, .. } = self;
        let mut shown = f.debug_struct("Peer");
        shown
            .field("endpoint", endpoint)
            .field("keepalive", keepalive)
            .field("subnets", subnets)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Own { port, .. } => f.debug_struct("Own").field("port", port).finish_non_exhaustive(),
            Change::Set(key, peer) => f.debug_tuple("Set").field(key).field(peer).finish(),
            Change::Remove(key) => f.debug_tuple("Remove").field(key).finish(),
        }
    }
}

impl Netlink {
    /// Makes a WireGuard device. A kernel that has no WireGuard refuses by `EOPNOTSUPP`.
    pub async fn add_wireguard(&self, name: &str) -> Result<()> {
        let made = self.handle.link().add(LinkWireguard::new(name).build()).execute().await;
        made.map_err(during(|| format!("make the WireGuard device {name}")))
    }
}

/// Whether the kernel has WireGuard; a module is loaded for it.
pub fn is_there() -> Result<bool> {
    match family() {
        Ok(_) => Ok(true),
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A device of this namespace as it is.
pub fn read(name: &str) -> Result<Device> {
    let action = || format!("look at the WireGuard device {name}");
    let question = message::get_device(family()?, name);
    for _ in 0..TRIES {
        match exchange(SockProtocol::NetlinkGeneric, &question, true) {
            Err(Errno::EAGAIN) => {}
            Err(errno) => return Err(Error::Refused { action: action(), errno }),
            Ok(parts) => return Ok(message::read(&parts)),
        }
    }
    Err(Error::Protocol { action: action(), text: "it changes faster than it can be listed".into() })
}

/// Changes a device of this namespace.
pub fn change(name: &str, changes: &[Change]) -> Result<()> {
    for message in message::set_device(family()?, name, changes) {
        exchange(SockProtocol::NetlinkGeneric, &message, false).map_err(|errno| Error::Refused {
            action: format!("set up the WireGuard device {name}"),
            errno,
        })?;
    }
    Ok(())
}

/// WireGuard's number in generic netlink, which differs from one start of the kernel to the next.
fn family() -> Result<u16> {
    let action = || "ask the kernel for WireGuard".to_owned();
    let answer = exchange(SockProtocol::NetlinkGeneric, &message::get_family(), false)
        .map_err(|errno| Error::Refused { action: action(), errno })?;
    let number = answer.first().and_then(|part| message::family(part));
    number.ok_or_else(|| Error::Protocol { action: action(), text: "it tells no number".into() })
}
