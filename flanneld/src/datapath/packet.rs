//! A view of an IPv4 packet, checked once and free to use afterwards.

use std::net::Ipv4Addr;

use super::checksum;
use super::counters::Reason;

const MIN_HEADER: usize = 20;
const TOS: usize = 1;
const TTL: usize = 8;
const CHECKSUM: usize = 10;

/// A whole IPv4 packet: version and lengths add up (RFC 791).
#[derive(Debug)]
pub struct Packet<'a> {
    bytes: &'a mut [u8],
}

impl<'a> Packet<'a> {
    /// Checks the header against the bytes that are there.
    pub fn parse(bytes: &'a mut [u8]) -> Result<Packet<'a>, Reason> {
        let [first, _, high, low, ..] = *bytes else { return Err(Reason::Short) };
        if bytes.len() < MIN_HEADER {
            return Err(Reason::Short);
        }
        if first >> 4 != 4 {
            return Err(Reason::Version);
        }
        let header = usize::from(first & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([high, low]));
        if header < MIN_HEADER || total < header || total != bytes.len() {
            return Err(Reason::Length);
        }
        Ok(Packet { bytes })
    }

    /// Who sent it.
    pub fn source(&self) -> Ipv4Addr {
        self.address(12)
    }

    /// To whom.
    pub fn destination(&self) -> Ipv4Addr {
        self.address(16)
    }

    /// The class of service: DSCP and ECN (RFC 2474, RFC 3168).
    pub fn tos(&self) -> u8 {
        self.bytes[TOS]
    }

    /// Sets it and mends the checksum.
    pub fn set_tos(&mut self, tos: u8) {
        self.mend(TOS - 1, [self.bytes[TOS - 1], tos]);
    }

    /// How many hops it may still go.
    pub fn ttl(&self) -> u8 {
        self.bytes[TTL]
    }

    /// The protocol inside, e.g. 1 for ICMP.
    pub fn protocol(&self) -> u8 {
        self.bytes[9]
    }

    /// The length of the header in bytes.
    pub fn header_len(&self) -> usize {
        usize::from(self.bytes[0] & 0x0f) * 4
    }

    /// Whether it is a fragment that does not hold the beginning.
    pub fn is_later_fragment(&self) -> bool {
        u16::from_be_bytes([self.bytes[6], self.bytes[7]]) & 0x1fff != 0
    }

    /// What follows the header.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.header_len()..]
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// All of it, to change what stands behind the header.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes
    }

    /// Takes one hop off and mends the checksum; refused if none would be left.
    pub fn hop(&mut self) -> Result<(), Reason> {
        let ttl = self.ttl();
        if ttl <= 1 {
            return Err(Reason::Ttl);
        }
        self.mend(TTL, [ttl - 1, self.protocol()]);
        Ok(())
    }

    /// Writes a word of the header, and mends the checksum: a wrong one stays wrong.
    fn mend(&mut self, at: usize, new: [u8; 2]) {
        let word = |at: usize| u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]]);
        let sum = checksum::adjust(word(CHECKSUM), word(at), u16::from_be_bytes(new));
        self.bytes[at..at + 2].copy_from_slice(&new);
        self.bytes[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
    }

    fn address(&self, at: usize) -> Ipv4Addr {
        Ipv4Addr::new(self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3])
    }
}

/// Packets for tests.
#[cfg(test)]
pub mod testing {
    use super::super::layers::{TCP, UDP};
    use super::*;

