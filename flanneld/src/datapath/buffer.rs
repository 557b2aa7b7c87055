//! Buffers that are made once: a batch of packets with the verdict on each.

use std::net::SocketAddrV4;

use super::forward::Verdict;

/// How many packets are moved at once.
pub const BATCH: usize = 64;
/// Room for a packet of the largest Ethernet jumbo frame; more cannot come out of a TUN without offloads.
pub const ROOM: usize = 9216;

/// One packet on its way.
#[derive(Debug, Clone)]
pub struct Buffer {
    /// The bytes; only the first `len` count.
    pub data: Box<[u8]>,
    /// The packet's length.
    pub len: usize,
    /// The datagram was longer than the buffer.
    pub truncated: bool,
    /// Outbound: unused. Inbound: who sent it.
    pub from: SocketAddrV4,
    /// What becomes of it.
    pub verdict: Verdict,
}

impl Buffer {
    fn new() -> Buffer {
        let nobody = SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0);
        Buffer {
            data: vec![0; ROOM].into(),
            len: 0,
            truncated: false,
            from: nobody,
            verdict: Verdict::Pending,
        }
    }

    /// The packet.
    pub fn packet(&self) -> &[u8] {
        &self.data[..self.len]
    }
}

/// A batch; `filled` of its buffers hold a packet.
#[derive(Debug)]
pub struct Batch {
    /// All buffers.
    pub buffers: Vec<Buffer>,
    /// How many are in use, from the front.
    pub filled: usize,
}

impl Default for Batch {
    fn default() -> Self {
        Batch { buffers: vec![Buffer::new(); BATCH], filled: 0 }
    }
}

impl Batch {
    /// The packets in it.
    pub fn packets(&mut self) -> &mut [Buffer] {
        &mut self.buffers[..self.filled]
    }
}
