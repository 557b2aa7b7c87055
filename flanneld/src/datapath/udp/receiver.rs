//! Receiving: many datagrams in one call, and, where the kernel joins them, many in one.

use std::io;
use std::net::UdpSocket;

use super::sys::ReceiveVectors;
use crate::datapath::buffer::Datagram;
use crate::datapath::path::Level;

/// What one call may bring: so many rooms, each for a datagram as long as an IP packet can be: where nothing is joined, a kernel that
/// encapsulates may still have sent a super-packet.
const JOINED: usize = 16;
const SINGLE: usize = 64;
const ROOM: usize = 65_536;

/// Receives from one socket.
#[derive(Debug)]
pub struct Receiver<'a> {
    socket: &'a UdpSocket,
    vectors: ReceiveVectors,
    bytes: Box<[u8]>,
    datagrams: Vec<Datagram>,
}

impl<'a> Receiver<'a> {
    pub(super) fn new(socket: &'a UdpSocket, level: Level, joined: bool) -> Receiver<'a> {
        let rooms = if joined { JOINED } else { SINGLE };
        let rooms = if level == Level::Plain { 1 } else { rooms };
        Receiver {
            socket,
            vectors: ReceiveVectors::new(rooms),
            bytes: vec![0; rooms * ROOM].into(),
            datagrams: Vec::with_capacity(rooms),
        }
    }

    /// Receives what is there, without waiting; whether there was something.
    pub fn receive(&mut self) -> io::Result<bool> {
        self.datagrams.clear();
        match self.vectors.receive(self.socket, &mut self.bytes, ROOM, &mut self.datagrams) {
            Ok(()) => Ok(!self.datagrams.is_empty()),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(false),
                // An earlier datagram met a closed port; the kernel tells it here, once.
                io::ErrorKind::ConnectionRefused => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// How large the buffer is in which it lies.
    pub fn room(&self) -> usize {
        self.bytes.len()
    }

    /// What was received, and the buffer in which it lies.
    pub fn received(&mut self) -> (&mut [u8], &[Datagram]) {
        (&mut self.bytes, &self.datagrams)
    }
}
