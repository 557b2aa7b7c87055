//! A view of an IPv4 packet, checked once and free to use afterwards.

use std::net::Ipv4Addr;

use super::checksum;
use super::counters::Reason;

const MIN_HEADER: usize = 20;
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

    /// Takes one hop off and mends the checksum; refused if none would be left.
    pub fn hop(&mut self) -> Result<(), Reason> {
        let ttl = self.ttl();
        if ttl <= 1 {
            return Err(Reason::Ttl);
        }
        let old = u16::from_be_bytes([ttl, self.protocol()]);
        let new = u16::from_be_bytes([ttl - 1, self.protocol()]);
        let sum = u16::from_be_bytes([self.bytes[CHECKSUM], self.bytes[CHECKSUM + 1]]);
        self.bytes[TTL] = ttl - 1;
        self.bytes[CHECKSUM..CHECKSUM + 2].copy_from_slice(&checksum::adjust(sum, old, new).to_be_bytes());
        Ok(())
    }

    fn address(&self, at: usize) -> Ipv4Addr {
        Ipv4Addr::new(self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3])
    }
}

/// Packets for tests.
#[cfg(test)]
pub mod testing {
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
