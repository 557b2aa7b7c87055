//! Lowering the maximum segment size that a TCP peer names, where the way is narrower than it can know: connections then fit from
//! their first byte on (RFC 4459 section 3.2), and need no ICMP to find out.

use super::checksum;
use super::layers::{Layers, TCP};
use super::split::TCP_FLAGS;

const SYN: u8 = 0x02;
const TCP_HEADER: usize = 20;

/// Whether a checksum covers the whole packet already, or only its pseudo header and is to be finished by somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sum {
    /// It has to be mended.
    Whole,
    /// It comes later.
    Partial,
}

/// Lowers the option in a SYN or SYN-ACK, so that the other side's segments fit into packets of `limit` bytes; whether there was
/// something to lower. One that names no size gets 536 anyway (RFC 9293 section 3.7.1).
pub fn clamp(packet: &mut [u8], limit: usize, sum: Sum) -> bool {
    let Some(layers) = Layers::parse(packet) else { return false };
    if layers.protocol != TCP || packet[layers.network + TCP_FLAGS] & SYN == 0 {
        return false;
    }
    // What the peer says counts the payload of a segment without options (RFC 6691).
    let ip = if layers.v6 { 40 } else { 20 };
    let Ok(most) = u16::try_from(limit.saturating_sub(ip + TCP_HEADER)) else { return false };
    let tcp = &mut packet[layers.network..layers.payload];
    let Some(at) = option(&tcp[TCP_HEADER..]).map(|at| TCP_HEADER + at) else { return false };
    let named = u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    if named <= most {
        return false;
    }
    tcp[at..at + 2].copy_from_slice(&most.to_be_bytes());
    if sum == Sum::Whole {
        // At an odd place both bytes belong to different words, each to the other half.
        let turned = |value: u16| if at % 2 == 0 { value } else { value.swap_bytes() };
        let place = checksum::IN_TCP..checksum::IN_TCP + 2;
        let old = u16::from_be_bytes([tcp[place.start], tcp[place.start + 1]]);
        let new = checksum::adjust(old, turned(named), turned(most));
        tcp[place].copy_from_slice(&new.to_be_bytes());
    }
    true
}

/// Where the size stands in the options.
fn option(options: &[u8]) -> Option<usize> {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const SIZE: [u8; 2] = [2, 4];
    let mut at = 0;
    loop {
        match *options.get(at..)? {
            [END, ..] | [] => return None,
            [NOTHING, ..] => at += 1,
            [kind, length, _, _, ..] if [kind, length] == SIZE => return Some(at + 2),
            [_, length, ..] if length >= 2 => at += usize::from(length),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::testing::Flow;
    use super::*;

    /// A SYN with these options; its checksum is right.
    fn syn(flags: u8, options: &[u8], v6: bool) -> Vec<u8> {
        let flow = Flow { flags, timestamp: None, v6, ..Flow::tcp() };
        let mut packet = flow.packet(options);
        let at = if v6 { 40 } else { 20 };
        packet[at + 12] = ((20 + options.len()) / 4 * 16) as u8;
        summed(packet, at)
    }

    fn summed(mut packet: Vec<u8>, at: usize) -> Vec<u8> {
        let layers = Layers::parse(&packet).unwrap();
        let pseudo = checksum::pseudo(layers.addresses(&packet), TCP, packet.len() - at);
        packet[at + 16..at + 18].copy_from_slice(&pseudo.to_be_bytes());
        checksum::complete(&mut packet, at, 16).unwrap();
        packet
    }

    #[test]
    fn a_size_that_does_not_fit_is_lowered_and_the_sum_stays_right() {
        for (before, after) in [
            (&[2, 4, 5, 0x98][..], &[2, 4, 4, 0xb0][..]),
            // At an odd place.
            (&[1, 2, 4, 5, 0x98, 1, 1, 0], &[1, 2, 4, 4, 0xb0, 1, 1, 0]),
            (
                &[8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 2, 4, 5, 0xb4, 1, 1],
                &[8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 2, 4, 4, 0xb0, 1, 1],
            ),
        ] {
            for flags in [0x02, 0x12, 0xc2] {
                let mut packet = syn(flags, before, false);
                assert!(clamp(&mut packet, 1240, Sum::Whole));
                assert_eq!(packet, syn(flags, after, false), "{before:?}");
                assert!(!clamp(&mut packet, 1240, Sum::Whole), "once is enough");
            }
            let mut packet = syn(2, before, true);
            assert!(clamp(&mut packet, 1260, Sum::Whole));
            assert_eq!(packet, syn(2, after, true));
        }
    }

    #[test]
    fn an_unfinished_sum_is_left_alone() {
        let mut packet = syn(2, &[2, 4, 5, 0x98], false);
        let before = packet[36..38].to_vec();
        assert!(clamp(&mut packet, 1240, Sum::Partial));
        assert_eq!(packet[36..38], before);
    }

    #[test]
    fn all_else_stays_as_it_is() {
        for packet in [
            syn(0x10, &[2, 4, 5, 0x98], false),
            syn(2, &[2, 4, 4, 0xb0], false),
            syn(2, &[], false),
            syn(2, &[1, 1, 1, 1], false),
            syn(2, &[0, 2, 4, 5], false),
            syn(2, &[1, 1, 2, 4], false),
            syn(2, &[3, 0, 2, 4], false),
            syn(2, &[3, 60, 2, 4], false),
            Flow::udp().packet(&[2, 4, 5, 0x98]),
            b"nonsense".to_vec(),
        ] {
            let mut after = packet.clone();
            assert!(!clamp(&mut after, 1240, Sum::Whole));
            assert_eq!(after, packet);
        }
    }
}
