//! What the kernel puts before each packet of a TUN with `IFF_VNET_HDR`: what it left to be done (virtio 1.3, section 5.1.6).
//!
//! ```text
//!  flags(1) gso_type(1) hdr_len(2) gso_size(2) csum_start(2) csum_offset(2)     in the machine's byte order
//! ```

use super::counters::Reason;

/// The header's length; the TUN is told so by `TUNSETVNETHDRSZ`.
pub const LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// Together with a TCP type: the first segment alone bears CWR.
const GSO_ECN: u8 = 0x80;

/// What a super-packet is to be split into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// TCP segments over IPv4.
    Tcp4,
    /// TCP segments over IPv6.
    Tcp6,
    /// UDP datagrams over either.
    Udp,
}

/// A super-packet: many packets of one flow under one header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gso {
    /// Of what.
    pub kind: Kind,
    /// The payload of each packet but the last; never 0.
    pub size: u16,
}

/// A checksum of which only the pseudo header is summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partial {
    /// Where the sum begins.
    pub start: u16,
    /// Where it is written to, from there.
    pub offset: u16,
}

/// What is left to be done with a packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// The checksum is to be finished.
    pub partial: Option<Partial>,
    /// It is to be split.
    pub gso: Option<Gso>,
    /// How long the headers are; a hint for the kernel.
    pub header_len: u16,
}

impl Header {
    /// Reads it; refused is what was not asked for from the TUN.
    pub fn parse(bytes: [u8; LEN]) -> Result<Header, Reason> {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let kind = match bytes[1] & !GSO_ECN {
            GSO_NONE => None,
            GSO_TCPV4 => Some(Kind::Tcp4),
            GSO_TCPV6 => Some(Kind::Tcp6),
            GSO_UDP_L4 => Some(Kind::Udp),
            _ => return Err(Reason::Offload),
        };
        let gso = match (kind, word(4)) {
            (None, _) => None,
            (Some(_), 0) => return Err(Reason::Offload),
            (Some(kind), size) => Some(Gso { kind, size }),
        };
        let partial = (bytes[0] & NEEDS_CSUM != 0).then(|| Partial { start: word(6), offset: word(8) });
        Ok(Header { partial, gso, header_len: word(2) })
    }

    /// Writes it.
    pub fn emit(&self) -> [u8; LEN] {
        let kind = match self.gso.map(|gso| gso.kind) {
            None => GSO_NONE,
            Some(Kind::Tcp4) => GSO_TCPV4,
            Some(Kind::Tcp6) => GSO_TCPV6,
            Some(Kind::Udp) => GSO_UDP_L4,
        };
        let partial = self.partial.unwrap_or(Partial { start: 0, offset: 0 });
        let flags = if self.partial.is_some() { NEEDS_CSUM } else { 0 };
        let [a, b] = self.header_len.to_ne_bytes();
        let [c, d] = self.gso.map_or(0, |gso| gso.size).to_ne_bytes();
        let [e, f] = partial.start.to_ne_bytes();
        let [g, h] = partial.offset.to_ne_bytes();
        [flags, kind, a, b, c, d, e, f, g, h]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(flags: u8, kind: u8, size: u16) -> [u8; LEN] {
        let [a, b] = size.to_ne_bytes();
        let [c, d] = 20_u16.to_ne_bytes();
        let [e, f] = 16_u16.to_ne_bytes();
        [flags, kind, 0, 0, a, b, c, d, e, f]
    }

    #[test]
    fn what_is_known_is_read_and_written_alike() {
        let partial = Some(Partial { start: 20, offset: 16 });
        let gso = |kind| Some(Gso { kind, size: 1400 });
        for (flags, kind, expected) in [
            (0, 0, Header::default()),
            (1, 0, Header { partial, ..Header::default() }),
            (1, 1, Header { partial, gso: gso(Kind::Tcp4), header_len: 0 }),
            (1, 4, Header { partial, gso: gso(Kind::Tcp6), header_len: 0 }),
            (1, 5, Header { partial, gso: gso(Kind::Udp), header_len: 0 }),
            (0, 5, Header { partial: None, gso: gso(Kind::Udp), header_len: 0 }),
        ] {
            let read = Header::parse(raw(flags, kind, 1400)).unwrap();
            assert_eq!(read, expected);
            assert_eq!(Header::parse(expected.emit()).unwrap(), expected);
        }
        assert_eq!(Header::default().emit(), [0; LEN]);
    }

    #[test]
    fn ecn_says_nothing_new_and_valid_data_neither() {
        assert_eq!(Header::parse(raw(1, 0x81, 9)), Header::parse(raw(1, 1, 9)));
        assert_eq!(Header::parse(raw(2, 0, 0)), Ok(Header::default()));
    }

    #[test]
    fn what_nobody_asked_for_is_refused() {
        // 3 is fragmentation of UDP, which no TUN flag of ours asks for.
        for bytes in [raw(0, 3, 1400), raw(0, 2, 1400), raw(0, 7, 1), raw(1, 1, 0), raw(1, 5, 0)] {
            assert_eq!(Header::parse(bytes), Err(Reason::Offload), "{bytes:?}");
        }
    }
}
