//! What is to be sent: packets gathered into messages, each for one next hop.
//!
//! A message of several packets is cut by the kernel or the network card into datagrams of one length (`UDP_SEGMENT`), so only
//! packets of one length go together, and a shorter one is the last. A packet may join only the newest message to its next hop:
//! what goes to one place keeps its order, and no next hop waits until another's packets are all sent.

use std::ops::Range;

use super::layers::MAX_HEADER;
use crate::route::Hop;

/// Packets at a time, and messages, if none go together.
pub const MOST_PACKETS: usize = 512;
/// Packets in a message: the least that any kernel with `UDP_SEGMENT` takes.
pub const MOST_SEGMENTS: usize = 64;
/// The longest UDP payload over IPv4.
pub const MOST_BYTES: usize = 65_535 - 20 - 8;

/// One datagram: a header that was written anew, if any, and bytes of the batch.
#[derive(Debug)]
struct Piece {
    header: usize,
    payload: Range<usize>,
    next: Option<usize>,
}

/// Datagrams to one next hop.
#[derive(Debug)]
pub struct Message {
    /// Where to.
    pub to: Hop,
    /// The outer packets' class of service.
    pub tos: u8,
    /// The length of each datagram but the last.
    pub size: usize,
    /// How many datagrams.
    pub count: usize,
    /// All of them together.
    pub bytes: usize,
    first: usize,
    last: usize,
    open: bool,
}

/// Messages in the order in which they began. Room for headers is made once.
#[derive(Debug)]
pub struct Outbox {
    headers: Box<[[u8; MAX_HEADER]]>,
    pieces: Vec<Piece>,
    messages: Vec<Message>,
}

impl Default for Outbox {
    fn default() -> Self {
        Outbox {
            headers: vec![[0; MAX_HEADER]; MOST_PACKETS].into(),
            pieces: Vec::with_capacity(MOST_PACKETS),
            messages: Vec::with_capacity(MOST_PACKETS),
        }
    }
}

impl Outbox {
    /// Whether it must be sent before another packet comes.
    pub fn is_full(&self) -> bool {
        self.pieces.len() >= MOST_PACKETS
    }

    /// Forgets all; it was sent.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.messages.clear();
    }

    /// What is to be sent.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The datagrams of a message: a header, which may be empty, and where in the batch the rest is.
    pub fn pieces(&self, message: &Message) -> impl Iterator<Item = (&[u8], Range<usize>)> {
        let next = |index: Option<usize>| index.and_then(|i| Some((i, self.pieces.get(i)?)));
        std::iter::successors(next(Some(message.first)), move |(_, piece)| next(piece.next))
            .map(|(i, piece)| (&self.headers[i][..piece.header], piece.payload.clone()))
    }

    /// Where the header of the next packet is to be written; none if it is full.
    pub fn header(&mut self) -> Option<&mut [u8; MAX_HEADER]> {
        self.headers.get_mut(self.pieces.len())
    }

    /// Takes over a packet to a next hop with a class of service: so many bytes of [`Outbox::header`], and a part of the batch.
    /// `together`: it may share a message. There must be room.
    pub fn push(&mut self, (to, tos): (Hop, u8), header: usize, payload: Range<usize>, together: bool) {
        let (index, length) = (self.pieces.len(), header + payload.len());
        self.pieces.push(Piece { header, payload, next: None });
        let newest = self.messages.iter_mut().rfind(|message| message.to == to);
        if let Some(message) =
            newest.filter(|message| together && message.tos == tos && message.takes(length))
        {
            self.pieces[message.last].next = Some(index);
            message.last = index;
            message.count += 1;
            message.bytes += length;
            message.open = length == message.size;
            return;
        }
        self.messages.push(Message {
            to,
            tos,
            size: length,
            count: 1,
            bytes: length,
            first: index,
            last: index,
            open: together,
        });
    }
}

