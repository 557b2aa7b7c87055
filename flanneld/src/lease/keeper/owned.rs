//! A lease that is ours, and how long; and as it is left to the next process.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::family::Dual;
use crate::lease::key::{Lease, encode_key};
use crate::lease::store::Held;

/// A lease that is ours.
#[derive(Debug, Clone)]
pub struct Owned {
    /// What it says.
    pub lease: Lease,
    /// What it hangs on.
    pub held: Held,
    /// Written without an end by somebody who wanted this node to have it (a reservation): it is not renewed.
    pub reserved: bool,
    /// What it says in the store, if that is something else: it is written anew as soon as can be.
    pub(super) told: Option<Lease>,
    pub(super) asked: Instant,
    pub(super) ttl: Duration,
}

/// A lease as one process leaves it to the next.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Passed {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) mod_revision: i64,
    pub(super) lease_id: i64,
    pub(super) reserved: bool,
    /// Since it was asked for.
    pub(super) age: Duration,
    pub(super) ttl: Duration,
}

impl Owned {
    /// One that Kubernetes assigned: nobody else gets it as long as the node is there.
    pub fn assigned(lease: Lease, mod_revision: i64) -> Owned {
        let held = Held { mod_revision, lease_id: 0 };
        Owned { lease, held, reserved: true, told: None, asked: Instant::now(), ttl: Duration::ZERO }
    }

    /// When it was asked for: taken or renewed.
    pub fn asked(&self) -> Instant {
        self.asked
    }

    /// When it ends in the store, at the earliest; none: never.
    pub fn end(&self) -> Option<Instant> {
        (!self.reserved).then(|| self.asked + self.ttl)
    }

    /// Until when it is certainly ours: its end, counted from before it was asked for, less a tenth for clocks that drift.
    pub fn safe_until(&self) -> Option<Instant> {
        (!self.reserved).then(|| self.asked + self.ttl.mul_f64(0.9))
    }

    /// Whether it says something else in the store than it should.
    pub fn is_outdated(&self) -> bool {
        self.told.is_some()
    }

    /// Whether these are this host's addresses, under which it is known or was until now.
    pub fn is_of(&self, node: &Dual<IpAddr>) -> bool {
        self.lease.is_of(node) || self.told.as_ref().is_some_and(|told| told.is_of(node))
    }

    /// For the process that takes this one's place.
    pub fn pass(&self) -> Passed {
        let told = self.told.as_ref().unwrap_or(&self.lease);
        Passed {
            key: encode_key(&told.subnets),
            value: told.encode(),
            mod_revision: self.held.mod_revision,
            lease_id: self.held.lease_id,
            reserved: self.reserved,
            age: self.asked.elapsed(),
            ttl: self.ttl,
        }
    }
}
