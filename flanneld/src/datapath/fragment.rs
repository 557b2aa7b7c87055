//! Taking a packet apart into fragments (RFC 791 section 3.2), where the way to the next hop is narrower than the packet and its
//! sender did not forbid it. The fragments are inner packets like any other; the outer ones are never fragmented.

use std::ops::Range;

use super::checksum;
use super::layers::MAX_HEADER;
use super::split::Segment;

const MIN_HEADER: usize = 20;
const DONT_FRAGMENT: u16 = 0x4000;
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
/// Offsets count units of so many bytes.
const UNIT: usize = 8;

/// The fragments of one packet, one after the other.
#[derive(Debug)]
pub struct Fragments<'a> {
    /// The IP header, and as much of what follows as was written with it.
    head: &'a [u8],
    network: usize,
    /// The rest, in some buffer.
    rest: Range<usize>,
    /// Bytes behind the header of each fragment but the last; of that.
    room: usize,
    last: usize,
    /// How many of them there were already.
    done: usize,
}

impl<'a> Fragments<'a> {
    /// Of an IPv4 packet that begins with `head` and goes on at `rest`, each of `limit` bytes at the most. None if it may not be
    /// fragmented, or if there is no room.
    pub fn new(head: &'a [u8], rest: Range<usize>, limit: usize) -> Option<Fragments<'a>> {
        let network = usize::from(*head.first()? & 0x0f) * 4;
        let last = limit.checked_sub(network)?;
        let room = last / UNIT * UNIT;
        let begun = head.len().checked_sub(network)?;
        let fits = network >= MIN_HEADER && head.len() <= MAX_HEADER && room > begun;
        (fits && !forbidden(head)).then_some(Fragments { head, network, rest, room, last, done: 0 })
    }

    /// Writes the header of the next fragment; none if there is no other.
    pub fn next(&mut self, header: &mut [u8; MAX_HEADER]) -> Option<Segment> {
        let begun = self.head.len() - self.network;
        let all = begun + self.rest.len();
        if self.done >= all {
            return None;
        }
        let start = self.done;
        let end = if all - start <= self.last { all } else { start + self.room };
        // All that was written with the header goes with the first one.
        let length = if start == 0 { self.head.len() } else { self.network };
        header[..length].copy_from_slice(&self.head[..length]);
        if start > 0 {
            keep_copied_options(&mut header[MIN_HEADER..length]);
        }
        let flags = word(self.head, 6);
        let more = if end < all { MORE } else { flags & MORE };
        let offset = (flags & OFFSET) + (start / UNIT) as u16;
        header[2..4].copy_from_slice(&((self.network + end - start) as u16).to_be_bytes());
        header[6..8].copy_from_slice(&(flags & !(MORE | OFFSET) | more | offset & OFFSET).to_be_bytes());
        header[10..12].fill(0);
        let sum = checksum::of(&header[..self.network]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        self.done = end;
        let at = |bytes: usize| self.rest.start + bytes.saturating_sub(begun);
        Some(Segment { header: length, payload: at(start)..at(end) })
    }
}

/// Whether the sender forbids it.
pub fn forbidden(packet: &[u8]) -> bool {
    word(packet, 6) & DONT_FRAGMENT != 0
}

/// An option that is not copied is for the first fragment alone; in the others it is blotted out, as Linux does it.
fn keep_copied_options(mut options: &mut [u8]) {
    const COPIED: u8 = 0x80;
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    while let [kind, ..] = *options {
        let length = match (kind, options.get(1)) {
            (END, _) => return,
            (NOTHING, _) => 1,
            (_, Some(length)) => usize::from(*length),
            _ => return,
        };
        if kind != NOTHING && (length < 2 || length > options.len()) {
            return;
        }
        let (option, behind) = options.split_at_mut(length);
        if kind & COPIED == 0 {
            option.fill(NOTHING);
        }
        options = behind;
    }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::super::packet::testing::Flow;
    use super::*;

    fn fragments(packet: &[u8], head: usize, limit: usize) -> Option<Vec<Vec<u8>>> {
        let mut fragments = Fragments::new(&packet[..head], head..packet.len(), limit)?;
        let (mut header, mut all) = ([0; MAX_HEADER], Vec::new());
        while let Some(part) = fragments.next(&mut header) {
            all.push([&header[..part.header], &packet[part.payload]].concat());
        }
        Some(all)
    }

    /// What a receiver makes of them; each is a right packet.
    fn assembled(parts: &[Vec<u8>], limit: usize) -> Vec<u8> {
        let mut payload = Vec::new();
        for (n, part) in parts.iter().enumerate() {
            let network = usize::from(part[0] & 15) * 4;
            assert!(part.len() <= limit && usize::from(word(part, 2)) == part.len());
            assert_eq!(checksum::of(&part[..network]), 0);
            assert_eq!(usize::from(word(part, 6) & OFFSET) * 8, payload.len());
            assert_eq!(word(part, 6) & MORE != 0, n + 1 < parts.len());
            payload.extend(&part[network..]);
        }
        payload
    }

    fn datagram(length: usize) -> Vec<u8> {
        let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
        Flow { dont_fragment: false, ..Flow::udp() }.packet(&payload)
    }

    #[test]
    fn the_parts_are_packets_that_give_the_whole() {
        for (length, limit, count) in
            [(1400, 1000, 2), (1400, 576, 3), (952, 980, 1), (975, 1003, 1), (4000, 548, 8)]
        {
            let packet = datagram(length);
            // Headers of IP alone, and of UDP with it, as they stand in a segment that was split off.
            for head in [20, 28] {
                let parts = fragments(&packet, head, limit).unwrap();
                assert_eq!(parts.len(), count, "{length} within {limit}");
                assert_eq!(assembled(&parts, limit), packet[20..]);
                assert!(parts.iter().all(|part| part[4..6] == packet[4..6] && part[8..10] == packet[8..10]));
            }
        }
    }

    #[test]
    fn a_fragment_is_fragmented_further() {
        let packet = datagram(1400);
        let first = fragments(&packet, 20, 1200).unwrap();
        let again: Vec<_> = first.iter().flat_map(|part| fragments(part, 20, 600).unwrap()).collect();
        assert_eq!(assembled(&again, 600), packet[20..]);
    }

    #[test]
    fn what_may_not_be_fragmented_is_not() {
        let packet = Flow::udp().packet(&[7; 1400]);
        assert!(forbidden(&packet) && fragments(&packet, 20, 1000).is_none());
        assert!(fragments(&datagram(1400), 20, 27).is_none(), "no room for eight bytes");
        assert!(fragments(&datagram(1400), 28, 28).is_none(), "nor for what was begun");
        assert!(Fragments::new(&[], 0..10, 1000).is_none());
    }

    #[test]
    fn later_parts_keep_the_options_that_are_to_be_copied() {
        let mut packet = datagram(1400);
        // A record of routes, which is not copied, and a router alert, which is (RFC 791, RFC 2113).
        let options = [7, 3, 4, 1, 0x94, 4, 0, 0];
        packet.splice(20..20, options);
        packet[0] = 0x47;
        let parts = fragments(&packet, 28, 1000).unwrap();
        assert_eq!((&parts[0][20..28], &parts[1][20..28]), (&options[..], &[1, 1, 1, 1, 0x94, 4, 0, 0][..]));
        assert_eq!(assembled(&parts, 1000), packet[28..]);
        for wrong in [[7, 0, 0, 0], [7, 9, 0, 0], [7, 1, 0, 0], [1, 1, 1, 7]] {
            keep_copied_options(&mut wrong.clone());
        }
    }
}
