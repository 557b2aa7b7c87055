//! One peer: its session, where it was last heard, and what waits for it.

use std::net::SocketAddr;
use std::sync::Arc;

use boringtun::noise::{Tunn, TunnResult};
use parking_lot::Mutex;

use super::{DATA, PublicKey, RESPONSE, Wireguard, reason};
use crate::datapath::counters::Reason;

/// Packets that wait for a session: as many as boringtun's queue takes, which says nothing of those that it drops.
pub(super) const MOST_WAITING: usize = 256;

/// See the module.
pub struct Peer {
    name: SocketAddr,
    key: PublicKey,
    index: u32,
    state: Arc<Mutex<State>>,
}

/// What both directions and the timers share.
struct State {
    tunnel: Tunn,
    /// Where it was heard last.
    endpoint: SocketAddr,
    /// Packets in the tunnel's queue.
    waiting: usize,
    /// It was called upon once.
    greeted: bool,
}

/// What became of a packet that was to be sealed; lengths are of what stands in the buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seal {
    /// It is sealed.
    Sealed(SocketAddr, usize),
    /// It waits for a session, for which this has to be sent.
    Call(SocketAddr, usize),
    /// It waits for a session that was called for.
    Waits,
}

/// What a datagram was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Open {
    /// A packet.
    Packet(usize),
    /// A part of a handshake, with this answer.
    Answer(usize),
    /// Something that says only that the peer is there.
    Nothing,
}

/// What time has brought about.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tick {
    /// To whom so many bytes of the buffer have to be sent.
    pub send: Option<(SocketAddr, usize)>,
    /// So many packets waited in vain.
    pub lost: usize,
    /// It was called upon for the first time.
    pub greeted: bool,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("name", &self.name).field("key", &self.key).finish_non_exhaustive()
    }
}

impl Peer {
    pub(super) fn new(own: &Wireguard, name: SocketAddr, key: PublicKey, index: u32) -> Peer {
        let preshared = own.preshared.as_ref().map(|key| key.0);
        let keepalive = (own.keepalive > 0).then_some(own.keepalive);
        let gate = Some(own.open.clone());
        let tunnel = Tunn::new(own.identity.secret.clone(), key.point(), preshared, keepalive, index, gate);
        let state = State { tunnel, endpoint: name, waiting: 0, greeted: false };
        Peer { name, key, index, state: Arc::new(Mutex::new(state)) }
    }

    /// The same node at another address.
    pub(super) fn moved(&self, name: SocketAddr) -> Peer {
        self.state.lock().endpoint = name;
        Peer { name, key: self.key, index: self.index, state: self.state.clone() }
    }

    /// The next hop that it is in the route table.
    pub fn name(&self) -> SocketAddr {
        self.name
    }

    /// By which it is known.
    pub fn key(&self) -> PublicKey {
        self.key
    }

    /// All but the lowest byte of its sessions' numbers.
    pub(super) fn index(&self) -> u32 {
        self.index
    }

    /// Seals a packet into `out`, or keeps it until there is a session.
    pub(super) fn seal(&self, plain: &[u8], out: &mut [u8]) -> Result<Seal, Reason> {
        let mut state = self.state.lock();
        let to = state.endpoint;
        let message = match state.tunnel.encapsulate(plain, out) {
            TunnResult::WriteToNetwork(message) if message[0] == DATA => {
                return Ok(Seal::Sealed(to, message.len()));
            }
            TunnResult::WriteToNetwork(message) => Some(message.len()),
            _ => None,
        };
        if state.waiting == MOST_WAITING {
            return Err(Reason::Session);
        }
        state.waiting += 1;
        Ok(message.map_or(Seal::Waits, |length| Seal::Call(to, length)))
    }

    /// Opens a datagram into `out`. The flag says that packets wait which can be sent now, by [`Peer::waited`].
    pub(super) fn open(
        &self,
        from: SocketAddr,
        datagram: &[u8],
        out: &mut [u8],
    ) -> Result<(Open, bool), Reason> {
        let mut state = self.state.lock();
        let open = match state.tunnel.decapsulate(Some(from.ip()), datagram, out) {
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Open::Packet(packet.len())
            }
            TunnResult::WriteToNetwork(answer) => Open::Answer(answer.len()),
            TunnResult::Done => Open::Nothing,
            TunnResult::Err(error) => return Err(reason(&error)),
        };
        // It was the peer for sure, wherever it is now.
        state.endpoint = from;
        let usable = matches!(datagram.first(), Some(&(DATA | RESPONSE)));
        Ok((open, usable && state.waiting > 0))
    }

    /// Seals the next packet that waited into `out`; where to, and its length.
    pub(super) fn waited(&self, out: &mut [u8]) -> Option<(SocketAddr, usize)> {
        let mut state = self.state.lock();
        let sealed = match state.tunnel.decapsulate(None, &[], out) {
            TunnResult::WriteToNetwork(message) if message[0] == DATA => message.len(),
            _ => return None,
        };
        state.waiting = state.waiting.saturating_sub(1);
        Some((state.endpoint, sealed))
    }

    /// It is to be called upon as if it were new.
    pub fn greet_again(&self) {
        self.state.lock().greeted = false;
    }

    /// What is to be done by now: a handshake, anew or for the first time if it `may` be, or a sign of life.
    pub fn tick(&self, may_greet: bool, out: &mut [u8]) -> Tick {
        let mut state = self.state.lock();
        let mut tick = Tick::default();
        let mut length = match state.tunnel.update_timers(out) {
            TunnResult::WriteToNetwork(message) => Some(message.len()),
            TunnResult::Err(_) => {
                // It does not answer. The next packet calls it at the address that its lease gives.
                tick.lost = std::mem::take(&mut state.waiting);
                state.endpoint = self.name;
                None
            }
            _ => None,
        };
        if may_greet && !state.greeted {
            state.greeted = true;
            tick.greeted = true;
            // A peer that has a session of an earlier life of ours would go on with it.
            if let TunnResult::WriteToNetwork(message) = state.tunnel.format_handshake_initiation(out, false)
            {
                length = Some(message.len());
            }
        }
        tick.send = length.map(|length| (state.endpoint, length));
        tick
    }
}

#[cfg(test)]
impl Peer {
    /// A handshake in place of one that was not answered.
    pub(super) fn call_again(&self, out: &mut [u8]) -> bool {
        let again = self.state.lock().tunnel.format_handshake_initiation(out, true);
        matches!(again, TunnResult::WriteToNetwork(_))
    }
}
