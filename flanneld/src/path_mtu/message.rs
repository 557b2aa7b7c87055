//! The messages of the search: echo requests that go through the tunnel, their answers, and what routers of the underlay tell of
//! datagrams that were too long. Pure; what arrives is checked to the last byte, since anybody may have sent it.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::search::OVERHEAD;
use crate::datapath::checksum;

const HEADER: usize = 20;
const ECHO_HEADER: usize = 8;
const ICMP: u8 = 1;
const UDP: u8 = 17;
const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO_REQUEST: u8 = 8;
const FRAGMENTATION_NEEDED: u8 = 4;
const TTL: u8 = 64;
/// Random bytes in each question: an answer that has them comes from somebody who got it.
pub const SECRET: usize = 8;
/// The shortest question.
const SHORTEST: usize = HEADER + ECHO_HEADER + SECRET;

/// A question: does a packet of this size get from one tunnel's address to another's?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// The own tunnel's address.
    pub from: Ipv4Addr,
    /// The peer's.
    pub to: Ipv4Addr,
    /// The whole packet's length.
    pub size: u32,
    /// See [`SECRET`].
    pub secret: [u8; SECRET],
}

impl Question {
    /// The echo request (RFC 792), which may not be fragmented.
    pub fn encode(&self) -> Vec<u8> {
        let size = usize::try_from(self.size).unwrap_or(0).clamp(SHORTEST, usize::from(u16::MAX));
        let mut bytes = vec![0; size];
        bytes[0] = 0x45;
        bytes[2..4].copy_from_slice(&(size as u16).to_be_bytes());
        bytes[6] = 0x40;
        (bytes[8], bytes[9]) = (TTL, ICMP);
        bytes[12..16].copy_from_slice(&self.from.octets());
        bytes[16..20].copy_from_slice(&self.to.octets());
        let sum = checksum::of(&bytes[..HEADER]).to_be_bytes();
        bytes[10..12].copy_from_slice(&sum);
        let echo = &mut bytes[HEADER..];
        echo[0] = ECHO_REQUEST;
        echo[4..6].copy_from_slice(&self.secret[..2]);
        echo[6..8].copy_from_slice(&(size as u16).to_be_bytes());
        echo[ECHO_HEADER..ECHO_HEADER + SECRET].copy_from_slice(&self.secret);
        let sum = checksum::of(echo).to_be_bytes();
        echo[2..4].copy_from_slice(&sum);
        bytes
    }
}

/// What was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// An echo reply; the question that it answers.
    Answer(Question),
    /// A router dropped a datagram of ours, since it was too long.
    TooLong {
        /// Who says so.
        router: Ipv4Addr,
        /// From where the datagram was.
        from: SocketAddrV4,
        /// To where.
        to: SocketAddrV4,
        /// The largest inner packet that gets through.
        mtu: u32,
    },
}

/// Reads an ICMP packet as a raw socket gives it, IP header and all. None: it is of no interest, or not right.
pub fn heard(packet: &[u8]) -> Option<Heard> {
    let (header, icmp) = ip(packet, ICMP)?;
    if icmp.len() < ECHO_HEADER || checksum::sum(icmp) != 0xffff {
        return None;
    }
    match (icmp[0], icmp[1]) {
        (ECHO_REPLY, 0) => answer(header, packet.len(), icmp),
        (UNREACHABLE, FRAGMENTATION_NEEDED) => too_long(address(header, 12), icmp),
        _ => None,
    }
}

fn answer(header: &[u8], length: usize, icmp: &[u8]) -> Option<Heard> {
    let secret: [u8; SECRET] = *icmp[ECHO_HEADER..].first_chunk()?;
    let told = usize::from(word(icmp, 6));
    (told == length && icmp[4..6] == secret[..2]).then(|| {
        let (from, to) = (address(header, 16), address(header, 12));
        Heard::Answer(Question { from, to, size: u32::from(word(icmp, 6)), secret })
    })
}

fn too_long(router: Ipv4Addr, icmp: &[u8]) -> Option<Heard> {
    // Only a part of the datagram is quoted, eight bytes behind the header at least (RFC 792).
    let quoted = &icmp[ECHO_HEADER..];
    let header = quoted.first_chunk::<HEADER>()?;
    let network = usize::from(header[0] & 0x0f) * 4;
    let udp = quoted.get(network..network + 8)?;
    let later = word(header, 6) & 0x1fff != 0;
    if header[0] >> 4 != 4 || network < HEADER || header[9] != UDP || later {
        return None;
    }
    let total = u32::from(word(header, 2));
    let mtu = match u32::from(word(icmp, 6)) {
        // A router from before RFC 1191: less than the datagram, by how much is not said.
        0 => plateau(total),
        mtu => mtu,
    };
    // It would have fitted: whoever says so has not seen it.
    if total <= mtu {
        return None;
    }
    let from = SocketAddrV4::new(address(header, 12), word(udp, 0));
    let to = SocketAddrV4::new(address(header, 16), word(udp, 2));
    Some(Heard::TooLong { router, from, to, mtu: mtu.saturating_sub(OVERHEAD) })
}