    /// A packet with a right header checksum.
    pub fn packet(source: [u8; 4], destination: [u8; 4], protocol: u8, ttl: u8, payload: &[u8]) -> Vec<u8> {
        let total = u16::try_from(MIN_HEADER + payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![0x45, 0, total[0], total[1], 0, 7, 0x40, 0, ttl, protocol, 0, 0];
        bytes.extend(source);
        bytes.extend(destination);
        let sum = checksum::of(&bytes).to_be_bytes();
        bytes[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum);
        bytes.extend(payload);
        bytes
    }

    /// A moment of a TCP or UDP flow; what its packets look like.
    #[derive(Debug, Clone, Copy)]
    #[allow(missing_docs)]
    pub struct Flow {
        pub v6: bool,
        pub protocol: u8,
        pub port: u16,
        pub id: u16,
        pub tos: u8,
        pub ttl: u8,
        pub dont_fragment: bool,
        pub sequence: u32,
        pub acknowledged: u32,
        pub flags: u8,
        pub window: u16,
        pub timestamp: Option<u32>,
    }

    impl Flow {
        /// Of TCP, with timestamps.
        pub fn tcp() -> Flow {
            Flow {
                v6: false,
                protocol: TCP,
                port: 40_000,
                id: 7,
                tos: 0,
                ttl: 63,
                dont_fragment: true,
                sequence: 1000,
                acknowledged: 1,
                flags: 0x10,
                window: 500,
                timestamp: Some(3),
            }
        }

        /// Of UDP.
        pub fn udp() -> Flow {
            Flow { protocol: UDP, ..Flow::tcp() }
        }

        /// The same over IPv6.
        pub fn v6(self) -> Flow {
            Flow { v6: true, ..self }
        }

        /// A packet with right checksums.
        pub fn packet(&self, payload: &[u8]) -> Vec<u8> {
            let transport = if self.protocol == TCP { self.tcp_header() } else { self.udp_header(payload) };
            let mut bytes = self.network(transport.len() + payload.len());
            let addresses = if self.v6 { bytes[8..40].to_vec() } else { bytes[12..20].to_vec() };
            let start = bytes.len();
            bytes.extend(transport);
            bytes.extend(payload);
            let offset = if self.protocol == TCP { 16 } else { 6 };
            let pseudo = checksum::pseudo(&addresses, self.protocol, bytes.len() - start);
            bytes[start + offset..start + offset + 2].copy_from_slice(&pseudo.to_be_bytes());
            checksum::complete(&mut bytes, start, offset).unwrap();
            bytes
        }

        fn network(&self, length: usize) -> Vec<u8> {
            if self.v6 {
                let [high, low] = u16::try_from(length).unwrap().to_be_bytes();
                let mut bytes =
                    vec![0x60 | self.tos >> 4, self.tos << 4, 0, 0, high, low, self.protocol, self.ttl];
                bytes.extend([[0xfd; 15], [0xfd; 15]].concat());
                bytes.extend([1, 2]);
                return bytes;
            }
            let mut bytes = packet([10, 5, 1, 2], [10, 5, 2, 2], self.protocol, self.ttl, &vec![0; length]);
            bytes.truncate(MIN_HEADER);
            bytes[1] = self.tos;
            bytes[4..6].copy_from_slice(&self.id.to_be_bytes());
            bytes[6] = if self.dont_fragment { 0x40 } else { 0 };
            bytes[CHECKSUM..CHECKSUM + 2].fill(0);
            let sum = checksum::of(&bytes).to_be_bytes();
            bytes[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum);
            bytes
        }

        fn tcp_header(&self) -> Vec<u8> {
            let mut bytes = [self.port.to_be_bytes(), 80_u16.to_be_bytes()].concat();
            bytes.extend(self.sequence.to_be_bytes());
            bytes.extend(self.acknowledged.to_be_bytes());
            bytes.extend([if self.timestamp.is_some() { 0x80 } else { 0x50 }, self.flags]);
            bytes.extend(self.window.to_be_bytes());
            bytes.extend([0; 4]);
            if let Some(time) = self.timestamp {
                bytes.extend([1, 1, 8, 10]);
                bytes.extend([time.to_be_bytes(), 9_u32.to_be_bytes()].concat());
            }
            bytes
        }

        fn udp_header(&self, payload: &[u8]) -> Vec<u8> {
            let length = u16::try_from(8 + payload.len()).unwrap();
            [self.port, 53, length, 0].iter().flat_map(|field| field.to_be_bytes()).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::packet;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_does_not_add_up_is_refused() {
        let good = packet([10, 5, 1, 2], [10, 5, 2, 2], 17, 64, b"payload!");
        let edited = |edit: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            edit(&mut bytes);
            Packet::parse(&mut bytes).map(|p| p.ttl()).err()
        };
        assert_eq!(edited(&|_| {}), None);
        assert_eq!(edited(&|b| b.truncate(19)), Some(Reason::Short));
        assert_eq!(edited(&|b| b.clear()), Some(Reason::Short));
        assert_eq!(edited(&|b| b[0] = 0x65), Some(Reason::Version));
        assert_eq!(edited(&|b| b[0] = 0x44), Some(Reason::Length));
        assert_eq!(edited(&|b| b[0] = 0x4f), Some(Reason::Length));
        assert_eq!(edited(&|b| b[3] += 1), Some(Reason::Length));
        assert_eq!(edited(&|b| b.push(0)), Some(Reason::Length));
    }

    #[test]
    fn a_hop_costs_one_and_the_checksum_stays_right() {
        let mut bytes = packet([10, 5, 1, 2], [10, 5, 2, 2], 6, 64, b"x");
        let mut view = Packet::parse(&mut bytes).unwrap();
        view.hop().unwrap();
        assert_eq!(view.ttl(), 63);
        assert_eq!(checksum::of(&bytes[..20]), 0, "the header sums up to nothing");
        for ttl in [0, 1] {
            let mut bytes = packet([1; 4], [2; 4], 6, ttl, b"");
            assert_eq!(Packet::parse(&mut bytes).unwrap().hop(), Err(Reason::Ttl));
        }
    }

    #[test]
    fn another_class_of_service_leaves_the_checksum_right() {
        let mut bytes = packet([10, 5, 1, 2], [10, 5, 2, 2], 6, 64, b"x");
        let mut view = Packet::parse(&mut bytes).unwrap();
        view.set_tos(0xbb);
        assert_eq!((view.tos(), view.header_len(), checksum::of(&bytes[..20])), (0xbb, 20, 0));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            if let Ok(mut packet) = Packet::parse(&mut bytes) {
                let _ = packet.hop();
                prop_assert!(packet.payload().len() < 120);
                packet.is_later_fragment();
            }
        }
    }
}
