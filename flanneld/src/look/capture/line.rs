//! A packet on one line, in tcpdump's words. Pure.

use std::net::IpAddr;
use std::time::Duration;

use super::decode::{View, view};
use super::stripped::Outer;
use crate::datapath::layers::{TCP, UDP};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// One line: when, which way, what it travelled in, the inner packet. `since` is since 1970 (UTC).
pub fn line(since: Duration, outgoing: bool, outer: &Outer, packet: &[u8]) -> String {
    let way = if outgoing { "out" } else { "in " };
    let inner =
        view(packet).map_or_else(|| format!("no IP packet, length {}", packet.len()), |view| inner(&view));
    format!("{} {way} {outer} | {inner}", clock(since))
}

fn clock(since: Duration) -> String {
    let seconds = since.as_secs() % 86_400;
    let (h, m, s) = (seconds / 3600, seconds % 3600 / 60, seconds % 60);
    format!("{h:02}:{m:02}:{s:02}.{:06}", since.subsec_micros())
}

/// Address and port as tcpdump writes them.
fn dotted(ip: IpAddr, port: u16) -> String {
    format!("{ip}.{port}")
}

fn inner(view: &View<'_>) -> String {
    let ttl = view.ttl;
    let ends = match view.ports {
        Some((from, to)) => format!("{} > {}", dotted(view.source, from), dotted(view.destination, to)),
        None => format!("{} > {}", view.source, view.destination),
    };
    let what = match (view.fragment, view.protocol) {
        (Some((offset, more)), protocol) => {
            let more = if more { "+" } else { "" };
            Some(format!("fragment of {} at {offset}{more}, length {}", name(protocol), view.length))
        }
        (None, TCP) => tcp(view),
        (None, UDP) => view.payload.map(|length| format!("UDP, length {length}")),
        (None, ICMP | ICMPV6) => icmp(view),
        (None, protocol) => Some(format!("{}, length {}", name(protocol), view.length)),
    }
    .unwrap_or_else(|| format!("{}, cut off at {}", name(view.protocol), view.length));
    format!("{ends}: {what}, ttl {ttl}")
}

fn name(protocol: u8) -> String {
    match protocol {
        ICMP => "ICMP".to_owned(),
        ICMPV6 => "ICMP6".to_owned(),
        TCP => "TCP".to_owned(),
        UDP => "UDP".to_owned(),
        other => format!("proto {other}"),
    }
}

fn tcp(view: &View<'_>) -> Option<String> {
    let (header, length, flags) = (view.transport.first_chunk::<20>()?, view.payload?, view.flags()?);
    let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let letters = [(1, 'F'), (2, 'S'), (4, 'R'), (8, 'P'), (16, '.'), (32, 'U'), (64, 'E'), (128, 'W')];
    let flags: String =
        letters.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, letter)| *letter).collect();
    let window = u16::from_be_bytes([header[14], header[15]]);
    let ack = if flags.contains('.') { format!(", ack {}", number(8)) } else { String::new() };
    Some(format!("Flags [{flags}], seq {}{ack}, win {window}, length {length}", number(4)))
}

fn icmp(view: &View<'_>) -> Option<String> {
    let header = view.transport.first_chunk::<8>()?;
    let numbers = [u16::from_be_bytes([header[4], header[5]]), u16::from_be_bytes([header[6], header[7]])];
    let length = view.transport.len();
    let echo = |what| format!("ICMP echo {what}, id {}, seq {}, length {length}", numbers[0], numbers[1]);
    Some(match (view.protocol, header[0], header[1]) {
        (ICMP, 8, 0) | (ICMPV6, 128, 0) => echo("request"),
        (ICMP, 0, 0) | (ICMPV6, 129, 0) => echo("reply"),
        (ICMP, 3, 4) => format!("ICMP needs fragmentation, MTU {}, length {length}", numbers[1]),
        (ICMP, 3, 0) => format!("ICMP net unreachable, length {length}"),
        (ICMP, 3, 1) => format!("ICMP host unreachable, length {length}"),
        (ICMP, 3, 3) => format!("ICMP port unreachable, length {length}"),
        (ICMP, 11, 0) => format!("ICMP time exceeded in transit, length {length}"),
        (_, kind, code) => format!("{} type {kind} code {code}, length {length}", name(view.protocol)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::packet::testing::{Flow, packet};

    fn shown(inner: &[u8]) -> String {
        let (from, to) = ("192.0.2.1:8285".parse().unwrap(), "192.0.2.2:8285".parse().unwrap());
        line(Duration::new(86_400 + 3_723, 456_789_000), true, &Outer::Datagram { from, to }, inner)
    }

    #[test]
    fn packets_are_told_in_tcpdumps_words() {
        let icmp = |bytes: [u8; 8]| packet([10, 5, 1, 2], [10, 5, 2, 2], 1, 62, &bytes);
        let mut fragment = Flow::udp().packet(b"hello");
        fragment[6..8].copy_from_slice(&[0x20, 185]);
        for (packet, expected) in [
            (
                Flow::tcp().packet(b"hello"),
                "10.5.1.2.40000 > 10.5.2.2.80: Flags [.], seq 1000, ack 1, win 500, length 5, ttl 63",
            ),
            (
                Flow { flags: 0x12, ..Flow::tcp() }.packet(b""),
                "10.5.1.2.40000 > 10.5.2.2.80: Flags [S.], seq 1000, ack 1, win 500, length 0, ttl 63",
            ),
            (Flow::udp().packet(b"hi"), "10.5.1.2.40000 > 10.5.2.2.53: UDP, length 2, ttl 63"),
            (
                icmp([8, 0, 0, 0, 0, 7, 0, 2]),
                "10.5.1.2 > 10.5.2.2: ICMP echo request, id 7, seq 2, length 8, ttl 62",
            ),
            (
                icmp([3, 4, 0, 0, 0, 0, 5, 120]),
                "10.5.1.2 > 10.5.2.2: ICMP needs fragmentation, MTU 1400, length 8, ttl 62",
            ),
            (icmp([3, 1, 0, 0, 0, 0, 0, 0]), "10.5.1.2 > 10.5.2.2: ICMP host unreachable, length 8, ttl 62"),
            (
                packet([10, 5, 1, 2], [10, 5, 2, 2], 132, 9, b"sctp"),
                "10.5.1.2 > 10.5.2.2: proto 132, length 24, ttl 9",
            ),
            (fragment, "10.5.1.2 > 10.5.2.2: fragment of UDP at 1480+, length 33, ttl 63"),
            (Flow::tcp().packet(b"hello")[..30].to_vec(), "10.5.1.2 > 10.5.2.2: TCP, cut off at 30, ttl 63"),
            (b"hm".to_vec(), "no IP packet, length 2"),
        ] {
            assert_eq!(
                shown(&packet),
                format!("01:02:03.456789 out 192.0.2.1.8285 > 192.0.2.2.8285 | {expected}")
            );
        }
    }
}
