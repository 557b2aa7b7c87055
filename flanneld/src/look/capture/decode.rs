//! A frame of the interface between the hosts taken apart: the outer datagram, and the inner packets in it. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};

use crate::datapath::layers::{Layers, TCP, UDP};

const ETHERNET: usize = 14;
const VXLAN: usize = 8;
/// The EtherType of IPv4.
pub const IPV4: [u8; 2] = [0x08, 0x00];
/// The same of IPv6.
pub const IPV6: [u8; 2] = [0x86, 0xdd];

/// How inner packets lie in a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrap {
    /// Bare, one behind the other: the kernel shows datagrams of one flow joined, or not yet cut.
    Bare,
    /// Behind a VXLAN header and one of Ethernet (RFC 7348).
    Vxlan,
}

/// An outer datagram.
#[derive(Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Who sent it.
    pub from: SocketAddrV4,
    /// To whom.
    pub to: SocketAddrV4,
    /// What is in it.
    pub payload: &'a [u8],
}

/// The outer IPv4 packet of a frame, which begins with an Ethernet header or does not.
pub fn outer(frame: &[u8], ethernet: bool) -> Option<Datagram<'_>> {
    let packet = if ethernet { frame.get(ETHERNET..).filter(|_| frame[12..14] == IPV4)? } else { frame };
    let header = packet.first_chunk::<20>()?;
    let length = usize::from(header[0] & 0x0f) * 4;
    let later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    if header[0] >> 4 != 4 || length < 20 || header[9] != UDP || later_fragment {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    // Behind a short packet Ethernet has padding; a joined one may be longer than its header can say.
    let end = if total >= length { total.min(packet.len()) } else { packet.len() };
    let udp = packet.get(length..end)?;
    let ports = udp.first_chunk::<8>()?;
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    let ip = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    Some(Datagram {
        from: SocketAddrV4::new(ip(12), port(0)),
        to: SocketAddrV4::new(ip(16), port(2)),
        payload: &udp[8..],
    })
}

/// The inner packets of a payload; what is no IP packet comes as what it is, and ends it.
pub fn inner(payload: &[u8], wrap: Wrap) -> impl Iterator<Item = &[u8]> {
    let mut rest = match wrap {
        Wrap::Bare => payload,
        Wrap::Vxlan => payload
            .get(VXLAN..)
            .filter(|ethernet| {
                ethernet.len() > ETHERNET && [IPV4, IPV6].contains(&[ethernet[12], ethernet[13]])
            })
            .map_or(&[][..], |ethernet| &ethernet[ETHERNET..]),
    };
    std::iter::from_fn(move || {
        let length = match rest.first()? >> 4 {
            4 => rest.get(2..4).map(|field| usize::from(u16::from_be_bytes([field[0], field[1]]))),
            6 => rest.get(4..6).map(|field| 40 + usize::from(u16::from_be_bytes([field[0], field[1]]))),
            _ => None,
        };
        // A VXLAN frame holds one packet. A length of nothing would never come to an end.
        let one = wrap == Wrap::Vxlan || length.is_none_or(|length| length < 20);
        let end = if one { rest.len() } else { length.unwrap_or(rest.len()).min(rest.len()) };
        let (packet, behind) = rest.split_at(end);
        rest = behind;
        Some(packet)
    })
}

/// What stands in the headers of an inner packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View<'a> {
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
    /// The protocol inside.
    pub protocol: u8,
    /// How many hops it may still go.
    pub ttl: u8,
    /// Source and destination port of a whole TCP or UDP packet.
    pub ports: Option<(u16, u16)>,
    /// From the transport header on.
    pub transport: &'a [u8],
    /// The length of TCP's or UDP's payload.
    pub payload: Option<usize>,
    /// Where in the whole it belongs, in bytes, and whether more follows: a fragment.
    pub fragment: Option<(u16, bool)>,
    /// In all.
    pub length: usize,
}

/// Reads the headers; none if it is no IP packet. Whatever the lengths say: it is there to be looked at.
pub fn view(packet: &[u8]) -> Option<View<'_>> {
    let layers = Layers::parse(packet);
    let ports = layers.map(|layers| {
        let ports = layers.ports(packet);
        (u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]]))
    });
    let payload = layers.map(|layers| packet.len() - layers.payload);
    let common = |source, destination, protocol, ttl, header: usize, fragment| View {
        source,
        destination,
        protocol,
        ttl,
        ports,
        transport: packet.get(header..).unwrap_or_default(),
        payload,
        fragment,
        length: packet.len(),
    };
    match packet.first()? >> 4 {
        4 => {
            let h = packet.first_chunk::<20>()?;
            let ip = |at: usize| IpAddr::from([h[at], h[at + 1], h[at + 2], h[at + 3]]);
            let field = u16::from_be_bytes([h[6], h[7]]);
            let (offset, more) = ((field & 0x1fff) * 8, field & 0x2000 != 0);
            let fragment = Some((offset, more)).filter(|(offset, more)| *offset > 0 || *more);
            Some(common(ip(12), ip(16), h[9], h[8], usize::from(h[0] & 15) * 4, fragment))
        }
        6 => {
            let h = packet.first_chunk::<40>()?;
            let ip = |at: usize| {
                let mut bytes = [0; 16];
                bytes.copy_from_slice(&h[at..at + 16]);
                IpAddr::V6(Ipv6Addr::from(bytes))
            };
            Some(common(ip(8), ip(24), h[6], h[7], 40, None))
        }
        _ => None,
    }
}