impl Message {
    fn takes(&self, length: usize) -> bool {
        self.open && length <= self.size && self.count < MOST_SEGMENTS && self.bytes + length <= MOST_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::number;

    fn peer(n: u8) -> Hop {
        Hop::from(std::net::SocketAddr::from(([192, 0, 2, n], 8285)))
    }

    /// Peer and length of each packet; the messages as (peer, size, lengths).
    fn gathered(packets: &[(u8, usize)], together: bool) -> Vec<(u8, usize, Vec<usize>)> {
        let mut outbox = Outbox::default();
        let mut at = 0;
        for (n, length) in packets {
            outbox.push((peer(*n), 0), 0, at..at + length, together);
            at += length;
        }
        let message = |m: &Message| {
            let pieces: Vec<_> = outbox.pieces(m).map(|(_, payload)| payload).collect();
            assert!(pieces.is_sorted_by_key(|payload| payload.start), "out of order");
            assert_eq!((m.count, m.bytes), (pieces.len(), pieces.iter().map(Range::len).sum()));
            (number(m.to.at.ip()) as u8, m.size, pieces.iter().map(Range::len).collect())
        };
        outbox.messages().iter().map(message).collect()
    }

    #[test]
    fn packets_of_one_length_go_together_and_a_shorter_one_is_the_last() {
        for (packets, expected) in [
            (&[(1, 9), (1, 9), (1, 9)][..], vec![(1, 9, vec![9, 9, 9])]),
            (&[(1, 9), (1, 5), (1, 5)], vec![(1, 9, vec![9, 5]), (1, 5, vec![5])]),
            (&[(1, 5), (1, 9), (1, 5)], vec![(1, 5, vec![5]), (1, 9, vec![9, 5])]),
            (&[(1, 9), (2, 9), (1, 9), (2, 3)], vec![(1, 9, vec![9, 9]), (2, 9, vec![9, 3])]),
            (&[(1, 9), (2, 9), (1, 5), (1, 9)], vec![(1, 9, vec![9, 5]), (2, 9, vec![9]), (1, 9, vec![9])]),
        ] {
            assert_eq!(gathered(packets, true), expected, "{packets:?}");
        }
        assert_eq!(gathered(&[(1, 9), (1, 9)], false), [(1, 9, vec![9]), (1, 9, vec![9])]);
    }

    #[test]
    fn a_message_is_no_longer_than_the_kernel_takes() {
        let lengths = |packets: &[(u8, usize)]| {
            gathered(packets, true).into_iter().map(|(_, _, lengths)| lengths.len()).collect::<Vec<_>>()
        };
        assert_eq!(lengths(&[(1, 92); 130]), [64, 64, 2]);
        // 44 packets of 1472 bytes fit, 45 don't; what is left over begins the next message.
        assert_eq!(lengths(&[(1, 1472); 92]), [44, 44, 4]);
    }

    #[test]
    fn a_flood_to_one_peer_delays_another_by_no_more_than_what_came_before() {
        for at in [0, 1, 63, 64, 65, 300, MOST_PACKETS - 1] {
            let packets: Vec<_> = (0..MOST_PACKETS).map(|n| (if n == at { 2 } else { 1 }, 92)).collect();
            let messages = gathered(&packets, true);
            let before = messages.iter().position(|(peer, ..)| *peer == 2).unwrap();
            assert_eq!(before, at.div_ceil(MOST_SEGMENTS), "messages before packet {at}");
        }
    }

    #[test]
    fn headers_stay_with_their_payload() {
        let mut outbox = Outbox::default();
        for n in 0..3 {
            outbox.header().unwrap()[..2].fill(n);
            outbox.push((peer(1), 0), 2, usize::from(n) * 10..usize::from(n) * 10 + 7, true);
        }
        let pieces: Vec<_> = outbox.pieces(&outbox.messages()[0]).collect();
        assert_eq!(pieces, [(&[0, 0][..], 0..7), (&[1, 1], 10..17), (&[2, 2], 20..27)]);
        assert_eq!(outbox.messages()[0].size, 9);
    }

    #[test]
    fn packets_of_another_class_of_service_begin_a_message() {
        let mut outbox = Outbox::default();
        for (n, tos) in [0xb8, 0xb8, 0, 0xb8].into_iter().enumerate() {
            outbox.push((peer(1), tos), 0, n * 9..n * 9 + 9, true);
        }
        let messages: Vec<_> = outbox.messages().iter().map(|m| (m.tos, m.count)).collect();
        assert_eq!(messages, [(0xb8, 2), (0, 1), (0xb8, 1)], "and nothing overtakes");
    }

    #[test]
    fn it_has_an_end_and_can_be_used_again() {
        let mut outbox = Outbox::default();
        while !outbox.is_full() {
            outbox.push((peer(1), 0), 0, 0..1, false);
        }
        assert_eq!((outbox.messages().len(), outbox.header()), (MOST_PACKETS, None));
        outbox.clear();
        assert!(!outbox.is_full() && outbox.messages().is_empty() && outbox.header().is_some());
    }
}
