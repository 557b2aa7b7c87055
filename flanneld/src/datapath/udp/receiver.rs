//! Receiving: many datagrams in one call, and, where the kernel joins them, many in one.

use std::io;
use std::net::UdpSocket;

use super::sys::ReceiveVectors;
use crate::datapath::buffer::Datagram;
use crate::datapath::path::Level;

/// What one call may bring: so many rooms of so many bytes. Joined datagrams are as long as an IP packet can be; the others are
/// cut off at a length that no packet that is taken has.
const JOINED: (usize, usize) = (16, 65_536);
const SINGLE: (usize, usize) = (64, 16_384);

const _: () = assert!(SINGLE.1 > crate::datapath::forward::LONGEST);

/// Receives from one socket.
#[derive(Debug)]
pub struct Receiver<'a> {
    socket: &'a UdpSocket,
    vectors: ReceiveVectors,
    bytes: Box<[u8]>,
    room: usize,
    datagrams: Vec<Datagram>,
}

impl<'a> Receiver<'a> {
    pub(super) fn new(socket: &'a UdpSocket, level: Level, joined: bool) -> Receiver<'a> {
        let (rooms, room) = if joined { JOINED } else { SINGLE };
        let rooms = if level == Level::Plain { 1 } else { rooms };
        Receiver {
            socket,
            vectors: ReceiveVectors::new(rooms),
            bytes: vec![0; rooms * room].into(),
            room,
            datagrams: Vec::with_capacity(rooms),
        }
    }

    /// Receives what is there, without waiting; whether there was something.
    pub fn receive(&mut self) -> io::Result<bool> {
        self.datagrams.clear();
        match self.vectors.receive(self.socket, &mut self.bytes, self.room, &mut self.datagrams) {
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
