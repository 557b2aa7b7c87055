//! The encapsulated packets of a capture, unwrapped: outer Ethernet, IP and UDP headers off, the bare inner packets kept.
//!
//! tcpdump shows the outer packets as UDP; that their payload is an IP packet, nothing around it, is the wire format of
//! flannel's udp backend, so cutting the outer headers off makes a capture that tcpdump decodes down to the request.

/// A classic pcap file: 24 bytes of header, then 16 bytes before each packet.
const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;
const ETHERNET: usize = 14;
const UDP: usize = 8;
/// The link type of bare IP packets (`LINKTYPE_RAW`).
const RAW: u32 = 101;

/// The inner packets of a capture that was taken on an Ethernet device with `udp port 8285`, as a capture of their own.
///
/// None if `capture` is no little-endian pcap file. A record that does not hold a whole outer header is left out.
pub fn inner(capture: &[u8]) -> Option<Vec<u8>> {
    let header = capture.get(..FILE_HEADER)?;
    let magic = u32::from_le_bytes(header.get(..4)?.try_into().ok()?);
    if magic != 0xa1b2_c3d4 && magic != 0xa1b2_3c4d {
        return None;
    }
    let mut out = header.get(..20)?.to_vec();
    out.extend(RAW.to_le_bytes());
    let mut rest = capture.get(FILE_HEADER..)?;
    while let Some((record, packet, next)) = split(rest) {
        if let Some(inner) = payload(packet) {
            let length = u32::try_from(inner.len()).ok()?.to_le_bytes();
            out.extend_from_slice(record.get(..8)?);
            out.extend(length);
            out.extend(length);
            out.extend_from_slice(inner);
        }
        rest = next;
    }
    Some(out)
}

fn split(rest: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (record, rest) = rest.split_at_checked(RECORD_HEADER)?;
    let length = u32::from_le_bytes(record.get(8..12)?.try_into().ok()?) as usize;
    let (packet, rest) = rest.split_at_checked(length)?;
    Some((record, packet, rest))
}

fn payload(packet: &[u8]) -> Option<&[u8]> {
    let ip = packet.get(ETHERNET..)?;
    let header = usize::from(ip.first()? & 0x0f) * 4;
    let udp = ip.get(header..)?;
    let length = usize::from(u16::from_be_bytes(udp.get(4..6)?.try_into().ok()?));
    udp.get(UDP..length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(packets: &[&[u8]]) -> Vec<u8> {
        let mut file = 0xa1b2_c3d4_u32.to_le_bytes().to_vec();
        file.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0]);
        for packet in packets {
            let length = u32::try_from(packet.len()).unwrap().to_le_bytes();
            file.extend([0; 8]);
            file.extend(length);
            file.extend(length);
            file.extend_from_slice(packet);
        }
        file
    }

    #[test]
    fn the_outer_headers_come_off() {
        let mut packet = vec![0; ETHERNET];
        packet.push(0x45);
        packet.extend([0; 19]);
        packet.extend([0x20, 0x5d, 0x20, 0x5d, 0, 12, 0, 0]);
        packet.extend(b"pods and padding");
        let inner = inner(&captured(&[&packet, &packet[..20]])).unwrap();
        assert_eq!(inner.len(), FILE_HEADER + RECORD_HEADER + 4, "the short record is left out");
        assert!(inner.ends_with(b"pods"));
    }

    #[test]
    fn what_is_no_capture_is_refused() {
        assert!(inner(b"not a capture at all, whatever its length").is_none());
        assert!(inner(b"").is_none());
    }
}
