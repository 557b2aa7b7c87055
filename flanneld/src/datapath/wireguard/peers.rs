//! All peers at one moment: an immutable table, like the routes'.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::{Peer, PublicKey, Wireguard};

/// A peer's number has 24 bits; the lowest byte of a session's number counts its sessions.
const INDEX_BITS: u32 = 24;

/// See the module.
#[derive(Debug, Default)]
pub struct Peers {
    by_name: HashMap<SocketAddr, Arc<Peer>>,
    by_key: HashMap<PublicKey, Arc<Peer>>,
    by_index: HashMap<u32, Arc<Peer>>,
}

impl Peers {
    /// Those that are wanted now: the same ones with their sessions, and new ones.
    pub(super) fn next(
        &self,
        wanted: impl IntoIterator<Item = (SocketAddr, PublicKey)>,
        own: &Wireguard,
    ) -> Peers {
        let mut next = Peers::default();
        for (name, key) in wanted {
            let peer = match self.by_key.get(&key) {
                Some(same) if same.name() == name => same.clone(),
                Some(same) => Arc::new(same.moved(name)),
                None => Arc::new(Peer::new(own, name, key, self.free(&next))),
            };
            next.by_index.insert(peer.index(), peer.clone());
            next.by_key.insert(key, peer.clone());
            next.by_name.insert(name, peer);
        }
        next
    }

    /// A number that nobody has. By chance, so that what was meant for an earlier life of this node meets nobody.
    fn free(&self, next: &Peers) -> u32 {
        loop {
            let index = rand::random::<u32>() >> (u32::BITS - INDEX_BITS);
            if !self.by_index.contains_key(&index) && !next.by_index.contains_key(&index) {
                return index;
            }
        }
    }

    /// The peer that is a next hop.
    pub fn by_name(&self, name: SocketAddr) -> Option<&Peer> {
        self.by_name.get(&name).map(AsRef::as_ref)
    }

    /// The peer with this key.
    pub fn by_key(&self, key: PublicKey) -> Option<&Peer> {
        self.by_key.get(&key).map(AsRef::as_ref)
    }

    /// The peer whose session has this number.
    pub(super) fn by_session(&self, session: u32) -> Option<&Peer> {
        self.by_index.get(&(session >> (u32::BITS - INDEX_BITS))).map(AsRef::as_ref)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.by_index.values().map(AsRef::as_ref)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_index.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_index.is_empty()
    }
}
