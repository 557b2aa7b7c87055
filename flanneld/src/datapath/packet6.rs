//! A view of an IPv6 packet, checked once and free to use afterwards.

use std::net::Ipv6Addr;

use super::counters::Reason;

/// The length of the header without extensions.
pub const HEADER: usize = 40;
const NEXT_HEADER: usize = 6;
const HOP_LIMIT: usize = 7;
/// The protocol's number for ICMPv6.
pub const ICMPV6: u8 = 58;

/// A whole IPv6 packet: version and lengths add up (RFC 8200 section 3). Jumbograms are none.
#[derive(Debug)]
pub struct Packet6<'a> {
    bytes: &'a mut [u8],
}

/// Whether bytes out of a device, or out of a tunnel, say that they are an IPv6 packet.
pub fn is(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|first| first >> 4 == 6)
}

impl<'a> Packet6<'a> {
    /// Checks the header against the bytes that are there.
    pub fn parse(bytes: &'a mut [u8]) -> Result<Packet6<'a>, Reason> {
        let Some(header) = bytes.first_chunk::<HEADER>() else { return Err(Reason::Short) };
        if header[0] >> 4 != 6 {
            return Err(Reason::Version);
        }
        if HEADER + usize::from(u16::from_be_bytes([header[4], header[5]])) != bytes.len() {
            return Err(Reason::Length);
        }
        Ok(Packet6 { bytes })
    }

    /// Who sent it.
    pub fn source(&self) -> Ipv6Addr {
        self.address(8)
    }

    /// To whom.
    pub fn destination(&self) -> Ipv6Addr {
        self.address(24)
    }

    /// The class of service: DSCP and ECN (RFC 2474, RFC 3168).
    pub fn tos(&self) -> u8 {
        self.bytes[0] << 4 | self.bytes[1] >> 4
    }

    /// Sets it.
    pub fn set_tos(&mut self, tos: u8) {
        self.bytes[0] = 0x60 | tos >> 4;
        self.bytes[1] = tos << 4 | self.bytes[1] & 0x0f;
    }

    /// Takes one hop off; refused if none would be left.
    pub fn hop(&mut self) -> Result<(), Reason> {
        let left = self.bytes[HOP_LIMIT];
        if left <= 1 {
            return Err(Reason::Ttl);
        }
        self.bytes[HOP_LIMIT] = left - 1;
        Ok(())
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// All of it, to change what stands behind the header.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes
    }

    /// What is behind the extension headers: its protocol and where it begins. None in a fragment that does not hold the beginning, and
    /// where the headers end too early.
    pub fn upper(&self) -> Option<(u8, &[u8])> {
        const HOP_BY_HOP: u8 = 0;
        const ROUTING: u8 = 43;
        const FRAGMENT: u8 = 44;
        const DESTINATION: u8 = 60;
        let (mut protocol, mut rest) = (self.bytes[NEXT_HEADER], &self.bytes[HEADER..]);
        loop {
            let length = match (protocol, rest) {
                (FRAGMENT, [_, _, high, low, ..]) if u16::from_be_bytes([*high, *low]) & !7 == 0 => 8,
                (HOP_BY_HOP | ROUTING | DESTINATION, [_, length, ..]) => (usize::from(*length) + 1) * 8,
                (FRAGMENT | HOP_BY_HOP | ROUTING | DESTINATION, _) => return None,
                _ => return Some((protocol, rest)),
            };
            protocol = rest[0];
            rest = rest.get(length..)?;
        }
    }

    fn address(&self, at: usize) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.bytes[at..at + 16]);
        octets.into()
    }
}

/// Packets for tests.
#[cfg(test)]
pub mod testing {
    use super::*;

    /// A packet between these addresses.
    pub fn packet(source: &str, destination: &str, protocol: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
        let [high, low] = u16::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![0x60, 0, 0, 0, high, low, protocol, hops];
        for ip in [source, destination] {
            bytes.extend(ip.parse::<Ipv6Addr>().unwrap().octets());
        }
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
        let good = packet("fc00:0:0:1::2", "fc00:0:0:2::2", 17, 64, b"payload!");
        let edited = |edit: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            edit(&mut bytes);
            Packet6::parse(&mut bytes).map(|p| p.tos()).err()
        };
        assert_eq!(edited(&|_| {}), None);
        assert_eq!(edited(&|b| b.truncate(39)), Some(Reason::Short));
        assert_eq!(edited(&|b| b.clear()), Some(Reason::Short));
        assert_eq!(edited(&|b| b[0] = 0x45), Some(Reason::Version));
        assert_eq!(edited(&|b| b[5] += 1), Some(Reason::Length));
        assert_eq!(edited(&|b| b.push(0)), Some(Reason::Length));
        assert_eq!(edited(&|b| b[4..6].fill(0)), Some(Reason::Length), "a jumbogram");
    }

    #[test]
    fn a_hop_costs_one_and_the_flow_label_stays() {
        let mut bytes = packet("fc00:0:0:1::2", "fc00:0:0:2::2", 6, 64, b"x");
        bytes[1..4].copy_from_slice(&[0x05, 0x67, 0x89]);
        let mut view = Packet6::parse(&mut bytes).unwrap();
        view.hop().unwrap();
        view.set_tos(0xbb);
        assert_eq!(
            (view.tos(), view.source(), view.destination()),
            (0xbb, "fc00:0:0:1::2".parse().unwrap(), "fc00:0:0:2::2".parse().unwrap())
        );
        assert_eq!((bytes[7], &bytes[..4]), (63, &[0x6b, 0xb5, 0x67, 0x89][..]));
        for hops in [0, 1] {
            let mut bytes = packet("::1", "::2", 6, hops, b"");
            assert_eq!(Packet6::parse(&mut bytes).unwrap().hop(), Err(Reason::Ttl));
        }
    }

    #[test]
    fn what_is_inside_is_found_behind_extension_headers() {
        let upper = |protocol, payload: &[u8]| {
            let mut bytes = packet("::1", "::2", protocol, 64, payload);
            Packet6::parse(&mut bytes).unwrap().upper().map(|(protocol, rest)| (protocol, rest.to_vec()))
        };
        assert_eq!(upper(ICMPV6, &[1, 0]), Some((ICMPV6, vec![1, 0])));
        let options = [60, 0, 1, 4, 0, 0, 0, 0, ICMPV6, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 128];
        assert_eq!(upper(0, &options), Some((ICMPV6, vec![128])), "two of them");
        assert_eq!(upper(44, &[17, 0, 0, 1, 0, 0, 0, 7, 9]), Some((17, vec![9])), "a first fragment");
        assert_eq!(upper(44, &[17, 0, 0, 9, 0, 0, 0, 7, 9]), None, "a later one");
        assert_eq!(upper(0, &[58, 9, 1, 4]), None, "too short");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..120), fits: bool) {
            if let (true, [first, _, _, _, high, low, ..]) = (fits, &mut bytes[..]) {
                *first = 0x60;
                *high = 0;
                *low = 0;
            }
            let length = bytes.len().saturating_sub(HEADER);
            if fits && bytes.len() > HEADER {
                bytes[5] = length as u8;
            }
            if let Ok(mut packet) = Packet6::parse(&mut bytes) {
                let _ = packet.hop();
                if let Some((_, rest)) = packet.upper() {
                    prop_assert!(rest.len() <= length);
                }
            }
        }
    }
}
