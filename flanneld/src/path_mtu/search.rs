//! What is known of the way to one peer, and what is asked to know more. Pure: what was heard and the time in, sizes to ask out.
//!
//! A size is asked by an echo request of that length, which may not be fragmented on the way (RFC 8899: a search for the packet
//! size that gets through, that trusts no router to tell). First the largest packet alone; if it is not answered, all sizes of a
//! ladder, so that small ones that come back stand beside large ones that don't. What a router tells (RFC 1191) is believed at
//! once, as it is nearly always right and packets are being lost, and then tested in the same way: a lie lasts for a moment.
//!
//! ```text
//!  Rest ── first use, or some time after ──► Asking: [largest] ─ all sizes ─ all ─ all ─► Rest, with what was found
//!    └───────────── a router tells ────────────▲ │
//!                                                └─ the largest is answered ──► Rest: nothing limits
//! ```

use std::time::{Duration, Instant};

/// The outer IPv4 and UDP headers.
pub const OVERHEAD: u32 = 28;
/// No way is taken for narrower than this inner packet: each host has to take an outer one of 576 bytes (RFC 791 section 3.2).
pub const LEAST: u32 = 576 - OVERHEAD;
/// Outer MTUs that there are in the field, and some between them: Ethernet and its jumbo frames, PPPoE, GRE, cloud networks, VXLAN,
/// WireGuard, IPv6's minimum.
const LADDER: [u32; 21] = [
    9000, 8950, 8500, 4352, 2048, 1500, 1492, 1480, 1476, 1460, 1450, 1440, 1420, 1400, 1380, 1350, 1300,
    1280, 1200, 1024, 576,
];
/// So long an answer is waited for before it is asked again. One that comes later counts as well.
pub const WAIT: Duration = Duration::from_millis(250);
/// The largest size is asked so often; the others once less (RFC 8899's MAX_PROBES).
const ROUNDS: u8 = 4;
/// After so long a limit is put to the test again: the kernel forgets its own then, too (RFC 1191 section 6.3).
const RAISE: Duration = Duration::from_secs(600);
/// After so long a way that limits nothing is, if large packets go there: it may lead elsewhere by now.
const CONFIRM: Duration = Duration::from_secs(60);
/// So long nobody is believed who tells otherwise than an answer just did.
const PROVEN: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Clone)]
pub struct Search {
    /// The largest packet that the interface takes.
    full: u32,
    /// The largest packet that gets through, if that is less.
    limit: Option<u32>,
    /// What a router told, until an answer tells better.
    told: Option<u32>,
    /// When the largest packet was last answered.
    proven: Option<Instant>,
    /// The largest packet that was sent since it was last asked.
    largest: u32,
    /// The last factor that spreads times.
    chance: f64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Until then nothing is asked.
    Rest(Until),
    /// A round of questions went out then; the largest size that was answered.
    Asking { round: u8, since: Instant, best: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// The first packet.
    Used,
    /// A time; then, large packets.
    Time(Instant),
    /// At once.
    Now,
}

impl Search {
    /// Of a way by which nothing went yet.
    pub fn new(full: u32) -> Search {
        let state = State::Rest(Until::Used);
        Search { full, limit: None, told: None, proven: None, largest: 0, chance: 1.0, state }
    }

    /// The largest packet that gets through, if that is less than the interface takes.
    pub fn limit(&self) -> Option<u32> {
        self.limit
    }

    /// Whether answers are waited for.
    pub fn is_asking(&self) -> bool {
        matches!(self.state, State::Asking { .. })
    }

    /// Time has passed, and packets of up to `largest` bytes were sent meanwhile (0: none). Which sizes to ask. `chance` is
    /// about 1 and spreads the times at which it is asked again.
    pub fn tick(&mut self, full: u32, largest: u32, now: Instant, chance: f64) -> Vec<u32> {
        if full != self.full {
            *self = Search::new(full);
        }
        self.largest = self.largest.max(largest);
        self.chance = chance;
        match self.state {
            State::Rest(until) if !self.is_due(until, now) => Vec::new(),
            State::Rest(_) => {
                self.largest = 0;
                self.state = State::Asking { round: 1, since: now, best: 0 };
                vec![self.full]
            }
            State::Asking { since, .. } if now < since + WAIT => Vec::new(),
            State::Asking { round, best, .. } if round >= ROUNDS => {
                self.conclude(best, now);
                Vec::new()
            }
            State::Asking { round, best, .. } => {
                self.state = State::Asking { round: round + 1, since: now, best };
                self.sizes().filter(|size| *size > best).collect()
            }
        }
    }

    /// A packet of this size was answered.
    pub fn answered(&mut self, size: u32, now: Instant) {
        if size >= self.full {
            // It gets through, whatever anybody tells.
            (self.limit, self.told, self.proven) = (None, None, Some(now));
            self.state = State::Rest(Until::Time(now + CONFIRM.mul_f64(self.chance)));
        } else if let State::Asking { best, .. } = &mut self.state {
            *best = size.max(*best);
        }
        if self.limit.is_some_and(|limit| limit < size) {
            self.limit = Some(size);
        }
    }

    /// A router tells that packets of more than `mtu` bytes (inner ones) don't get through; whether it is believed.
    pub fn told(&mut self, mtu: u32, now: Instant) -> bool {
        let mtu = mtu.max(LEAST);
        let disproved = self.proven.is_some_and(|proven| now < proven + PROVEN);
        if mtu >= self.limit.unwrap_or(self.full) || disproved {
            return false;
        }
        (self.limit, self.told) = (Some(mtu), Some(mtu));
        if !self.is_asking() {
            self.state = State::Rest(Until::Now);
        }
        true
    }

    fn is_due(&self, until: Until, now: Instant) -> bool {
        match until {
            Until::Now => true,
            Until::Used => self.largest > 0,
            Until::Time(time) => now >= time && (self.largest > LEAST || self.limit.is_some()),
        }
    }

    /// All that is asked, the largest first.
    fn sizes(&self) -> impl Iterator<Item = u32> + use<> {
        let (full, told) = (self.full, self.told);
        let ladder = LADDER.iter().map(|outer| outer - OVERHEAD).filter(move |size| *size < full);
        std::iter::once(full).chain(told).chain(ladder)
    }

    /// Takes over what was found. That nothing was answered says nothing: some hosts answer no echo.
    fn conclude(&mut self, best: u32, now: Instant) {
        if best > 0 {
            (self.limit, self.told) = (Some(best), None);
        } else if self.told.take().is_none() && self.limit.is_some() {
            // Tested when its time was over, and nobody answers any more: as the kernel does, it is forgotten.
            self.limit = None;
        }
        let pause = if self.limit.is_some() { RAISE } else { CONFIRM };
        self.state = State::Rest(Until::Time(now + pause.mul_f64(self.chance)));
    }
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
