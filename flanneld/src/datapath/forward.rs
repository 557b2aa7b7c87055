//! What becomes of a packet. Pure: a packet and a table in, a verdict out. A super-packet is judged once, whole.

use std::net::SocketAddr;

use ipnetwork::IpNetwork;

use super::clamp::{Sum, clamp};
use super::counters::Reason;
use super::ecn;
use super::layers::{Layers, TCP};
use super::packet::Packet;
use super::packet6::{self, Packet6};
use super::view::View;
use super::virtio::Header;
use crate::route::{Hop, Table};

/// The longest packet that is taken from a peer: that of the largest Ethernet jumbo frame. Of TCP, a longer one may be a super-packet
/// of a kernel that encapsulates ([`super::partial::whole`]).
pub const LONGEST: usize = 9216;

/// Where a packet goes on to, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Onward {
    /// To this flanneld.
    pub to: Hop,
    /// The outer packet's class of service.
    pub tos: u8,
    /// In fragments of so many bytes at the most; none: whole.
    pub within: Option<usize>,
}

/// What is to be done with a packet out of the TUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send it.
    Send(Onward),
    /// Drop it.
    Drop(Reason),
    /// Drop it, and tell its sender that nobody is there.
    Refuse,
    /// Drop it, and tell its sender that packets may have so many bytes.
    TooLong(usize),
}

/// Judges a packet out of the TUN, with which the kernel left something to be done. It goes on with a hop less.
pub fn outbound(bytes: &mut [u8], left: &Header, table: &Table) -> Verdict {
    let judged = if packet6::is(bytes) {
        Packet6::parse(bytes).and_then(|packet| send(packet, left, table))
    } else {
        Packet::parse(bytes).and_then(|packet| send(packet, left, table))
    };
    judged.unwrap_or_else(Verdict::Drop)
}

/// The own subnet of a packet's family.
fn own<P: View>(table: &Table) -> Result<&IpNetwork, Reason> {
    let none = || if table.own().is_empty() { Reason::NoLease } else { Reason::Version };
    table.own().get(P::FAMILY).ok_or_else(none)
}

fn send<P: View>(mut packet: P, left: &Header, table: &Table) -> Result<Verdict, Reason> {
    own::<P>(table)?;
    let Some(to) = table.lookup(packet.destination()) else { return Ok(Verdict::Refuse) };
    let (inner, length) = (packet.tos(), packet.bytes_mut().len());
    let (mut tos, mut within) = (ecn::outer(inner, false), None);
    if let Some(way) = table.way(to) {
        way.used(length);
        tos = ecn::outer(inner, way.takes_marks());
        if let Some(limit) = way.limit() {
            match fit(&mut packet, left, limit) {
                Fit::Whole => {}
                Fit::Fragments => within = Some(limit),
                Fit::No => return Ok(Verdict::TooLong(limit)),
            }
        }
    }
    packet.hop()?;
    Ok(Verdict::Send(Onward { to, tos, within }))
}

/// Whether a packet gets through a way that takes so many bytes.
enum Fit {
    Whole,
    Fragments,
    No,
}

fn fit<P: View>(packet: &mut P, left: &Header, limit: usize) -> Fit {
    let one_piece = packet.is_one_piece();
    let bytes = packet.bytes_mut();
    // What goes over the wire of a super-packet is its segments.
    let segment = left.gso.and_then(|gso| Some(Layers::parse(bytes)?.payload + usize::from(gso.size)));
    if segment.unwrap_or(usize::MAX).min(bytes.len()) > limit {
        return if one_piece { Fit::No } else { Fit::Fragments };
    }
    clamp(bytes, limit, if left.partial.is_some() { Sum::Partial } else { Sum::Whole });
    Fit::Whole
}

/// Judges a datagram: is it from whom it should be, and for here; from which next hop it is. It goes on with a hop less. `outer` is
/// the class of service that it arrived with.
pub fn inbound(bytes: &mut [u8], from: SocketAddr, outer: u8, table: &Table) -> Result<Hop, Reason> {
    let too_long = bytes.len() > LONGEST;
    if packet6::is(bytes) {
        let packet = if too_long { Err(Reason::Truncated) } else { Packet6::parse(bytes) };
        return receive(packet?, from, outer, table);
    }
    match Packet::parse(bytes) {
        Ok(packet) if !too_long || packet.protocol() == TCP => receive(packet, from, outer, table),
        _ if too_long => Err(Reason::Truncated),
        other => receive(other?, from, outer, table),
    }
}

