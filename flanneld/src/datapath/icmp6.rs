//! The answer to an IPv6 packet that is not carried: ICMPv6 (RFC 4443 sections 3.1 and 3.2).

use std::net::Ipv6Addr;

use super::checksum;
use super::icmp::Why;
use super::packet6::{HEADER, ICMPV6, Packet6};

/// The longest answer: what every link of IPv6 takes (RFC 8200 section 5). As much of the packet is quoted as there is room for.
pub const MAX_ANSWER: usize = 1280;
const HOPS: u8 = 64;

/// Type, code and the next hop's MTU.
fn told(why: Why) -> (u8, u8, u32) {
    match why {
        Why::Network => (1, 0, 0),
        Why::TooLong(mtu) => (2, 0, u32::try_from(mtu).unwrap_or(u32::MAX)),
    }
}

/// Writes that `packet` is not carried and why, from `own`, into `answer`; its length. None if RFC 4443 section 2.4 forbids an answer: to
/// ICMPv6 errors, and to or from what is no single host; to what can't be told from an error, too.
pub fn unreachable(packet: &Packet6<'_>, why: Why, own: Ipv6Addr, answer: &mut [u8]) -> Option<usize> {
    let sender = packet.source();
    let no_host = sender.is_unspecified() || sender.is_multicast() || sender.is_loopback();
    // That it is too long is told to those who send to many, too.
    let to_many = packet.destination().is_multicast() && why == Why::Network;
    if no_host || to_many || is_error(packet) {
        return None;
    }
    let quoted = packet.bytes().len().min(MAX_ANSWER - HEADER - 8);
    let length = HEADER + 8 + quoted;
    let answer = answer.get_mut(..length)?;
    answer.fill(0);
    answer[0] = 0x60;
    answer[4..6].copy_from_slice(&u16::try_from(length - HEADER).ok()?.to_be_bytes());
    (answer[6], answer[7]) = (ICMPV6, HOPS);
    answer[8..24].copy_from_slice(&own.octets());
    answer[24..40].copy_from_slice(&sender.octets());
    let (kind, code, mtu) = told(why);
    (answer[HEADER], answer[HEADER + 1]) = (kind, code);
    answer[HEADER + 4..HEADER + 8].copy_from_slice(&mtu.to_be_bytes());
    answer[HEADER + 8..].copy_from_slice(&packet.bytes()[..quoted]);
    let pseudo = checksum::pseudo(&answer[8..HEADER], ICMPV6, length - HEADER);
    let sum = !checksum::add(pseudo, checksum::sum(&answer[HEADER..]));
    answer[HEADER + 2..HEADER + 4].copy_from_slice(&sum.to_be_bytes());
    Some(length)
}

/// Errors, redirects (RFC 4890), and what doesn't show what it is.
fn is_error(packet: &Packet6<'_>) -> bool {
    const REDIRECT: u8 = 137;
    match packet.upper() {
        Some((ICMPV6, message)) => message.first().is_none_or(|kind| *kind < 128 || *kind == REDIRECT),
        Some(_) => false,
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet6::testing::packet;
    use super::*;

    const POD: &str = "fc00:0:0:1::2";
    const NOBODY: &str = "fc00:0:0:9::9";

    fn told(mut bytes: Vec<u8>, why: Why) -> Option<Vec<u8>> {
        let mut out = [0; MAX_ANSWER];
        let own = "fc00:0:0:1::".parse().unwrap();
        let length = unreachable(&Packet6::parse(&mut bytes).unwrap(), why, own, &mut out)?;
        Some(out[..length].to_vec())
    }

    /// Whether its checksum is right.
    fn is_right(bytes: &[u8]) -> bool {
        let pseudo = checksum::pseudo(&bytes[8..40], ICMPV6, bytes.len() - HEADER);
        checksum::add(pseudo, checksum::sum(&bytes[HEADER..])) == 0xffff
    }

    #[test]
    fn the_answer_is_a_right_packet_that_quotes_the_question() {
        let question = packet(POD, NOBODY, 6, 64, b"odd bytes");
        let mut bytes = told(question.clone(), Why::Network).unwrap();
        assert_eq!((bytes[40..42].to_vec(), &bytes[48..]), (vec![1, 0], &question[..]));
        assert!(is_right(&bytes));
        let view = Packet6::parse(&mut bytes).unwrap();
        assert_eq!(
            (view.source().to_string(), view.destination().to_string()),
            ("fc00:0:0:1::".into(), POD.into())
        );
    }

    #[test]
    fn that_it_is_too_long_is_told_with_the_length_that_fits() {
        let question = packet(POD, NOBODY, 17, 64, &[7; 1400]);
        let bytes = told(question.clone(), Why::TooLong(1380)).unwrap();
        assert_eq!((bytes.len(), bytes[40..42].to_vec()), (MAX_ANSWER, vec![2, 0]));
        assert_eq!(bytes[44..48], 1380_u32.to_be_bytes());
        assert!(is_right(&bytes) && bytes[48..] == question[..MAX_ANSWER - 48]);
        assert!(told(packet(POD, "ff0e::1", 17, 64, b"x"), Why::TooLong(1380)).is_some());
    }

    #[test]
    fn errors_and_crowds_get_no_answer() {
        let answered = |source, destination, protocol, payload: &[u8]| {
            told(packet(source, destination, protocol, 64, payload), Why::Network).is_some()
        };
        assert!(answered(POD, NOBODY, ICMPV6, &[128, 0, 0, 0]), "a ping is a question");
        assert!(!answered(POD, NOBODY, ICMPV6, &[1, 0, 0, 0]));
        assert!(!answered(POD, NOBODY, ICMPV6, &[137, 0, 0, 0]));
        assert!(!answered(POD, NOBODY, ICMPV6, &[]));
        assert!(!answered(POD, NOBODY, 44, &[ICMPV6, 0, 0, 8, 0, 0, 0, 1]), "a later fragment");
        assert!(!answered(POD, "ff02::16", 17, b"x"));
        for sender in ["::", "ff02::1", "::1"] {
            assert!(!answered(sender, NOBODY, 17, b"x"), "{sender}");
        }
    }
}
