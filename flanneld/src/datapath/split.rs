//! Taking a super-packet apart into the packets that go over the wire: what a network card does for TSO and USO.
//!
//! Only headers are written anew; the payload stays where it is, and the kernel gathers both when it sends.

use std::ops::Range;

use super::checksum::{self, add, finished};
use super::counters::Reason;
use super::layers::{Layers, MAX_HEADER, TCP};
use super::virtio::{Gso, Kind};

/// Where a TCP header has its flags.
pub(super) const TCP_FLAGS: usize = 13;
/// At the end of a burst: these belong to the last segment only (RFC 9293 section 3.1).
pub(super) const FIN_PSH: u8 = 0x01 | 0x08;
/// The sender has halved its window: said once, in the first segment (RFC 3168 section 6.1.2).
pub(super) const CWR: u8 = 0x80;

/// The packets in a super-packet, one after the other.
#[derive(Debug)]
pub struct Segments<'a> {
    packet: &'a [u8],
    layers: Layers,
    size: usize,
    /// How many there were already.
    index: usize,
    /// UDP without a checksum stays without.
    unsummed: bool,
}

/// One packet: a new header, and a part of the super-packet behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// How many bytes of header were written.
    pub header: usize,
    /// Where in the super-packet the payload lies.
    pub payload: Range<usize>,
}

