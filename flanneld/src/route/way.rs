//! What the data path has to know of the way to a peer, and what it tells of it: numbers in the table's entry, without a lock.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

/// The way to one peer. It has a cache line for itself: it is read for each packet and seldom written.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Way {
    /// 0: none.
    limit: AtomicU32,
    largest: AtomicU32,
    takes_marks: AtomicBool,
}

impl Way {
    /// The largest inner packet that gets through, if that is less than the interface takes.
    pub fn limit(&self) -> Option<usize> {
        let limit = self.limit.load(Relaxed);
        (limit != 0).then_some(limit as usize)
    }

    /// Sets it.
    pub fn set_limit(&self, limit: Option<u32>) {
        self.limit.store(limit.unwrap_or(0), Relaxed);
    }

    /// A packet of this length was sent. Written only when it is longer than those before.
    pub fn used(&self, length: usize) {
        let length = length as u32;
        if length > self.largest.load(Relaxed) {
            self.largest.store(length, Relaxed);
        }
    }

    /// The longest packet that was sent since this was last asked; 0: none. A super-packet counts as one.
    pub fn take_largest(&self) -> u32 {
        if self.largest.load(Relaxed) == 0 { 0 } else { self.largest.swap(0, Relaxed) }
    }

    /// Whether the peer takes over marks of congestion from the outer packet (RFC 6040).
    pub fn takes_marks(&self) -> bool {
        self.takes_marks.load(Relaxed)
    }

    /// Says so.
    pub fn set_takes_marks(&self, takes: bool) {
        self.takes_marks.store(takes, Relaxed);
    }
}
