//! Opening what comes in: a datagram in, a packet in a buffer of our own out, and what has to be answered.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use super::peer::{MOST_WAITING, Open};
use super::{DATA, OVERHEAD, Peers, Turned, Wireguard};
use crate::datapath::counters::Reason;

/// Room for a packet that waited, or for an answer.
const ROOM: usize = 65_536 + OVERHEAD;

/// What is sent in answer to what came.
pub trait Answer {
    /// A part of a handshake.
    fn handshake(&mut self, message: &[u8], to: SocketAddr);
    /// A packet that waited until now.
    fn packet(&mut self, sealed: &[u8], to: SocketAddr);
}

/// See the module.
pub struct Opener {
    wireguard: Arc<Wireguard>,
    peers: Cache<Arc<ArcSwap<Peers>>, Arc<Peers>>,
    opened: Box<[u8]>,
    answer: Box<[u8]>,
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener").finish_non_exhaustive()
    }
}

impl Opener {
    /// For datagrams out of a buffer of this size: each is opened into the place that it has there.
    pub fn new(wireguard: Arc<Wireguard>, size: usize) -> Opener {
        let peers = Cache::new(wireguard.peers.clone());
        Opener { wireguard, peers, opened: vec![0; size].into(), answer: vec![0; ROOM].into() }
    }

    /// What is opened.
    pub fn bytes(&self) -> &[u8] {
        &self.opened
    }

    /// A packet that was opened.
    pub fn packet(&mut self, at: Range<usize>) -> &mut [u8] {
        &mut self.opened[at]
    }

    /// Opens the datagram at `at`; the packet in it, if it is one, and the name of its sender.
    pub fn open(
        &mut self,
        bytes: &[u8],
        at: Range<usize>,
        from: SocketAddr,
        answers: &mut impl Answer,
    ) -> Result<Option<(SocketAddr, Range<usize>)>, Reason> {
        let datagram = &bytes[at.clone()];
        let peers = self.peers.load();
        let peer = match self.wireguard.admit(peers, from.ip(), datagram, &mut self.answer) {
            Ok(peer) => peer,
            Err(Turned::Away(reason)) => return Err(reason),
            Err(Turned::Back(length)) => {
                answers.handshake(&self.answer[..length], from);
                return Err(Reason::Flood);
            }
        };
        let out =
            if datagram.first() == Some(&DATA) { &mut self.opened[at.clone()] } else { &mut self.answer[..] };
        let (open, waiting) = peer.open(from, datagram, out)?;
        if let Open::Answer(length) = open {
            answers.handshake(&self.answer[..length], from);
        }
        if waiting {
            for _ in 0..MOST_WAITING {
                let Some((to, length)) = peer.waited(&mut self.answer) else { break };
                answers.packet(&self.answer[..length], to);
            }
        }
        Ok(match open {
            Open::Packet(length) => Some((peer.name(), at.start..at.start + length)),
            _ => None,
        })
    }
}
