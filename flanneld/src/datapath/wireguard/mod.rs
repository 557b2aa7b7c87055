//! WireGuard between the pods' packets and the wire, where the kernel has none: every packet is sealed with a key that only the two nodes
//! have, and opened only if it was sealed by whom its source belongs to.
//!
//! ```text
//!  Batch ─ forward ─ split ─► Sealer ─ Peer::seal ─► Outbox ═══► Receiver ─ admit ─► Peer::open ─► forward ─ Runs ─► TUN
//!                               ▲ the peer by its next hop                 ▲ by the session's index, or by its key
//! ```
//!
//! The protocol itself (Noise IKpsk2, ChaCha20-Poly1305, the window against replays, cookies, timers) is boringtun's; here is which peer a
//! packet belongs to, what becomes of it, and why one is dropped. boringtun reads the clock by itself; nothing else here does.
//!
//! A peer is named by the address that its lease gives, which is the next hop in the route table: so the check that a packet's inner source
//! belongs to its sender ([`super::forward::inbound`]) is the plain backend's, and the outer address need not be what the lease says.
//!
//! WireGuard has a state for each peer, which both directions share: it is behind a mutex that is held for the sealing or opening of one
//! packet, and never while something is read or written.

mod key;
mod opener;
mod peer;
mod peers;
mod sealer;
#[cfg(test)]
mod tests;

pub use key::{Identity, LEN as KEY_LEN, NoKey, Preshared, PublicKey};
pub use opener::{Answer, Opener};
pub use peer::{Peer, Tick};
pub use peers::Peers;
pub use sealer::{Sealed, Sealer};

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, TunnResult};

use super::counters::Reason;

/// What sealing adds to a packet: a header of 16 bytes and the tag of 16.
pub const OVERHEAD: usize = 32;
/// The longest message that is no packet.
pub const LONGEST_HANDSHAKE: usize = 148;
/// Packets are filled up to a multiple of this, so that their length says less.
const PADDING: usize = 16;
/// The first byte of a message that carries a packet, and of a handshake's answer.
const DATA: u8 = 4;
const RESPONSE: u8 = 2;
/// Handshakes a second that are looked at without a proof that the sender's address is its own. Each costs about a tenth of a
/// millisecond.
const HANDSHAKES: u64 = 500;

/// The own side: keys, and the peers. Both directions and the timers share it.
pub struct Wireguard {
    identity: Identity,
    preshared: Option<Preshared>,
    /// In seconds; 0: none.
    keepalive: u16,
    /// Counts handshakes, and asks for cookies when there are too many.
    gate: RateLimiter,
    /// The peers' own, that never closes: what they get has passed the gate.
    open: Arc<RateLimiter>,
    peers: Arc<ArcSwap<Peers>>,
}

impl std::fmt::Debug for Wireguard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wireguard").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// Why a datagram gets no further than to the gate.
#[derive(Debug, PartialEq, Eq)]
enum Turned {
    /// It is dropped.
    Away(Reason),
    /// It is dropped, and so many bytes of a cookie are sent back.
    Back(usize),
}

impl Wireguard {
    /// Without peers.
    pub fn new(identity: Identity, preshared: Option<Preshared>, keepalive: u16) -> Wireguard {
        let point = identity.public().point();
        Wireguard {
            gate: RateLimiter::new(&point, HANDSHAKES),
            open: Arc::new(RateLimiter::new(&point, u64::MAX)),
            identity,
            preshared,
            keepalive,
            peers: Arc::default(),
        }
    }

    /// The own public key.
    pub fn public(&self) -> PublicKey {
        self.identity.public()
    }

    /// Takes over the peers: next hop and key of each, no key twice. Those that were there keep their sessions.
    pub fn publish(&self, wanted: impl IntoIterator<Item = (SocketAddr, PublicKey)>) {
        self.peers.store(Arc::new(self.peers.load().next(wanted, self)));
    }

    /// The peers as they are now.
    pub fn peers(&self) -> Arc<Peers> {
        self.peers.load_full()
    }

    /// Begins to count anew; called every second.
    pub fn next_second(&self) {
        self.gate.reset_count();
    }

    /// Whose datagram it is. What goes back in answer is written to `cookie`.
    fn admit<'a>(
        &self,
        peers: &'a Peers,
        from: IpAddr,
        datagram: &[u8],
        cookie: &mut [u8],
    ) -> Result<&'a Peer, Turned> {
        let packet =
            self.gate.verify_packet(Some(from), datagram, cookie).map_err(|refused| match refused {
                TunnResult::WriteToNetwork(cookie) => Turned::Back(cookie.len()),
                TunnResult::Err(error) => Turned::Away(reason(&error)),
                _ => Turned::Away(Reason::Protocol),
            })?;
        let peer = match packet {
            Packet::HandshakeInit(init) => {
                let half = parse_handshake_anon(&self.identity.secret, &self.public().point(), &init);
                let half = half.map_err(|error| Turned::Away(reason(&error)))?;
                peers.by_key(PublicKey(half.peer_static_public))
            }
            Packet::HandshakeResponse(response) => peers.by_session(response.receiver_idx),
            Packet::PacketCookieReply(reply) => peers.by_session(reply.receiver_idx),
            Packet::PacketData(data) => peers.by_session(data.receiver_idx),
        };
        peer.ok_or(Turned::Away(Reason::Stranger))
    }
}

/// What boringtun says, in the data path's words.
fn reason(error: &WireGuardError) -> Reason {
    use WireGuardError as E;
    match error {
        E::InvalidMac | E::InvalidAeadTag | E::WrongKey | E::InvalidTai64nTimestamp => Reason::Forged,
        E::InvalidCounter | E::DuplicateCounter | E::WrongTai64nTimestamp => Reason::Replayed,
        E::NoCurrentSession | E::WrongIndex | E::UnexpectedPacket | E::ConnectionExpired | E::LockFailed => {
            Reason::Session
        }
        E::UnderLoad => Reason::Flood,
        E::InvalidPacket | E::IncorrectPacketLength | E::WrongPacketType | E::DestinationBufferTooSmall => {
            Reason::Protocol
        }
    }
}
