//! What the sender's kernel left to a network card, and no card has done: checksums to finish, super-packets to cut.
//!
//! A node that encapsulates in the kernel sends inner packets as the kernel has them: of a TCP or UDP checksum only the pseudo header may
//! be summed up, and many TCP segments may be one packet. A card does the rest on the way out; between two hosts of one machine there is
//! none. A peer sends such packets only to nodes whose lease names the feature.

use super::checksum::{self, add};
use super::layers::{Layers, TCP};
use super::virtio::{Gso, Kind};

/// Finishes the inner checksum, if it is one that was left. By chance a right one looks the same, once in 65,536 packets: it stays as it
/// is. So does a damaged one, as often as any damage gets past an Internet checksum.
pub fn finish(packet: &mut [u8]) {
    let Some(layers) = Layers::parse(packet) else { return };
    if is_left(packet, &layers) {
        checksum::complete(packet, layers.network, layers.checksum_offset());
    }
}

/// How a packet that is longer than any on a wire is to be cut: many TCP segments under one header. Into which lengths is not told; those
/// that fit the way to the pods are as good.
pub fn whole(packet: &[u8], mtu: usize) -> Option<Gso> {
    if packet.len() <= mtu {
        return None;
    }
    let layers = Layers::parse(packet).filter(|layers| layers.protocol == TCP && !layers.v6)?;
    let size = u16::try_from(mtu.checked_sub(layers.payload)?).ok().filter(|size| *size > 0)?;
    is_left(packet, &layers).then_some(Gso { kind: Kind::Tcp4, size })
}

/// Whether of the checksum only the pseudo header is summed up.
fn is_left(packet: &[u8], layers: &Layers) -> bool {
    let transport = &packet[layers.network..];
    let at = layers.checksum_offset();
    let pseudo = checksum::pseudo(layers.addresses(packet), layers.protocol, transport.len());
    transport[at..at + 2] == pseudo.to_be_bytes() && add(pseudo, checksum::sum(transport)) != 0xffff
}

#[cfg(test)]
mod tests {
    use super::super::packet::testing::Flow;
    use super::*;
    use proptest::prelude::*;

    /// The same packet as a kernel leaves it to its card.
    fn left(whole: &[u8]) -> Vec<u8> {
        let mut packet = whole.to_vec();
        let layers = Layers::parse(whole).unwrap();
        let pseudo = checksum::pseudo(layers.addresses(whole), layers.protocol, whole.len() - layers.network);
        let at = layers.network + layers.checksum_offset();
        packet[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        packet
    }

    fn finished(mut packet: Vec<u8>) -> Vec<u8> {
        finish(&mut packet);
        packet
    }

    #[test]
    fn what_was_left_is_finished_and_nothing_else_is_touched() {
        for flow in [Flow::tcp(), Flow::udp(), Flow::tcp().v6(), Flow::udp().v6()] {
            let whole = flow.packet(b"some payload");
            assert_eq!(finished(left(&whole)), whole);
            assert_eq!(finished(whole.clone()), whole);
            let at = Layers::parse(&whole).unwrap();
            for value in [[0, 0], [0x12, 0x34]] {
                let mut other = whole.clone();
                other[at.network + at.checksum_offset()..][..2].copy_from_slice(&value);
                assert_eq!(finished(other.clone()), other, "no sum, or a wrong one");
            }
        }
        let mut fragment = left(&Flow::udp().packet(b"some payload"));
        fragment[6] = 0x20;
        assert_eq!(finished(fragment.clone()), fragment);
    }

    #[test]
    fn a_right_checksum_that_looks_left_stays() {
        // All words behind the pseudo header sum up to nothing but its complement, so that the right checksum is the pseudo header's sum.
        let (addresses, length) = ([10, 5, 1, 2, 10, 5, 2, 2], 8 + 2);
        let pseudo = checksum::pseudo(&addresses, 17, length);
        let mut packet = Flow::udp().packet(&[0, 0]);
        let others = add(checksum::sum(&packet[20..26]), 0);
        let word = !add(add(pseudo, pseudo), others);
        packet[26..28].copy_from_slice(&pseudo.to_be_bytes());
        packet[28..30].copy_from_slice(&word.to_be_bytes());
        assert_eq!(add(pseudo, checksum::sum(&packet[20..])), 0xffff, "it is right");
        assert_eq!(finished(packet.clone()), packet);
    }

    #[test]
    fn only_what_a_kernel_left_whole_is_cut() {
        let long = Flow::tcp().packet(&[7; 4000]);
        assert_eq!(whole(&left(&long), 1472), Some(Gso { kind: Kind::Tcp4, size: 1472 - 52 }));
        assert_eq!(whole(&long, 1472), None, "its checksum is finished: it came over a wire like that");
        assert_eq!(whole(&left(&long), long.len()), None);
        assert_eq!(whole(&left(&Flow::udp().packet(&[7; 4000])), 1472), None, "nobody knows where to cut");
        assert_eq!(whole(&left(&long), 52), None);
        assert_eq!(whole(&left(&long), 20), None);
    }

    proptest! {
        #[test]
        fn any_payload_is_finished_rightly(payload in prop::collection::vec(any::<u8>(), 0..200), tcp: bool) {
            let whole = if tcp { Flow::tcp() } else { Flow::udp() }.packet(&payload);
            prop_assert_eq!(finished(left(&whole)), whole);
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            finish(&mut bytes);
        }
    }
}
