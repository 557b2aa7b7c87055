//! The programs' maps: written by difference, and read for what was carried.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError, PerCpuArray, PerCpuHashMap};

use super::layout::{Lease, Peer, Traffic};
use crate::datapath::counters::{Meters, Reason};
use crate::route::traffic::{Count, Ledger};

/// The only key of the map `lease`.
const ONLY: u32 = 0;

/// The reasons that `bpf/fastpath.c` counts, in its order, and whether they are of the way out.
const REASONS: [(bool, Reason); 6] = [
    (false, Reason::Ttl),
    (false, Reason::Sender),
    (false, Reason::Destination),
    (false, Reason::Congestion),
    (true, Reason::Send),
    (false, Reason::Send),
];

/// See the module.
pub(super) struct Maps {
    lease: HashMap<MapData, u32, Lease>,
    peers: HashMap<MapData, u32, Peer>,
    traffic: PerCpuHashMap<MapData, u32, Traffic>,
    drops: PerCpuArray<MapData, u64>,
    /// What is in `peers`, and in `traffic` as it was last read.
    held: BTreeMap<u32, (Peer, Traffic)>,
    dropped: [u64; REASONS.len()],
    /// Carried for subnets that are gone, or since the last reading, and not told yet.
    untold: Traffic,
    /// The largest packet.
    mtu: usize,
}

impl std::fmt::Debug for Maps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maps").field("held", &self.held.len()).finish_non_exhaustive()
    }
}

impl Maps {
    pub(super) fn take(object: &mut Ebpf) -> Result<Maps, MapError> {
        let mut map =
            |name: &str| object.take_map(name).ok_or_else(|| MapError::InvalidName { name: name.to_owned() });
        Ok(Maps {
            lease: HashMap::try_from(map("lease")?)?,
            peers: HashMap::try_from(map("peers")?)?,
            traffic: PerCpuHashMap::try_from(map("traffic")?)?,
            drops: PerCpuArray::try_from(map("drops")?)?,
            held: BTreeMap::new(),
            dropped: [0; REASONS.len()],
            untold: Traffic::default(),
            mtu: 0,
        })
    }

    /// The lease goes last: nothing is carried for it with an earlier one's peers.
    pub(super) fn publish(&mut self, lease: Lease, peers: BTreeMap<u32, Peer>) -> Result<(), MapError> {
        let gone: Vec<u32> = self.held.keys().filter(|key| !peers.contains_key(key)).copied().collect();
        for key in gone {
            gone_is_fine(self.peers.remove(&key))?;
            self.read(key, None)?;
            gone_is_fine(self.traffic.remove(&key))?;
            self.held.remove(&key);
        }
        for (key, peer) in peers {
            let before = self.held.get(&key).copied();
            if before.is_none() {
                let none = vec![Traffic::default(); aya::util::nr_cpus().map_or(1, |count| count)];
                self.traffic.insert(key, none.try_into().map_err(MapError::from)?, 0)?;
            }
            if before.is_none_or(|(before, _)| before != peer) {
                self.peers.insert(key, peer, 0)?;
                self.held.insert(key, (peer, before.map_or_else(Traffic::default, |(_, traffic)| traffic)));
            }
        }
        self.mtu = lease.mtu as usize;
        self.lease.insert(ONLY, lease, 0)
    }

    pub(super) fn withdraw(&mut self) -> Result<(), MapError> {
        gone_is_fine(self.lease.remove(&ONLY))
    }

    /// Reads what was carried to and from a subnet, and adds it to its owner's numbers.
    fn read(&mut self, key: u32, ledger: Option<&Ledger>) -> Result<(), MapError> {
        let now = self.traffic.get(&key, 0)?.iter().copied().fold(Traffic::default(), Traffic::and);
        let Some((peer, before)) = self.held.get_mut(&key) else { return Ok(()) };
        let new = now.since(std::mem::replace(before, now));
        self.untold = self.untold.and(new);
        if let Some(ledger) = ledger.filter(|_| new != Traffic::default()) {
            let peer = ledger.of(Ipv4Addr::from(u32::from_be(peer.next_hop)).into());
            peer.out.add(Count { packets: new.out_packets, bytes: new.out_bytes });
            peer.into.add(Count { packets: new.in_packets, bytes: new.in_bytes });
            if new.out_packets > 0 {
                // Of which length is not counted; the longest is what one wants to know of.
                peer.way.used(self.mtu);
            }
        }
        Ok(())
    }

    fn fold(&mut self, meters: &Meters) -> Result<(), MapError> {
        let Meters { out, into, peers, .. } = meters;
        let keys: Vec<u32> = self.held.keys().copied().collect();
        keys.into_iter().try_for_each(|key| self.read(key, Some(peers)))?;
        let Traffic { out_packets, out_bytes, in_packets, in_bytes } = std::mem::take(&mut self.untold);
        out.carried(out_packets, out_bytes);
        into.carried(in_packets, in_bytes);
        out.fast.inc_by(out_packets);
        into.fast.inc_by(in_packets);
        for (number, (outward, reason)) in REASONS.iter().enumerate() {
            let now: u64 = self.drops.get(&(number as u32), 0)?.iter().sum();
            let counters = if *outward { out } else { into };
            counters.drop_many(*reason, now.saturating_sub(self.dropped[number]));
            self.dropped[number] = now;
        }
        Ok(())
    }
}

fn gone_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// What the programs carried; cheap to clone. Nothing where there are none.
#[derive(Debug, Clone, Default)]
pub struct Carried(Option<Arc<Mutex<Maps>>>);

impl Carried {
    pub(super) fn of(maps: Arc<Mutex<Maps>>) -> Carried {
        Carried(Some(maps))
    }

    /// Adds to the numbers what was carried and dropped since the last time.
    pub fn fold(&self, meters: &Meters) {
        let Some(maps) = &self.0 else { return };
        if let Err(error) = maps.lock().unwrap_or_else(PoisonError::into_inner).fold(meters) {
            tracing::debug!("the programs' counters cannot be read: {error}");
        }
    }
}