impl<'a> Segments<'a> {
    /// Checks that the packet is what the kernel says of it.
    pub fn new(packet: &'a [u8], gso: Gso) -> Result<Segments<'a>, Reason> {
        let layers = Layers::parse(packet).ok_or(Reason::Offload)?;
        let fits = match gso.kind {
            Kind::Tcp4 => layers.protocol == TCP && !layers.v6,
            Kind::Tcp6 => layers.protocol == TCP && layers.v6,
            Kind::Udp => layers.protocol != TCP,
        };
        if !fits || gso.size == 0 {
            return Err(Reason::Offload);
        }
        let at = layers.network + layers.checksum_offset();
        let unsummed = layers.protocol != TCP && packet[at..at + 2] == [0, 0];
        Ok(Segments { packet, layers, size: usize::from(gso.size), index: 0, unsummed })
    }

    /// Writes the header of the next packet; none if there is no other.
    pub fn next(&mut self, header: &mut [u8; MAX_HEADER]) -> Option<Segment> {
        let length = self.layers.payload;
        let start = length + self.index * self.size;
        // Without any payload, there is one packet.
        if start >= self.packet.len() && self.index > 0 {
            return None;
        }
        let payload = start..(start + self.size).min(self.packet.len());
        let header = &mut header[..length];
        header.copy_from_slice(&self.packet[..length]);
        self.network(header, payload.len());
        self.transport(header, &payload);
        self.index += 1;
        Some(Segment { header: length, payload })
    }

    fn network(&self, header: &mut [u8], payload: usize) {
        // No longer than the super-packet, whose length fits too.
        let total = (header.len() + payload) as u16;
        if self.layers.v6 {
            header[4..6].copy_from_slice(&(total - 40).to_be_bytes());
            return;
        }
        header[2..4].copy_from_slice(&total.to_be_bytes());
        let id = u16::from_be_bytes([header[4], header[5]]).wrapping_add(self.index as u16);
        header[4..6].copy_from_slice(&id.to_be_bytes());
        header[10..12].fill(0);
        let sum = checksum::of(&header[..self.layers.network]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }

    fn transport(&self, header: &mut [u8], payload: &Range<usize>) {
        let Layers { protocol, network, .. } = self.layers;
        let length = header.len() - network + payload.len();
        let pseudo = checksum::pseudo(self.layers.addresses(header), protocol, length);
        let transport = &mut header[network..];
        if protocol == TCP {
            let first = u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]]);
            let sequence = first.wrapping_add((self.index * self.size) as u32);
            transport[4..8].copy_from_slice(&sequence.to_be_bytes());
            if payload.end < self.packet.len() {
                transport[TCP_FLAGS] &= !FIN_PSH;
            }
            if self.index > 0 {
                transport[TCP_FLAGS] &= !CWR;
            }
        } else {
            transport[4..6].copy_from_slice(&(length as u16).to_be_bytes());
        }
        if self.unsummed {
            return;
        }
        let offset = self.layers.checksum_offset();
        transport[offset..offset + 2].fill(0);
        let sum = add(add(pseudo, checksum::sum(transport)), checksum::sum(&self.packet[payload.clone()]));
        transport[offset..offset + 2].copy_from_slice(&finished(sum, offset).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::testing::Flow;
    use super::*;

    fn split(packet: &[u8], kind: Kind, size: u16) -> Result<Vec<Vec<u8>>, Reason> {
        let mut segments = Segments::new(packet, Gso { kind, size })?;
        let (mut header, mut all) = ([0; MAX_HEADER], Vec::new());
        while let Some(segment) = segments.next(&mut header) {
            all.push([&header[..segment.header], &packet[segment.payload]].concat());
        }
        Ok(all)
    }

    #[test]
    fn tcp_is_split_as_its_sender_would_have_done() {
        let flow = Flow { flags: 0x18 | CWR, id: 0xfffe, sequence: u32::MAX - 4, ..Flow::tcp() };
        let payload: Vec<u8> = (0..250).collect();
        let packets = split(&flow.packet(&payload), Kind::Tcp4, 100).unwrap();
        let expected = [
            Flow { flags: 0x10 | CWR, ..flow }.packet(&payload[..100]),
            Flow { flags: 0x10, id: 0xffff, sequence: 95, ..flow }.packet(&payload[100..200]),
            Flow { flags: 0x18, id: 0, sequence: 195, ..flow }.packet(&payload[200..]),
        ];
        assert_eq!(packets, expected);
    }

    #[test]
    fn what_is_not_split_keeps_its_bytes() {
        for flow in [Flow::tcp(), Flow::udp(), Flow::tcp().v6(), Flow::udp().v6()] {
            let kind = match (flow.protocol == TCP, flow.v6) {
                (true, false) => Kind::Tcp4,
                (true, true) => Kind::Tcp6,
                (false, _) => Kind::Udp,
            };
            for payload in [&b""[..], b"1234567", b"12345678"] {
                let whole = flow.packet(payload);
                assert_eq!(split(&whole, kind, 8).unwrap(), [whole]);
            }
        }
    }

    #[test]
    fn udp_datagrams_keep_their_borders() {
        let payload: Vec<u8> = (0..25).collect();
        let packets = split(&Flow::udp().packet(&payload), Kind::Udp, 10).unwrap();
        let each = |n: u16, part| Flow { id: Flow::udp().id + n, ..Flow::udp() }.packet(part);
        assert_eq!(packets, [each(0, &payload[..10]), each(1, &payload[10..20]), each(2, &payload[20..])]);
        let flow = Flow::udp().v6();
        let packets = split(&flow.packet(&payload), Kind::Udp, 20).unwrap();
        assert_eq!(packets, [flow.packet(&payload[..20]), flow.packet(&payload[20..])]);
    }

    #[test]
    fn udp_without_a_checksum_stays_without() {
        let mut whole = Flow::udp().packet(&[7; 20]);
        whole[26..28].fill(0);
        let packets = split(&whole, Kind::Udp, 10).unwrap();
        assert_eq!(packets.iter().map(|p| p[26..28].to_vec()).collect::<Vec<_>>(), [[0, 0], [0, 0]]);
    }

    #[test]
    fn what_is_not_what_the_kernel_says_is_refused() {
        let (tcp, udp) = (Flow::tcp().packet(b"x"), Flow::udp().packet(b"x"));
        for (packet, kind) in [(&tcp, Kind::Udp), (&tcp, Kind::Tcp6), (&udp, Kind::Tcp4)] {
            assert_eq!(split(packet, kind, 10), Err(Reason::Offload));
        }
        assert_eq!(split(&tcp[..30], Kind::Tcp4, 10), Err(Reason::Offload));
        assert_eq!(split(&tcp, Kind::Tcp4, 0), Err(Reason::Offload));
    }
}
