//! The Internet checksum (RFC 1071): whole, in parts, incremental (RFC 1624), and as the kernel hands it over half done.

/// One's complement sum of the 16-bit words; an odd byte at the end is the high half of a word. Sums of parts of even length
/// are added by [`add`].
///
/// The words are added as the machine has them: one's complement addition commutes with swapping bytes (RFC 1071, 2B), and
/// independent lanes let the compiler use vector registers.
pub fn sum(bytes: &[u8]) -> u16 {
    const LANES: usize = 8;
    let mut lanes = [0u64; LANES];
    let mut blocks = bytes.chunks_exact(4 * LANES);
    for block in &mut blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let (words, odd) = blocks.remainder().as_chunks();
    let tail: u64 = words.iter().map(|word| u64::from(u16::from_ne_bytes(*word))).sum();
    let last = odd.first().map_or(0, |byte| u64::from(u16::from_ne_bytes([*byte, 0])));
    let all: u64 = lanes.iter().sum::<u64>() + tail + last;
    u16::from_be(fold(all))
}

/// The sum of two sums.
pub fn add(a: u16, b: u16) -> u16 {
    fold(u64::from(a) + u64::from(b))
}

/// The checksum over some bytes, as it is written into a header.
pub fn of(bytes: &[u8]) -> u16 {
    !sum(bytes)
}

/// The checksum after one 16-bit word of what it covers has changed: RFC 1624, equation 3.
pub fn adjust(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

/// The sum of the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1): both addresses, the protocol, and the length of
/// transport header and payload. This is what the kernel leaves in the checksum field of a packet that it did not sum up.
pub fn pseudo(addresses: &[u8], protocol: u8, length: usize) -> u16 {
    fold(u64::from(sum(addresses)) + u64::from(protocol) + (length as u64 >> 16) + (length as u64 & 0xffff))
}

/// Where a UDP header has its checksum; there, zero would mean that there is none (RFC 768).
pub const IN_UDP: usize = 6;
/// Where a TCP header has its checksum.
pub const IN_TCP: usize = 16;

/// Finishes a checksum of which only the pseudo header is summed up, at `offset` behind `start`. None if that is not within
/// the packet.
pub fn complete(packet: &mut [u8], start: usize, offset: usize) -> Option<()> {
    let covered = packet.get_mut(start..)?;
    let checksum = finished(sum(covered), offset);
    covered.get_mut(offset..offset + 2)?.copy_from_slice(&checksum.to_be_bytes());
    Some(())
}

/// A sum as it is written into the header that has its checksum at `offset`.
pub fn finished(sum: u16, offset: usize) -> u16 {
    match !sum {
        0 if offset == IN_UDP => 0xffff,
        checksum => checksum,
    }
}

fn fold(sum: u64) -> u16 {
    let mut sum = (sum & 0xffff_ffff) + (sum >> 32);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As RFC 1071 writes it down.
    fn slowly(bytes: &[u8]) -> u16 {
        let words = bytes.chunks(2).map(|w| u64::from(w[0]) << 8 | w.get(1).map_or(0, |b| u64::from(*b)));
        fold(words.sum())
    }

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn large_and_extreme_packets_do_not_overflow() {
        assert_eq!(sum(&[0xff; 65535]), slowly(&[0xff; 65535]));
        assert_eq!(sum(&[]), 0);
    }

    #[test]
    fn a_udp_checksum_is_never_zero() {
        // The word behind the field is chosen so that the sum is all ones.
        let mut packet = [0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
        complete(&mut packet, 0, IN_UDP).unwrap();
        assert_eq!(packet[6..8], [0xff, 0xff]);
        assert_eq!(complete(&mut packet, 0, IN_TCP), None);
        assert_eq!(complete(&mut packet, 11, IN_UDP), None);
    }

    proptest! {
        #[test]
        fn fast_is_the_same_as_slow(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..150) {
            prop_assert_eq!(sum(&bytes), slowly(&bytes));
            let cut = (2 * cut).min(bytes.len() / 2 * 2);
            prop_assert_eq!(add(sum(&bytes[..cut]), sum(&bytes[cut..])), slowly(&bytes));
        }

        #[test]
        fn a_completed_packet_sums_up_to_all_ones(mut bytes in prop::collection::vec(any::<u8>(), 40..99), tcp: bool) {
            let (protocol, offset) = if tcp { (6, IN_TCP) } else { (17, IN_UDP) };
            let pseudo = pseudo(&bytes[12..20], protocol, bytes.len() - 20);
            bytes[20 + offset..22 + offset].copy_from_slice(&pseudo.to_be_bytes());
            complete(&mut bytes, 20, offset).unwrap();
            prop_assert_eq!(add(pseudo, sum(&bytes[20..])), 0xffff);
        }

        #[test]
        fn adjusting_is_the_same_as_summing_anew(mut bytes in prop::collection::vec(any::<u8>(), 20..60), at in 0usize..9, new: u16) {
            bytes.truncate(bytes.len() / 2 * 2);
            let before = of(&bytes);
            let old = u16::from_be_bytes([bytes[2 * at], bytes[2 * at + 1]]);
            bytes[2 * at..2 * at + 2].copy_from_slice(&new.to_be_bytes());
            // Both zeros of one's complement mean the same.
            let same = |a: u16, b: u16| a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0);
            prop_assert!(same(adjust(before, old, new), of(&bytes)));
        }
    }
}
