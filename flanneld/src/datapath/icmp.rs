//! The answer to a packet that is not carried: ICMP destination unreachable (RFC 792, RFC 1812 section 4.3.2.7).

use std::net::Ipv4Addr;

use super::checksum;
use super::packet::Packet;

const ICMP: u8 = 1;
const HEADER: usize = 20;
/// The quoted header is at most 60 bytes, and 8 bytes of what follows it.
const QUOTED_PAYLOAD: usize = 8;
/// The longest answer.
pub const MAX_ANSWER: usize = HEADER + 8 + 60 + QUOTED_PAYLOAD;
const TTL: u8 = 64;

/// Why a packet is not carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Nobody has the destination.
    Network,
    /// It is longer than the way takes, which is so many bytes, and may not be fragmented (RFC 1191 section 4).
    TooLong(usize),
}

impl Why {
    /// Code and next hop's MTU.
    fn told(self) -> (u8, u16) {
        match self {
            Why::Network => (0, 0),
            Why::TooLong(mtu) => (4, u16::try_from(mtu).unwrap_or(u16::MAX)),
        }
    }
}

/// Writes that `packet` is not carried and why, from `own`, into `answer`; its length. None if RFC 1122 forbids an answer:
/// to ICMP errors, to later fragments, and to senders that are no single host.
pub fn unreachable(packet: &Packet<'_>, why: Why, own: Ipv4Addr, answer: &mut [u8]) -> Option<usize> {
    let sender = packet.source();
    let no_host =
        sender.is_unspecified() || sender.is_broadcast() || sender.is_multicast() || sender.is_loopback();
    let to_many = packet.destination().is_multicast() || packet.destination().is_broadcast();
    if no_host || to_many || packet.is_later_fragment() || is_icmp_error(packet) {
        return None;
    }
    let quoted = (packet.header_len() + QUOTED_PAYLOAD).min(packet.bytes().len());
    let length = HEADER + 8 + quoted;
    let answer = answer.get_mut(..length)?;
    answer.fill(0);
    answer[0] = 0x45;
    answer[2..4].copy_from_slice(&u16::try_from(length).ok()?.to_be_bytes());
    answer[8] = TTL;
    answer[9] = ICMP;
    answer[12..16].copy_from_slice(&own.octets());
    answer[16..20].copy_from_slice(&sender.octets());
    let (code, mtu) = why.told();
    (answer[20], answer[21]) = (3, code);
    answer[26..28].copy_from_slice(&mtu.to_be_bytes());
    answer[HEADER + 8..].copy_from_slice(&packet.bytes()[..quoted]);
    let sum = checksum::of(&answer[..HEADER]).to_be_bytes();
    answer[10..12].copy_from_slice(&sum);
    let sum = checksum::of(&answer[HEADER..]).to_be_bytes();
    answer[22..24].copy_from_slice(&sum);
    Some(length)
}

/// ICMP that is no question: errors, and what can't be told from one.
fn is_icmp_error(packet: &Packet<'_>) -> bool {
    const ECHO_REQUEST: u8 = 8;
    packet.protocol() == ICMP && packet.payload().first() != Some(&ECHO_REQUEST)
}

/// How many answers may be given: so many at once, and so many a second. Time comes as an argument.
#[derive(Debug)]
pub struct Limit {
    tokens: u32,
    /// Milliseconds since some beginning.
    filled: u64,
}

impl Limit {
    /// At once, and per second.
    pub const RATE: u32 = 100;

    /// Full at `now` (milliseconds).
    pub fn new(now: u64) -> Limit {
        Limit { tokens: Limit::RATE, filled: now }
    }

    /// Whether an answer may be given now.
    pub fn take(&mut self, now: u64) -> bool {
        let gained = now.saturating_sub(self.filled) * u64::from(Limit::RATE) / 1000;
        if gained > 0 {
            self.tokens =
                u32::try_from(u64::from(self.tokens) + gained).unwrap_or(Limit::RATE).min(Limit::RATE);
            self.filled = now;
        }
        let may = self.tokens > 0;
        self.tokens -= u32::from(may);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::testing::packet;
    use super::*;

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 5, 1, 0);

    fn answer(bytes: Vec<u8>) -> Option<Vec<u8>> {
        told(bytes, Why::Network)
    }

    fn told(mut bytes: Vec<u8>, why: Why) -> Option<Vec<u8>> {
        let mut out = [0; MAX_ANSWER];
        let length = unreachable(&Packet::parse(&mut bytes).unwrap(), why, OWN, &mut out)?;
        Some(out[..length].to_vec())
    }

    #[test]
    fn the_answer_is_a_right_packet_that_quotes_the_question() {
        let question = packet([10, 5, 1, 2], [10, 5, 9, 9], 6, 64, b"12345678rest");
        let mut bytes = answer(question.clone()).unwrap();
        assert_eq!(&bytes[28..], &question[..28]);
        assert_eq!((checksum::of(&bytes[..20]), checksum::of(&bytes[20..])), (0, 0));
        let view = Packet::parse(&mut bytes).unwrap();
        assert_eq!((view.source(), view.destination()), (OWN, Ipv4Addr::new(10, 5, 1, 2)));
        assert_eq!(view.payload()[..2], [3, 0]);
    }

    #[test]
    fn that_it_is_too_long_is_told_with_the_length_that_fits() {
        let question = packet([10, 5, 1, 2], [10, 5, 2, 2], 6, 64, &[7; 1400]);
        let bytes = told(question.clone(), Why::TooLong(1272)).unwrap();
        assert_eq!(bytes[20..22], [3, 4]);
        assert_eq!(bytes[24..28], [0, 0, 4, 0xf8]);
        assert_eq!((&bytes[28..], checksum::of(&bytes[20..])), (&question[..28], 0));
    }

    #[test]
    fn a_short_packet_is_quoted_as_far_as_it_goes() {
        let bytes = answer(packet([10, 5, 1, 2], [10, 5, 9, 9], 6, 64, b"")).unwrap();
        assert_eq!(bytes.len(), 20 + 8 + 20);
    }

    #[test]
    fn errors_fragments_and_crowds_get_no_answer() {
        assert!(answer(packet([10, 5, 1, 2], [10, 5, 9, 9], 1, 64, &[3, 0, 0, 0])).is_none());
        assert!(
            answer(packet([10, 5, 1, 2], [10, 5, 9, 9], 1, 64, &[8, 0, 0, 0])).is_some(),
            "a ping is a question"
        );
        assert!(answer(packet([10, 5, 1, 2], [224, 0, 0, 1], 17, 64, b"x")).is_none());
        assert!(answer(packet([0, 0, 0, 0], [10, 5, 9, 9], 17, 64, b"x")).is_none());
        let mut fragment = packet([10, 5, 1, 2], [10, 5, 9, 9], 17, 64, b"x");
        fragment[7] = 5;
        assert!(answer(fragment).is_none());
    }

    #[test]
    fn answers_are_limited() {
        let mut limit = Limit::new(0);
        let given = (0..500).filter(|_| limit.take(1)).count();
        assert_eq!(given, Limit::RATE as usize);
        assert!(!limit.take(5) && limit.take(20));
        assert_eq!((0..500).filter(|_| limit.take(60_000)).count(), Limit::RATE as usize);
    }
}
