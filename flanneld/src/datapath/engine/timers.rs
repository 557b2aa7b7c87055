//! The timers of WireGuard's peers: handshakes that are due or were not answered, signs of life, and what waited in vain.

use std::time::{Duration, Instant};

use super::Shared;
use crate::datapath::counters::Reason;
use crate::datapath::wireguard::{LONGEST_HANDSHAKE, Peer, Wireguard};

/// Between two looks; WireGuard's own times are seconds.
const LOOK: Duration = Duration::from_millis(250);
/// New peers that are called at a look: as many as can be answered by a node that all of them call at once.
const MOST_GREETED: usize = 64;
const SECOND: Duration = Duration::from_secs(1);

/// Runs until it is time to stop.
pub(super) fn run(shared: &Shared, wireguard: &Wireguard) {
    let mut out = [0; LONGEST_HANDSHAKE];
    let mut second = Instant::now();
    // Whoever carried packets before, the peers' sessions were with him.
    wireguard.peers().iter().for_each(Peer::greet_again);
    while shared.pause(LOOK) {
        if second.elapsed() >= SECOND {
            second = Instant::now();
            wireguard.next_second();
        }
        let mut greeted = 0;
        for peer in wireguard.peers().iter() {
            let tick = peer.tick(greeted < MOST_GREETED, &mut out);
            greeted += usize::from(tick.greeted);
            shared.parts.meters.out.drop_many(Reason::Session, tick.lost as u64);
            if let Some((to, length)) = tick.send {
                // It is sent again if it is not answered, whatever became of it.
                let _ = shared.parts.udp.send(0, &out[..length], to);
            }
        }
    }
}
