//! What becomes of a packet. Pure: a batch and a table in, a verdict on each packet out.

use std::net::SocketAddrV4;

use super::buffer::Buffer;
use super::counters::Reason;
use super::packet::Packet;
use crate::route::Table;

/// What is to be done with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not looked at yet.
    Pending,
    /// Send it to this flanneld.
    Send(SocketAddrV4),
    /// Give it to the TUN.
    Deliver,
    /// Drop it.
    Drop(Reason),
    /// Drop it, and tell its sender that nobody is there.
    Refuse,
}

/// Judges packets out of the TUN: to which next hop.
pub fn outbound(packets: &mut [Buffer], table: &Table) {
    for buffer in packets {
        buffer.verdict = send(&mut buffer.data[..buffer.len], table).unwrap_or_else(Verdict::Drop);
    }
}

/// Judges datagrams: are they from whom they should be, and for here.
pub fn inbound(packets: &mut [Buffer], table: &Table) {
    for buffer in packets {
        buffer.verdict = if buffer.truncated {
            Verdict::Drop(Reason::Truncated)
        } else {
            deliver(&mut buffer.data[..buffer.len], buffer.from, table).unwrap_or_else(Verdict::Drop)
        };
    }
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

fn deliver(bytes: &mut [u8], from: SocketAddrV4, table: &Table) -> Result<Verdict, Reason> {
    let mut packet = Packet::parse(bytes)?;
    let own = table.own().ok_or(Reason::NoLease)?;
    if table.lookup(packet.source()) != Some(from) {
        return Err(Reason::Sender);
    }
    if !own.contains(packet.destination()) {
        return Err(Reason::Destination);
    }
    packet.hop()?;
    Ok(Verdict::Deliver)
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

    fn buffer(bytes: &[u8], from: &str) -> Buffer {
        let mut batch = super::super::buffer::Batch::default();
        let mut buffer = batch.buffers.swap_remove(0);
        buffer.data[..bytes.len()].copy_from_slice(bytes);
        (buffer.len, buffer.from) = (bytes.len(), from.parse().unwrap());
        buffer
    }

    fn out(source: [u8; 4], destination: [u8; 4], ttl: u8, table: &Table) -> (Verdict, u8) {
        let mut packets = [buffer(&packet(source, destination, 17, ttl, b"x"), "0.0.0.0:0")];
        outbound(&mut packets, table);
        (packets[0].verdict, packets[0].data[8])
    }

    fn arrive(source: [u8; 4], destination: [u8; 4], from: &str) -> Verdict {
        let mut packets = [buffer(&packet(source, destination, 17, 64, b"x"), from)];
        inbound(&mut packets, &table());
        packets[0].verdict
    }

    const MINE: [u8; 4] = [10, 5, 1, 2];
    const THEIRS: [u8; 4] = [10, 5, 2, 2];

    #[test]
    fn packets_go_to_the_next_hop_of_their_destination() {
        let table = table();
        assert_eq!(out(MINE, THEIRS, 64, &table), (Verdict::Send("192.0.2.2:8285".parse().unwrap()), 63));
        assert_eq!(out(MINE, [10, 5, 9, 9], 64, &table), (Verdict::Refuse, 64));
        assert_eq!(out(MINE, THEIRS, 1, &table).0, Verdict::Drop(Reason::Ttl));
        assert_eq!(out(MINE, THEIRS, 0, &table).0, Verdict::Drop(Reason::Ttl));
        assert_eq!(out(MINE, THEIRS, 64, &Table::default()).0, Verdict::Drop(Reason::NoLease));
    }

    #[test]
    fn what_arrives_is_checked() {
        let (from, stranger) = ("192.0.2.2:8285", "192.0.2.66:8285");
        assert_eq!(arrive(THEIRS, MINE, from), Verdict::Deliver);
        assert_eq!(arrive(THEIRS, [10, 5, 1, 0], from), Verdict::Deliver, "the host's own tunnel address");
        assert_eq!(arrive(THEIRS, MINE, stranger), Verdict::Drop(Reason::Sender));
        assert_eq!(
            arrive(THEIRS, MINE, "192.0.2.2:9999"),
            Verdict::Drop(Reason::Sender),
            "another process of that host"
        );
        assert_eq!(
            arrive([10, 5, 3, 2], MINE, from),
            Verdict::Drop(Reason::Sender),
            "a neighbour's pod as source"
        );
        assert_eq!(arrive(MINE, MINE, from), Verdict::Drop(Reason::Sender), "our own pod as source");
        for destination in
            [[192, 0, 2, 1], [127, 0, 0, 1], [224, 0, 0, 1], [10, 5, 3, 2], [169, 254, 169, 254]]
        {
            assert_eq!(
                arrive(THEIRS, destination, from),
                Verdict::Drop(Reason::Destination),
                "{destination:?}"
            );
        }
    }

    #[test]
    fn truncated_and_broken_datagrams_are_dropped() {
        let mut packets = [
            buffer(&packet(THEIRS, MINE, 17, 64, b"x"), "192.0.2.2:8285"),
            buffer(b"nonsense", "192.0.2.2:8285"),
        ];
        packets[0].truncated = true;
        inbound(&mut packets, &table());
        assert_eq!(
            packets.map(|b| b.verdict),
            [Verdict::Drop(Reason::Truncated), Verdict::Drop(Reason::Short)]
        );
    }
}
