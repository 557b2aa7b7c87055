//! ICMP as a ping needs it: the question, and what may come back. Pure.

use std::net::{IpAddr, Ipv4Addr};

use crate::datapath::checksum;
use crate::datapath::layers::UDP;
use crate::look::capture::decode::view;

const ICMP: u8 = 1;
/// The IPv4 header and ICMP's.
pub const HEADERS: usize = 28;

/// An echo request as a whole IPv4 packet of this size, which may not be fragmented. The kernel fills in the source, the identification
/// and the header's checksum.
pub fn request(to: Ipv4Addr, id: u16, sequence: u16, size: usize) -> Vec<u8> {
    let size = size.clamp(HEADERS, usize::from(u16::MAX));
    let [high, low] = (size as u16).to_be_bytes();
    let mut packet = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, ICMP, 0, 0, 0, 0, 0, 0];
    packet.extend(to.octets());
    packet.extend([8, 0, 0, 0]);
    packet.extend([id.to_be_bytes(), sequence.to_be_bytes()].concat());
    packet.extend((HEADERS..size).map(|n| n as u8));
    let sum = checksum::of(&packet[20..]).to_be_bytes();
    packet[22..24].copy_from_slice(&sum);
    packet
}

/// Why a packet went no further, as somebody on the way tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// No way to that network.
    Net,
    /// The host does not answer on its link.
    Host,
    /// Nobody listens on that port.
    Port,
    /// A firewall says no.
    Prohibited,
    /// Too long; what would pass.
    TooBig(u16),
    /// It went in circles.
    Expired,
    /// Another ICMP type and code.
    Other(u8, u8),
}

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// The answer to the question of this number.
    Echo {
        /// Who answered.
        from: Ipv4Addr,
        /// To which question.
        sequence: u16,
        /// How many hops it could still have gone.
        ttl: u8,
        /// Of the whole packet.
        size: usize,
    },
    /// Trouble with a question.
    Trouble {
        /// Who tells.
        from: Ipv4Addr,
        /// What it is.
        what: Trouble,
        /// About the tunnel's datagram, not the question inside of it.
        outer: bool,
    },
}

/// What of that which comes in is for us: answers to questions with this id to this address, and trouble with them or with datagrams to
/// `tunnel`, by which they travel.
pub fn heard(packet: &[u8], id: u16, to: Ipv4Addr, tunnel: Option<(Ipv4Addr, u16)>) -> Option<Heard> {
    let seen = view(packet).filter(|seen| seen.protocol == ICMP)?;
    let IpAddr::V4(from) = seen.source else { return None };
    let [kind, code, _, _, rest @ ..] = seen.transport else { return None };
    let number = |at: usize| Some(u16::from_be_bytes([*rest.get(at)?, *rest.get(at + 1)?]));
    if (*kind, *code) == (0, 0) {
        let ours = number(0)? == id && from == to;
        return ours.then_some(Heard::Echo { from, sequence: number(2)?, ttl: seen.ttl, size: packet.len() });
    }
    let what = match (kind, code) {
        (3, 0 | 6) => Trouble::Net,
        (3, 1 | 7) => Trouble::Host,
        (3, 3) => Trouble::Port,
        (3, 9 | 10 | 13) => Trouble::Prohibited,
        (3, 4) => Trouble::TooBig(number(2)?),
        (11, 0) => Trouble::Expired,
        (3 | 11 | 12, _) => Trouble::Other(*kind, *code),
        _ => return None,
    };
    let quoted = rest.get(4..)?;
    let about = view(quoted)?;
    let field =
        |at: usize| Some(u16::from_be_bytes([*about.transport.get(at)?, *about.transport.get(at + 1)?]));
    let IpAddr::V4(destination) = about.destination else { return None };
    if about.protocol == ICMP && destination == to && field(4)? == id {
        return Some(Heard::Trouble { from, what, outer: false });
    }
    let in_tunnel = about.protocol == UDP && tunnel.is_some_and(|tunnel| tunnel.0 == destination);
    (in_tunnel && Some(field(2)?) == tunnel.map(|tunnel| tunnel.1)).then_some(Heard::Trouble {
        from,
        what,
        outer: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::packet::testing::packet;
    use proptest::prelude::*;

    const POD: Ipv4Addr = Ipv4Addr::new(10, 5, 2, 2);
    const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

    fn error(kind: u8, code: u8, mtu: u16, about: &[u8]) -> Vec<u8> {
        let [high, low] = mtu.to_be_bytes();
        packet(
            HOST.octets(),
            [192, 0, 2, 1],
            1,
            64,
            &[&[kind, code, 0, 0, 0, 0, high, low], &about[..28]].concat(),
        )
    }

    #[test]
    fn a_question_is_whole_and_its_answer_is_known() {
        for size in [0, 28, 29, 1472] {
            let question = request(POD, 7, 3, size);
            assert_eq!(question.len(), size.max(28));
            assert_eq!(checksum::of(&question[20..]), 0);
        }
        let echo = |from: [u8; 4], id: u8| packet(from, [10, 5, 1, 0], 1, 62, &[0, 0, 0, 0, 0, id, 0, 3, 9]);
        let expected = Heard::Echo { from: POD, sequence: 3, ttl: 62, size: 29 };
        assert_eq!(heard(&echo(POD.octets(), 7), 7, POD, None), Some(expected));
        assert_eq!(heard(&echo(POD.octets(), 8), 7, POD, None), None, "another ping's");
        assert_eq!(heard(&echo([10, 5, 2, 3], 7), 7, POD, None), None, "another's answer");
        assert_eq!(heard(&request(POD, 7, 3, 99), 7, POD, None), None, "the question itself");
    }

    #[test]
    fn trouble_is_told_by_what_it_quotes() {
        let inner = request(POD, 7, 3, 64);
        let outer = packet([192, 0, 2, 1], HOST.octets(), UDP, 64, &[0x20, 0x5d, 0x20, 0x5d, 0, 72, 0, 0]);
        let tunnel = Some((HOST, 8285));
        for (code, what) in [
            (0, Trouble::Net),
            (1, Trouble::Host),
            (3, Trouble::Port),
            (13, Trouble::Prohibited),
            (4, Trouble::TooBig(1400)),
            (5, Trouble::Other(3, 5)),
        ] {
            let expected = |outer| Some(Heard::Trouble { from: HOST, what, outer });
            assert_eq!(heard(&error(3, code, 1400, &inner), 7, POD, tunnel), expected(false));
            assert_eq!(heard(&error(3, code, 1400, &outer), 7, POD, tunnel), expected(true));
            assert_eq!(
                heard(&error(3, code, 1400, &outer), 7, POD, Some((HOST, 8472))),
                None,
                "another tunnel's"
            );
            assert_eq!(heard(&error(3, code, 1400, &inner), 8, POD, tunnel), None, "another ping's");
        }
        assert_eq!(
            heard(&error(11, 0, 0, &inner), 7, POD, None),
            Some(Heard::Trouble { from: HOST, what: Trouble::Expired, outer: false })
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..90)) {
            if let Some(first) = bytes.first_mut() {
                *first = 0x45;
            }
            if bytes.len() > 9 {
                bytes[9] = 1;
            }
            heard(&bytes, 7, POD, Some((HOST, 8285)));
        }
    }
}