/// The next MTU below a length among those of RFC 1191 section 7.1.
fn plateau(length: u32) -> u32 {
    const PLATEAUS: [u32; 7] = [17914, 8166, 4352, 2002, 1492, 1006, 576];
    PLATEAUS.into_iter().find(|mtu| *mtu < length).unwrap_or(0)
}

/// Header and rest of a whole IPv4 packet of this protocol.
fn ip(packet: &[u8], protocol: u8) -> Option<(&[u8], &[u8])> {
    let network = usize::from(*packet.first()? & 0x0f) * 4;
    let right = packet[0] >> 4 == 4 && network >= HEADER && packet.len() >= network && packet[9] == protocol;
    right.then(|| packet.split_at(network))
}

fn address(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::packet::Packet;

    const QUESTION: Question = Question {
        from: Ipv4Addr::new(10, 5, 1, 0),
        to: Ipv4Addr::new(10, 5, 2, 0),
        size: 1472,
        secret: *b"eightchr",
    };

    /// What the peer's kernel makes of a question.
    fn replied(mut packet: Vec<u8>) -> Vec<u8> {
        let from = packet[12..16].to_vec();
        packet.copy_within(16..20, 12);
        packet[16..20].copy_from_slice(&from);
        packet[20] = ECHO_REPLY;
        resummed(packet)
    }

    fn resummed(mut packet: Vec<u8>) -> Vec<u8> {
        packet[22..24].fill(0);
        let sum = checksum::of(&packet[20..]).to_be_bytes();
        packet[22..24].copy_from_slice(&sum);
        packet
    }

    #[test]
    fn a_question_is_a_right_packet_and_its_answer_is_known() {
        let mut bytes = QUESTION.encode();
        assert_eq!((bytes.len(), bytes[6], checksum::of(&bytes[..20])), (1472, 0x40, 0));
        assert!(Packet::parse(&mut bytes).is_ok());
        assert_eq!(checksum::sum(&bytes[20..]), 0xffff);
        assert_eq!(heard(&replied(bytes)), Some(Heard::Answer(QUESTION)));
        assert_eq!(Question { size: 1, ..QUESTION }.encode().len(), SHORTEST);
    }

    #[test]
    fn an_answer_that_is_not_the_question_is_none() {
        let reply = replied(QUESTION.encode());
        for (at, value) in [(0, 0x65), (9, 17), (20, 8), (21, 1), (24, 0), (26, 9), (100, 1)] {
            let mut wrong = reply.clone();
            wrong[at] = value;
            let wrong = if at == 100 { wrong } else { resummed(wrong) };
            assert_eq!(heard(&wrong), None, "byte {at}");
        }
        assert_eq!(heard(&resummed(reply[..700].to_vec())), None, "cut off");
        for length in [0, 1, 19, 20, 27, 30, 35] {
            assert_eq!(heard(&reply[..length]), None);
        }
    }

    /// What a router says of a datagram of ours, and how much of it it quotes.
    fn told(mtu: u16, total: u16, edit: impl FnOnce(&mut Vec<u8>)) -> Option<Heard> {
        let mut quoted = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 60, UDP, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
        quoted[2..4].copy_from_slice(&total.to_be_bytes());
        quoted.extend([0x20, 0x5d, 0x20, 0x5d, 5, 0xc8, 0, 0]);
        let mut bytes = vec![0x45, 0, 0, 56, 0, 0, 0, 0, 64, ICMP, 0, 0, 192, 0, 2, 254, 192, 0, 2, 1];
        bytes.extend([UNREACHABLE, FRAGMENTATION_NEEDED, 0, 0, 0, 0]);
        bytes.extend(mtu.to_be_bytes());
        bytes.extend(quoted);
        edit(&mut bytes);
        heard(&resummed(bytes))
    }

    #[test]
    fn what_a_router_tells_is_read() {
        let expected = |mtu| {
            let router = Ipv4Addr::new(192, 0, 2, 254);
            let (from, to) = ("192.0.2.1:8285".parse().unwrap(), "192.0.2.2:8285".parse().unwrap());
            Some(Heard::TooLong { router, from, to, mtu })
        };
        assert_eq!(told(1300, 1500, |_| {}), expected(1272));
        assert_eq!(told(68, 1500, |_| {}), expected(40));
        assert_eq!(told(0, 1500, |_| {}), expected(1464), "from before RFC 1191");
        assert_eq!(told(1300, 1500, |bytes| bytes.extend([7; 500])), expected(1272), "it may quote more");
    }

    #[test]
    fn what_a_router_cannot_have_seen_is_not_believed() {
        assert_eq!(told(1500, 1500, |_| {}), None, "it would have fitted");
        assert_eq!(told(1300, 1200, |_| {}), None);
        for (at, value) in [(21, 3), (28, 0x65), (28, 0x44), (28, 0x4f), (35, 5), (37, 6)] {
            assert_eq!(told(1300, 1500, |bytes| bytes[at] = value), None, "byte {at}");
        }
        assert_eq!(told(1300, 1500, |bytes| bytes.truncate(55)), None, "it quotes too little");
    }
}
