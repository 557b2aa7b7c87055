//! Buffers that are made once: packets out of the TUN, and datagrams out of the socket, both with room for super-packets.

use std::net::SocketAddr;
use std::ops::Range;

use super::counters::Reason;
use super::virtio::{self, Header};

/// The longest packet, with what the kernel puts before it.
const LONGEST: usize = 65_536 + virtio::LEN;
/// Packets that are read before they are looked at; super-packets fill the batch earlier.
pub const MOST_PACKETS: usize = 128;
/// Room for some super-packets: more would not stay in the processor's cache.
const BATCH: usize = 8 * LONGEST;

/// A packet that was read.
#[derive(Debug, Clone)]
pub struct Slot {
    /// Where it lies.
    pub at: Range<usize>,
    /// What the kernel left to be done.
    pub left: Result<Header, Reason>,
}

/// Packets out of the TUN, densely one behind the other.
#[derive(Debug)]
pub struct Batch {
    /// The packets lie in here.
    pub bytes: Box<[u8]>,
    /// The packets.
    pub slots: Vec<Slot>,
    most: usize,
}

impl Batch {
    /// Of so many packets at most.
    pub fn new(most: usize) -> Batch {
        let bytes = vec![0; if most == 1 { LONGEST } else { BATCH }].into();
        Batch { bytes, slots: Vec::with_capacity(most), most }
    }

    /// Room for another packet, however long; none if the batch is full.
    pub fn room(&mut self) -> Option<&mut [u8]> {
        let start = self.end();
        let end = start + LONGEST;
        if self.slots.len() < self.most { self.bytes.get_mut(start..end) } else { None }
    }

    /// So many bytes of the room were filled; they begin with the kernel's header if `vnet`.
    pub fn filled(&mut self, length: usize, vnet: bool) {
        let start = self.end();
        let bytes = &self.bytes[start..start + length];
        let (skip, left) = match bytes.first_chunk() {
            _ if !vnet => (0, Ok(Header::default())),
            Some(header) => (virtio::LEN, Header::parse(*header)),
            None => (0, Err(Reason::Short)),
        };
        self.slots.push(Slot { at: start + skip..start + length, left });
    }

    fn end(&self) -> usize {
        self.slots.last().map_or(0, |slot| slot.at.end)
    }
}

/// What the socket gave at once: one datagram, or many of one length and sender.
#[derive(Debug, Clone)]
pub struct Datagram {
    /// Where it lies.
    pub at: Range<usize>,
    /// The length of each but the last, if it is many.
    pub segment: Option<usize>,
    /// Who sent it.
    pub from: SocketAddr,
    /// The outer packet's class of service; the kernel joins only packets that have the same.
    pub tos: u8,
}

impl Datagram {
    /// The datagrams as they came over the wire.
    pub fn segments(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let Range { start, end } = self.at;
        let step = self.segment.filter(|size| *size > 0).unwrap_or(end - start).max(1);
        // An empty datagram is one, too.
        let count = (end - start).div_ceil(step).max(1);
        (0..count).map(move |n| start + n * step..(start + (n + 1) * step).min(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_lie_one_behind_the_other_until_there_is_no_room() {
        let mut batch = Batch::new(MOST_PACKETS);
        for length in [100, 65_545, 10, 9] {
            assert_eq!(batch.room().map(|room| room.len()), Some(LONGEST));
            batch.filled(length, true);
        }
        let slots: Vec<_> = batch.slots.iter().map(|slot| (slot.at.clone(), slot.left.is_ok())).collect();
        assert_eq!(
            slots,
            [(10..100, true), (110..65_645, true), (65_655..65_655, true), (65_655..65_664, false)]
        );
        while batch.room().is_some() {
            batch.filled(60_000, true);
        }
        assert_eq!(batch.slots.len(), 11);
        batch.slots.clear();
        while batch.room().is_some() {
            batch.filled(90, false);
        }
        assert_eq!(batch.slots.len(), MOST_PACKETS);
        assert_eq!(batch.slots[1].at, 90..180);
    }

    #[test]
    fn a_datagram_is_one_or_many() {
        let from = SocketAddr::from(([192, 0, 2, 1], 8285));
        let segments = |length: usize, segment| -> Vec<_> {
            Datagram { at: 50..50 + length, segment, from, tos: 0 }
                .segments()
                .map(|r| (r.start, r.len()))
                .collect()
        };
        assert_eq!(segments(25, Some(10)), [(50, 10), (60, 10), (70, 5)]);
        assert_eq!(segments(20, Some(10)), [(50, 10), (60, 10)]);
        assert_eq!(segments(20, None), [(50, 20)]);
        assert_eq!(segments(5, Some(10)), [(50, 5)]);
        assert_eq!(segments(5, Some(0)), [(50, 5)]);
        assert_eq!(segments(0, None), [(50, 0)]);
    }
}
