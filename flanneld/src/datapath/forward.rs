//! What becomes of a packet. Pure: a packet and a table in, a verdict out. A super-packet is judged once, whole.

use std::net::SocketAddrV4;

use super::counters::Reason;
use super::packet::Packet;
use crate::route::{Hop, Table};

/// The longest packet that is taken from a peer: that of the largest Ethernet jumbo frame.
pub const LONGEST: usize = 9216;

/// What is to be done with a packet out of the TUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send it to this flanneld.
    Send(Hop),
    /// Drop it.
    Drop(Reason),
    /// Drop it, and tell its sender that nobody is there.
    Refuse,
}

/// Judges a packet out of the TUN: to which next hop. It goes on with a hop less.
pub fn outbound(bytes: &mut [u8], table: &Table) -> Verdict {
    send(bytes, table).unwrap_or_else(Verdict::Drop)
}

fn send(bytes: &mut [u8], table: &Table) -> Result<Verdict, Reason> {
    let mut packet = Packet::parse(bytes)?;
    if table.own().is_none() {
        return Err(Reason::NoLease);
    }
    let Some(next_hop) = table.lookup(packet.destination()) else { return Ok(Verdict::Refuse) };
    packet.hop()?;
    Ok(Verdict::Send(next_hop))
}

/// Judges a datagram: is it from whom it should be, and for here; from which next hop it is. It goes on with a hop less.
pub fn inbound(bytes: &mut [u8], from: SocketAddrV4, table: &Table) -> Result<Hop, Reason> {
    if bytes.len() > LONGEST {
        return Err(Reason::Truncated);
    }
    let mut packet = Packet::parse(bytes)?;
    let own = table.own().ok_or(Reason::NoLease)?;
    let peer = table.lookup(packet.source()).filter(|peer| peer.at == from).ok_or(Reason::Sender)?;
    if !own.contains(packet.destination()) {
        return Err(Reason::Destination);
    }
    packet.hop()?;
    Ok(peer)
}

#[cfg(test)]
mod tests {
    use super::super::packet::testing::packet;
    use super::*;

    fn table() -> Table {
        let own = "10.5.1.0/24".parse().unwrap();
        let peers = [("10.5.2.0/24", "192.0.2.2:8285"), ("10.5.3.0/24", "192.0.2.3:8285")];
        Table::new(Some(own), peers.map(|(net, hop)| (net.parse().unwrap(), hop.parse().unwrap())))
    }

    fn out(source: [u8; 4], destination: [u8; 4], ttl: u8, table: &Table) -> (Verdict, u8) {
        let mut bytes = packet(source, destination, 17, ttl, b"x");
        (outbound(&mut bytes, table), bytes[8])
    }

    fn arrive(source: [u8; 4], destination: [u8; 4], from: &str) -> Result<(), Reason> {
        let mut bytes = packet(source, destination, 17, 64, b"x");
        inbound(&mut bytes, from.parse().unwrap(), &table()).map(|peer| assert_eq!(peer.at.to_string(), from))
    }

    const MINE: [u8; 4] = [10, 5, 1, 2];
    const THEIRS: [u8; 4] = [10, 5, 2, 2];

    #[test]
    fn packets_go_to_the_next_hop_of_their_destination() {
        let table = table();
        let there = table.lookup(THEIRS.into()).unwrap();
        assert_eq!(
            (there.at.to_string(), out(MINE, THEIRS, 64, &table)),
            ("192.0.2.2:8285".into(), (Verdict::Send(there), 63))
        );
        assert_eq!(out(MINE, [10, 5, 9, 9], 64, &table), (Verdict::Refuse, 64));
        assert_eq!(out(MINE, THEIRS, 1, &table).0, Verdict::Drop(Reason::Ttl));
        assert_eq!(out(MINE, THEIRS, 0, &table).0, Verdict::Drop(Reason::Ttl));
        assert_eq!(out(MINE, THEIRS, 64, &Table::default()).0, Verdict::Drop(Reason::NoLease));
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
        let arrive = |mut bytes: Vec<u8>| inbound(&mut bytes, from, &table()).map(|_| ());
        assert_eq!(arrive(packet(THEIRS, MINE, 17, 64, &[0; LONGEST - 20])), Ok(()));
        assert_eq!(arrive(packet(THEIRS, MINE, 17, 64, &[0; LONGEST - 19])), Err(Reason::Truncated));
        assert_eq!(arrive(b"nonsense".to_vec()), Err(Reason::Short));
        assert_eq!(arrive(packet(THEIRS, MINE, 17, 1, b"x")), Err(Reason::Ttl));
    }
}
