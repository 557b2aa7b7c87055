//! Which class of service the outer packet gets, and what congestion on the way means for the inner one (RFC 2983, RFC 6040).
//!
//! The outer packet bears the inner one's DSCP, so that the underlay treats both alike; what the underlay makes of it ends with
//! the tunnel. ECN is offered outside only where the other end is known to bring a mark home: elsewhere it would get lost, and
//! the sender would take a congested way for a free one.

use super::counters::Reason;

const DSCP: u8 = 0xfc;
const ECN: u8 = 0x03;
const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const CE: u8 = 3;

/// The outer TOS byte to an inner one (RFC 6040 section 4.1: normal mode if the other end takes over marks, else compatibility
/// mode).
pub fn outer(inner: u8, takes_marks: bool) -> u8 {
    if takes_marks { inner } else { inner & DSCP }
}

/// The inner TOS byte behind the tunnel: figure 4 of RFC 6040. Refused is a mark on a packet whose sender does not understand it.
pub fn combined(inner: u8, outer: u8) -> Result<u8, Reason> {
    match (inner & ECN, outer & ECN) {
        (NOT_ECT, CE) => Err(Reason::Congestion),
        (NOT_ECT, _) | (CE, _) | (_, NOT_ECT) => Ok(inner),
        (_, CE) => Ok(inner | CE),
        (_, ECT_1) => Ok(inner & DSCP | ECT_1),
        _ => Ok(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_rfc_6040() {
        let (not, ect0, ect1, ce) = (0, 2, 1, 3);
        // By inner bits; outer ones: Not-ECT, ECT(0), ECT(1), CE.
        for (inner, row) in [
            (not, [Some(not), Some(not), Some(not), None]),
            (ect0, [Some(ect0), Some(ect0), Some(ect1), Some(ce)]),
            (ect1, [Some(ect1), Some(ect1), Some(ect1), Some(ce)]),
            (ce, [Some(ce), Some(ce), Some(ce), Some(ce)]),
        ] {
            for (outer, expected) in [not, ect0, ect1, ce].into_iter().zip(row) {
                let dscp = 0xb8;
                let expected = expected.map(|bits| dscp | bits).ok_or(Reason::Congestion);
                assert_eq!(combined(dscp | inner, 0x28 | outer), expected, "{inner} in {outer}");
            }
        }
    }

    #[test]
    fn dscp_is_always_copied_and_ecn_where_it_is_understood() {
        for ecn in 0..4 {
            assert_eq!(outer(0xb8 | ecn, true), 0xb8 | ecn);
            assert_eq!(outer(0xb8 | ecn, false), 0xb8);
        }
    }
}