impl View<'_> {
    /// TCP's flags, if it is TCP and all is there.
    pub fn flags(&self) -> Option<u8> {
        self.payload.and_then(|_| self.transport.get(13)).copied().filter(|_| self.protocol == TCP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::packet::testing::{Flow, packet};
    use proptest::prelude::*;

    fn frame(inner: &[u8], port: u16) -> Vec<u8> {
        let [high, low] = u16::try_from(8 + inner.len()).unwrap().to_be_bytes();
        let [a, b] = port.to_be_bytes();
        let udp = [&[a, b, a, b, high, low, 0, 0], inner].concat();
        let ip = packet([192, 0, 2, 1], [192, 0, 2, 2], UDP, 64, &udp);
        [&[2; 12], &IPV4[..], &ip].concat()
    }

    #[test]
    fn joined_datagrams_come_apart() {
        let (tcp, udp) = (Flow::tcp().packet(b"hello"), Flow::udp().packet(b"x"));
        let ping = packet([10, 5, 1, 2], [10, 5, 2, 2], 1, 64, &[8, 0, 0, 0, 0, 1, 0, 2]);
        let mut frame = frame(&[&tcp[..], &tcp, &udp, &ping].concat(), 8285);
        frame.extend([0; 9]);
        let datagram = outer(&frame, true).unwrap();
        assert_eq!(
            (datagram.from.to_string(), datagram.to.to_string()),
            ("192.0.2.1:8285".into(), "192.0.2.2:8285".into())
        );
        let packets: Vec<_> = inner(datagram.payload, Wrap::Bare).collect();
        assert_eq!(packets, [&tcp[..], &tcp, &udp, &ping]);
        let views: Vec<_> = packets.iter().map(|packet| view(packet).unwrap()).collect();
        assert_eq!(views[0].ports, Some((40_000, 80)));
        assert_eq!((views[0].payload, views[0].flags()), (Some(5), Some(0x10)));
        assert_eq!((views[2].ports, views[2].flags(), views[2].payload), (Some((40_000, 53)), None, Some(1)));
        assert_eq!((views[3].ports, views[3].protocol, views[3].transport[0]), (None, 1, 8));
        assert_eq!(outer(&frame[14..], false).unwrap(), datagram, "without Ethernet");
    }

    #[test]
    fn vxlan_has_a_frame_inside() {
        let tcp = Flow::tcp().v6().packet(b"hello");
        let inside = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &[2; 12], &IPV6, &tcp].concat();
        let frame = frame(&inside, 8472);
        let packets: Vec<_> = inner(outer(&frame, true).unwrap().payload, Wrap::Vxlan).collect();
        assert_eq!(packets, [&tcp[..]]);
        assert_eq!(
            view(packets[0]).unwrap().destination.to_string(),
            "fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:102"
        );
        let arp = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &[2; 12], &[8, 6], &[0; 28]].concat();
        assert_eq!(inner(&arp, Wrap::Vxlan).count(), 0, "no IP");
    }

    #[test]
    fn fragments_and_nonsense_are_shown_as_what_they_are() {
        let mut first = Flow::udp().packet(&[0; 32]);
        first[6] = 0x20;
        let seen = view(&first).unwrap();
        assert_eq!((seen.fragment, seen.ports), (Some((0, true)), None));
        assert_eq!(inner(b"nonsense", Wrap::Bare).collect::<Vec<_>>(), [b"nonsense"]);
        assert!(view(b"nonsense").is_none());
        let mut nothing = first.clone();
        nothing[2..4].fill(0);
        assert_eq!(inner(&nothing, Wrap::Bare).count(), 1, "a length of nothing ends");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), ethernet: bool, vxlan: bool) {
            let wrap = if vxlan { Wrap::Vxlan } else { Wrap::Bare };
            for packet in outer(&bytes, ethernet).into_iter().flat_map(|o| inner(o.payload, wrap)) {
                view(packet);
            }
            let total: usize = inner(&bytes, wrap).map(|packet| { view(packet); packet.len() }).sum();
            prop_assert!(total <= bytes.len());
        }
    }
}
