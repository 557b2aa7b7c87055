//! Sealing what goes out: a packet and its next hop in, a datagram in a buffer of our own out.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use super::peer::Seal;
use super::{LONGEST_HANDSHAKE, OVERHEAD, PADDING, Peers, Wireguard};
use crate::datapath::counters::Reason;

/// The longest packet, filled up.
const LONGEST: usize = 65_536;
/// Room for what one batch holds, sealed.
const ROOM: usize = 10 * (LONGEST + OVERHEAD);

const _: () = assert!(LONGEST > LONGEST_HANDSHAKE && LONGEST.is_multiple_of(PADDING));

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Sealed {
    /// To be sent there, with the others: these bytes of [`Sealer::bytes`].
    Packet(SocketAddr, Range<usize>),
    /// It waits. A handshake has to be sent there at once.
    Handshake(SocketAddr, Range<usize>),
    /// It waits.
    Waits,
}

/// See the module.
pub struct Sealer {
    peers: Cache<Arc<ArcSwap<Peers>>, Arc<Peers>>,
    /// One packet in one piece.
    plain: Box<[u8]>,
    sealed: Box<[u8]>,
    used: usize,
    /// Filling up makes no packet longer than this.
    mtu: usize,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").field("used", &self.used).finish_non_exhaustive()
    }
}

impl Sealer {
    /// For packets up to that length.
    pub fn new(wireguard: &Wireguard, mtu: usize) -> Sealer {
        Sealer {
            peers: Cache::new(wireguard.peers.clone()),
            plain: vec![0; LONGEST].into(),
            sealed: vec![0; ROOM].into(),
            used: 0,
            mtu,
        }
    }

    /// Whether what is sealed must be sent before another packet comes.
    pub fn is_full(&self) -> bool {
        self.used + LONGEST + OVERHEAD > self.sealed.len()
    }

    /// What is sealed.
    pub fn bytes(&self) -> &[u8] {
        &self.sealed
    }

    /// Forgets it; it was sent.
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// Seals a packet that is a header, which may be empty, and a payload. There must be room.
    pub fn seal(&mut self, to: SocketAddr, header: &[u8], payload: &[u8]) -> Result<Sealed, Reason> {
        let peer = self.peers.load().by_name(to).ok_or(Reason::NoRoute)?;
        let length = header.len() + payload.len();
        let filled = length.next_multiple_of(PADDING).min(self.mtu.max(length));
        let plain = self.plain.get_mut(..filled).ok_or(Reason::Length)?;
        plain[..header.len()].copy_from_slice(header);
        plain[header.len()..length].copy_from_slice(payload);
        plain[length..].fill(0);
        let start = self.used;
        let at = |length| start..start + length;
        Ok(match peer.seal(plain, &mut self.sealed[start..])? {
            Seal::Sealed(to, length) => {
                self.used += length;
                Sealed::Packet(to, at(length))
            }
            Seal::Call(to, length) => Sealed::Handshake(to, at(length)),
            Seal::Waits => Sealed::Waits,
        })
    }
}