fn receive<P: View>(mut packet: P, from: SocketAddr, outer: u8, table: &Table) -> Result<Hop, Reason> {
    let own = own::<P>(table)?;
    let peer = table.lookup(packet.source()).filter(|peer| peer.at == from).ok_or(Reason::Sender)?;
    if !own.contains(packet.destination().into()) {
        return Err(Reason::Destination);
    }
    let tos = ecn::combined(packet.tos(), outer)?;
    if tos != packet.tos() {
        packet.set_tos(tos);
    }
    packet.hop()?;
    Ok(peer)
}

/// Sees to it that what is answered to a packet from this next hop fits, if it opens a TCP connection. Its checksum is whole.
pub fn fit_answers(bytes: &mut [u8], from: Hop, table: &Table) {
    if let Some(limit) = table.way(from).and_then(|way| way.limit()) {
        clamp(bytes, limit, Sum::Whole);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::checksum;
    use super::super::packet::testing::{Flow, packet};
    use super::super::packet6::testing::packet as packet6;
    use super::super::virtio::{Gso, Kind};
    use super::*;
    use crate::family::Dual;
    use crate::route::traffic::Ledger;

    fn table() -> Table {
        let own = "10.5.1.0/24".parse().unwrap();
        let peers = [("10.5.2.0/24", "192.0.2.2:8285"), ("10.5.3.0/24", "192.0.2.3:8285")];
        Table::new(Some(own), peers.map(|(net, hop)| (net.parse().unwrap(), hop.parse().unwrap())))
    }

    fn out(source: [u8; 4], destination: [u8; 4], ttl: u8, table: &Table) -> (Verdict, u8) {
        let mut bytes = packet(source, destination, 17, ttl, b"x");
        (outbound(&mut bytes, &Header::default(), table), bytes[8])
    }

    /// A table of both families, in which both are sealed for the same peer.
    fn dual() -> Table {
        let own = Dual { v4: "10.5.1.0/24".parse().ok(), v6: "fc00:0:0:1::/64".parse().ok() };
        let peers = [
            ("10.5.2.0/24", "192.0.2.2:7"),
            ("fc00:0:0:2::/64", "192.0.2.2:7"),
            ("fc00:0:0:3::/64", "[fd00::3]:7"),
        ];
        let peers = peers.map(|(net, hop)| (net.parse().unwrap(), hop.parse().unwrap()));
        Table::counted(own, peers, &Ledger::default())
    }

    #[test]
    fn packets_of_ipv6_are_judged_as_those_of_ipv4() {
        let (table, only_v4, mine) = (dual(), table(), "fc00:0:0:1::2");
        let out = |destination, hops, table: &Table| {
            let mut bytes = packet6(mine, destination, 17, hops, b"x");
            let verdict = outbound(&mut bytes, &Header::default(), table);
            (
                if let Verdict::Send(onward) = verdict { Ok(onward.to.at.to_string()) } else { Err(verdict) },
                bytes[7],
            )
        };
        assert_eq!(out("fc00:0:0:2::2", 64, &table), (Ok("192.0.2.2:7".into()), 63));
        assert_eq!(out("fc00:0:0:3::2", 64, &table), (Ok("[fd00::3]:7".into()), 63));
        assert_eq!(out("fc00:0:0:9::9", 64, &table), (Err(Verdict::Refuse), 64));
        assert_eq!(out("fc00:0:0:2::2", 1, &table).0, Err(Verdict::Drop(Reason::Ttl)));
        assert_eq!(out("fc00:0:0:2::2", 64, &Table::default()).0, Err(Verdict::Drop(Reason::NoLease)));
        assert_eq!(out("fc00:0:0:2::2", 64, &only_v4).0, Err(Verdict::Drop(Reason::Version)));
        let arrive = |source, destination, from: &str, table: &Table| {
            let mut bytes = packet6(source, destination, 17, 64, b"x");
            inbound(&mut bytes, from.parse().unwrap(), 0, table).map(|_| bytes[7])
        };
        let theirs = "fc00:0:0:2::2";
        assert_eq!(arrive(theirs, mine, "192.0.2.2:7", &table), Ok(63));
        assert_eq!(arrive(theirs, mine, "192.0.2.66:7", &table), Err(Reason::Sender));
        assert_eq!(
            arrive("fc00:0:0:3::2", mine, "192.0.2.2:7", &table),
            Err(Reason::Sender),
            "a neighbour's pod"
        );
        assert_eq!(arrive(mine, mine, "192.0.2.2:7", &table), Err(Reason::Sender));
        assert_eq!(arrive("fe80::1", mine, "192.0.2.2:7", &table), Err(Reason::Sender));
        for destination in ["fc00:0:0:3::2", "fe80::1", "::1", "ff02::1", "::ffff:10.5.1.2"] {
            assert_eq!(
                arrive(theirs, destination, "192.0.2.2:7", &table),
                Err(Reason::Destination),
                "{destination}"
            );
        }
        assert_eq!(arrive(theirs, mine, "192.0.2.2:7", &only_v4), Err(Reason::Version));
        let mut long = packet6(theirs, mine, TCP, 64, &[0; LONGEST]);
        assert_eq!(inbound(&mut long, "192.0.2.2:7".parse().unwrap(), 0, &table), Err(Reason::Truncated));
    }

    #[test]
    fn only_the_sender_fragments_ipv6() {
        let table = dual();
        let to = "fc00:0:0:2::2".parse::<std::net::IpAddr>().unwrap();
        table.way(table.lookup(to).unwrap()).unwrap().set_limit(Some(1280));
        let sent = |length: usize| {
            let mut bytes = packet6("fc00:0:0:1::2", "fc00:0:0:2::2", 17, 64, &vec![0; length - 40]);
            outbound(&mut bytes, &Header::default(), &table)
        };
        assert!(matches!(sent(1280), Verdict::Send(Onward { within: None, .. })));
        assert_eq!(sent(1281), Verdict::TooLong(1280));
    }

    fn arrive(source: [u8; 4], destination: [u8; 4], from: &str) -> Result<(), Reason> {
        let mut bytes = packet(source, destination, 17, 64, b"x");
        inbound(&mut bytes, from.parse().unwrap(), 0, &table())
            .map(|peer| assert_eq!(peer.at.to_string(), from))
    }

    const MINE: [u8; 4] = [10, 5, 1, 2];
    const THEIRS: [u8; 4] = [10, 5, 2, 2];

    #[test]
    fn packets_go_to_the_next_hop_of_their_destination() {
        let table = table();
        let there = table.lookup(Ipv4Addr::from(THEIRS)).unwrap();
        assert_eq!(
            (there.at.to_string(), out(MINE, THEIRS, 64, &table)),
            ("192.0.2.2:8285".into(), (Verdict::Send(Onward { to: there, tos: 0, within: None }), 63))
        );
        assert_eq!(out(MINE, [10, 5, 9, 9], 64, &table), (Verdict::Refuse, 64));
        assert_eq!(out(MINE, THEIRS, 1, &table).0, Verdict::Drop(Reason::Ttl));
        assert_eq!(out(MINE, THEIRS, 0, &table).0, Verdict::Drop(Reason::Ttl));
        assert_eq!(out(MINE, THEIRS, 64, &Table::default()).0, Verdict::Drop(Reason::NoLease));
    }

    /// What becomes of a packet where the way to its destination takes 1000 bytes only.
    fn narrow(mut bytes: Vec<u8>, gso: Option<Gso>) -> Result<Option<usize>, Verdict> {
        let table = table();
        table.way(table.lookup(Ipv4Addr::from(THEIRS)).unwrap()).unwrap().set_limit(Some(1000));
        match outbound(&mut bytes, &Header { gso, ..Header::default() }, &table) {
            Verdict::Send(onward) => Ok(onward.within),
            verdict => Err(verdict),
        }
    }

    #[test]
    fn what_is_longer_than_the_way_takes_is_fragmented_or_refused() {
        let tcp = Flow::tcp();
        let may = |flow| Flow { dont_fragment: false, ..flow };
        let gso = |size| Some(Gso { kind: Kind::Tcp4, size });
        let too_long = Err(Verdict::TooLong(1000));
        for (packet, gso, expected, what) in [
            (tcp.packet(&[7; 948]), None, Ok(None), "it fits"),
            (tcp.packet(&[7; 949]), None, too_long, "a byte too long"),
            (may(tcp).packet(&[7; 949]), None, Ok(Some(1000)), "in fragments"),
            (may(Flow::udp()).packet(&[7; 1400]), None, Ok(Some(1000)), "UDP in fragments"),
            (Flow::udp().packet(&[7; 1400]), None, too_long, "UDP that may not be fragmented"),
            (tcp.packet(&[7; 9480]), gso(948), Ok(None), "segments that fit"),
            (tcp.packet(&[7; 9480]), gso(949), too_long, "segments that don't"),
            (tcp.packet(&[7; 900]), gso(1400), Ok(None), "a super-packet that is none"),
            (may(tcp).packet(&[7; 9480]), gso(949), Ok(Some(1000)), "segments in fragments"),
        ] {
            assert_eq!(narrow(packet, gso), expected, "{what}");
        }
    }

    #[test]
    fn connections_over_a_narrow_way_get_segments_that_fit() {
        let table = table();
        let there = table.lookup(Ipv4Addr::from(THEIRS)).unwrap();
        table.way(there).unwrap().set_limit(Some(1000));
        let syn = || {
            let mut bytes = Flow { flags: 2, timestamp: None, ..Flow::tcp() }.packet(&[2, 4, 5, 0x98]);
            bytes[32] = 0x60;
            bytes[36..38].fill(0);
            let pseudo = checksum::pseudo(&bytes[12..20], 6, 24).to_be_bytes();
            bytes[36..38].copy_from_slice(&pseudo);
            checksum::complete(&mut bytes, 20, 16).unwrap();
            bytes
        };
        let (mut out, mut into) = (syn(), syn());
        outbound(&mut out, &Header::default(), &table);
        fit_answers(&mut into, there, &table);
        for bytes in [out, into] {
            assert_eq!(bytes[40..44], [2, 4, 3, 0xc0], "960 bytes in packets of 1000");
            let pseudo = checksum::pseudo(&bytes[12..20], 6, 24);
            assert_eq!(checksum::add(pseudo, checksum::sum(&bytes[20..])), 0xffff);
        }
    }

    #[test]
    fn what_goes_out_is_noted_at_the_way() {
        let table = table();
        let way = table.way(table.lookup(Ipv4Addr::from(THEIRS)).unwrap()).unwrap();
        for length in [100, 50] {
            outbound(&mut packet(MINE, THEIRS, 17, 64, &vec![0; length]), &Header::default(), &table);
        }
        assert_eq!((way.take_largest(), way.take_largest()), (120, 0));
    }

    #[test]
    fn dscp_is_shown_outside_and_ecn_where_it_is_understood() {
        let table = table();
        let way = table.way(table.lookup(Ipv4Addr::from(THEIRS)).unwrap()).unwrap();
        let tos = || {
            let mut bytes = Flow { tos: 0xba, ..Flow::udp() }.packet(b"x");
            match outbound(&mut bytes, &Header::default(), &table) {
                Verdict::Send(onward) => (bytes[1], onward.tos),
                verdict => panic!("{verdict:?}"),
            }
        };
        assert_eq!(tos(), (0xba, 0xb8));
        way.set_takes_marks(true);
        assert_eq!(tos(), (0xba, 0xba));
    }

    #[test]
    fn a_mark_on_the_outer_packet_comes_home() {
        for (inner, outer, expected) in
            [(0xba, 0xbb, Ok(0xbb)), (0xba, 0, Ok(0xba)), (0xb8, 0x0b, Err(Reason::Congestion))]
        {
            let mut bytes = Flow { tos: inner, ..Flow::udp() }.packet(b"x");
            bytes[12..16].copy_from_slice(&THEIRS);
            bytes[16..20].copy_from_slice(&MINE);
            let judged = inbound(&mut bytes, "192.0.2.2:8285".parse().unwrap(), outer, &table());
            assert_eq!(judged.map(|_| bytes[1]), expected);
            assert_eq!(checksum::of(&bytes[..20]), 0, "sources were swapped, the sum stays right");
        }
    }

    #[test]
    fn what_arrives_is_checked() {
        let (from, stranger) = ("192.0.2.2:8285", "192.0.2.66:8285");
        assert_eq!(arrive(THEIRS, MINE, from), Ok(()));
        assert_eq!(arrive(THEIRS, [10, 5, 1, 0], from), Ok(()), "the host's own tunnel address");
        assert_eq!(arrive(THEIRS, MINE, stranger), Err(Reason::Sender));
        assert_eq!(
            arrive(THEIRS, MINE, "192.0.2.2:9999"),
            Err(Reason::Sender),
            "another process of that host"
        );
        assert_eq!(arrive([10, 5, 3, 2], MINE, from), Err(Reason::Sender), "a neighbour's pod as source");
        assert_eq!(arrive(MINE, MINE, from), Err(Reason::Sender), "our own pod as source");
        for destination in
            [[192, 0, 2, 1], [127, 0, 0, 1], [224, 0, 0, 1], [10, 5, 3, 2], [169, 254, 169, 254]]
        {
            assert_eq!(arrive(THEIRS, destination, from), Err(Reason::Destination), "{destination:?}");
        }
    }

    #[test]
    fn what_is_too_long_or_broken_is_dropped() {
        let from = "192.0.2.2:8285".parse().unwrap();
        let arrive = |mut bytes: Vec<u8>| inbound(&mut bytes, from, 0, &table()).map(|_| ());
        assert_eq!(arrive(packet(THEIRS, MINE, 17, 64, &[0; LONGEST - 20])), Ok(()));
        assert_eq!(arrive(packet(THEIRS, MINE, 17, 64, &[0; LONGEST - 19])), Err(Reason::Truncated));
        assert_eq!(arrive(b"nonsense".to_vec()), Err(Reason::Short));
        assert_eq!(arrive(packet(THEIRS, MINE, 17, 1, b"x")), Err(Reason::Ttl));
    }
}
