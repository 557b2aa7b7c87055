//! Where the headers of a packet lie: IPv4 or IPv6, and TCP or UDP right behind it.

/// The transport protocol's number for TCP.
pub const TCP: u8 = 6;
/// The transport protocol's number for UDP.
pub const UDP: u8 = 17;
/// The longest headers that are looked at: IPv4 and TCP with all their options.
pub const MAX_HEADER: usize = 120;

const IPV6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;

/// The headers of a packet that is whole: no fragment, and its lengths add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layers {
    /// IPv6, not IPv4.
    pub v6: bool,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// Where the transport header begins.
    pub network: usize,
    /// Where the payload begins; at most [`MAX_HEADER`].
    pub payload: usize,
}

impl Layers {
    /// Looks for them; none in fragments, behind IPv6 extension headers, in other protocols, and where lengths lie.
    pub fn parse(packet: &[u8]) -> Option<Layers> {
        let (v6, protocol, network) = match packet.first()? >> 4 {
            4 => ipv4(packet)?,
            6 => ipv6(packet)?,
            _ => return None,
        };
        let length = match protocol {
            TCP => usize::from(*packet.get(network + 12)? >> 4) * 4,
            UDP => UDP_HEADER,
            _ => return None,
        };
        let payload = network + length;
        let enough = length >= if protocol == TCP { 20 } else { UDP_HEADER };
        (enough && payload <= packet.len()).then_some(Layers { v6, protocol, network, payload })
    }

    /// Both addresses.
    pub fn addresses<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        if self.v6 { &packet[8..40] } else { &packet[12..20] }
    }

    /// Both ports.
    pub fn ports<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        &packet[self.network..self.network + 4]
    }

    /// Where the transport header has its checksum, from its beginning.
    pub fn checksum_offset(&self) -> usize {
        if self.protocol == TCP { super::checksum::IN_TCP } else { super::checksum::IN_UDP }
    }
}

fn ipv4(packet: &[u8]) -> Option<(bool, u8, usize)> {
    let header = packet.first_chunk::<20>()?;
    let length = usize::from(header[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
    (length >= 20 && total == packet.len() && fragment == 0).then_some((false, header[9], length))
}

fn ipv6(packet: &[u8]) -> Option<(bool, u8, usize)> {
    let header = packet.first_chunk::<IPV6_HEADER>()?;
    let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
    (payload + IPV6_HEADER == packet.len()).then_some((true, header[6], IPV6_HEADER))
}

#[cfg(test)]
mod tests {
    use super::super::packet::testing::packet;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn headers_are_found_where_they_are() {
        let mut tcp = packet([10, 5, 1, 2], [10, 5, 2, 2], TCP, 64, &[0; 40]);
        assert_eq!(Layers::parse(&tcp), None, "a TCP header of no length");
        tcp[32] = 0x80;
        let layers = Layers::parse(&tcp).unwrap();
        assert_eq!((layers.network, layers.payload, layers.checksum_offset()), (20, 52, 16));
        assert_eq!(layers.addresses(&tcp), [10, 5, 1, 2, 10, 5, 2, 2]);
        tcp[6] = 0x20;
        assert_eq!(Layers::parse(&tcp), None, "a fragment");
        let udp = packet([10, 5, 1, 2], [10, 5, 2, 2], UDP, 64, &[0; 8]);
        assert_eq!(Layers::parse(&udp).map(|l| l.payload), Some(28));
        assert_eq!(Layers::parse(&udp[..27]), None);
        assert_eq!(Layers::parse(&packet([1; 4], [2; 4], 1, 64, &[0; 8])), None, "ICMP");
    }

    #[test]
    fn ipv6_has_them_behind_forty_bytes() {
        let mut bytes = [0; 50];
        (bytes[0], bytes[5], bytes[6]) = (0x60, 10, UDP);
        let layers = Layers::parse(&bytes).unwrap();
        assert_eq!((layers.v6, layers.network, layers.payload), (true, 40, 48));
        bytes[6] = 0;
        assert_eq!(Layers::parse(&bytes), None, "hop-by-hop options");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..130), v6: bool) {
            if let Some(first) = bytes.first_mut() {
                *first = if v6 { 0x60 } else { 0x40 | (*first & 0x0f) };
            }
            if let Some(layers) = Layers::parse(&bytes) {
                prop_assert!(layers.payload <= MAX_HEADER.min(bytes.len()));
                prop_assert!(layers.addresses(&bytes).len() + layers.ports(&bytes).len() >= 12);
            }
        }
    }
}
