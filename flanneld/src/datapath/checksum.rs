//! The Internet checksum (RFC 1071), whole and incremental (RFC 1624).

/// The checksum over some bytes, as it is written into a header.
pub fn of(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    let mut words = bytes.chunks_exact(2);
    for word in &mut words {
        sum += u32::from(u16::from_be_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        sum += u32::from(*last) << 8;
    }
    !fold(sum)
}

/// The checksum after one 16-bit word of what it covers has changed: RFC 1624, equation 3.
pub fn adjust(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u32::from(!checksum) + u32::from(!old) + u32::from(new))
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(!of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    proptest! {
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
