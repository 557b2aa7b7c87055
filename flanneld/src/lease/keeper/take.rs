//! How a lease comes to this node: one that it has already is found again or claimed, else a free one is taken.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;
use tokio::time::{Instant, sleep};

use super::{CLAIM, Keeper, KeeperError, Owned};
use crate::chance;
use crate::family::{Dual, Family};
use crate::lease::allocate;
use crate::lease::follow::{older_owner, taken};
use crate::lease::holder::{self, Holding};
use crate::lease::key::{Lease, encode_key};
use crate::lease::store::{Record, Snapshot, StoreError};

/// A record of this node that is there already.
pub(super) struct Own<'a> {
    pub(super) record: &'a Record,
    pub(super) subnets: Dual<IpNetwork>,
    /// Whether it can be used as it is.
    pub(super) is_good: bool,
    /// Nothing but the machine's name says that it is this node's.
    pub(super) by_machine: bool,
}

impl Keeper {
    /// The record that this address has, or that this host has under another address, or this machine had before it was started again, if a
    /// subnet of it is one that is handed out; a good one before others. An address counts for more than a machine's name: if another host is
    /// alive that has it, that must be found out.
    pub(super) fn own_record<'a>(&self, snapshot: &'a Snapshot, machine: Option<&str>) -> Option<Own<'a>> {
        let (records, network) = (&snapshot.records, &self.settings.network);
        let fits = |(family, subnet): (Family, &IpNetwork)| {
            network.pools.get(family).is_some_and(|pool| pool.hands_out(*subnet))
        };
        let own = records.iter().filter_map(|record| {
            let lease = Lease::decode(&record.key, &record.value).ok()?;
            let holding = Holding::of(&record.value);
            let same = holding.holder.as_ref() == Some(&self.settings.holder);
            let by_machine = !same && !lease.is_of(&self.settings.public);
            if by_machine && (machine.is_none() || holding.machine.as_deref() != machine) {
                return None;
            }
            let ours = lease.subnets.iter().any(fits);
            // Whether it is good costs a look at all records: that is done for the own ones only.
            let is_good = || network.hands_out(&lease.subnets) && older_owner(records, record).is_none();
            ours.then(|| Own { record, subnets: lease.subnets, is_good: is_good(), by_machine })
        });
        own.max_by_key(|own| (own.is_good, !own.by_machine))
    }

    pub(super) async fn take_over(
        &self,
        Own { record, subnets, .. }: Own<'_>,
    ) -> Result<Option<Owned>, StoreError> {
        let owned = self.write(&self.lease(subnets), record.mod_revision, record.lease_id == 0).await?;
        if owned.is_some() {
            self.give_back(record.lease_id);
        }
        Ok(owned)
    }

    /// Asks whether the holder of a lease with this host's address or machine is alive, and takes it over if it is not. None if something else
    /// happened to it meanwhile.
    pub(super) async fn claim(
        &self,
        own: &Own<'_>,
        previous: Dual<IpNetwork>,
    ) -> Result<Option<Owned>, KeeperError> {
        let (key, before) = (&own.record.key, Holding::of(&own.record.value));
        tracing::info!(subnet = %own.subnets, "another host, or this one before it was started anew, holds a lease with this address, or of this machine: is it alive?");
        let Some(value) = holder::claimed(&own.record.value, &self.settings.holder) else { return Ok(None) };
        let Some(revision) = self.store.mark(key, &value, own.record.mod_revision).await? else {
            return Ok(None);
        };
        sleep(CLAIM).await;
        let snapshot = self.store.list().await?;
        let Some(record) = snapshot.records.iter().find(|now| now.key == *key) else { return Ok(None) };
        if record.mod_revision == revision {
            let own = Own { record, ..*own };
            return match own.is_good {
                true => Ok(self.take_over(own).await?),
                false => self.convert(&snapshot, &own, previous).await,
            };
        }
        if Holding::of(&record.value) == (Holding { claimant: None, ..before }) {
            return Err(KeeperError::Rival { ip: self.settings.public, subnets: own.subnets });
        }
        Ok(None)
    }

    /// The own lease is of other families than the network has now, or an older record has a part of it: what can stay of it stays.
    /// A reservation stays one.
    pub(super) async fn convert(
        &self,
        snapshot: &Snapshot,
        own: &Own<'_>,
        previous: Dual<IpNetwork>,
    ) -> Result<Option<Owned>, KeeperError> {
        let record = own.record;
        let others = taken(snapshot.records.iter().filter(|other| other.key != record.key));
        let wanted = Dual::of(|family| own.subnets.get(family).or(previous.get(family)).copied());
        let (lease, reserved) = (self.lease(self.choose(&others, wanted)?), record.lease_id == 0);
        let (asked, key) = (Instant::now(), encode_key(&lease.subnets));
        let ttl = if reserved { 0 } else { self.settings.ttl };
        let old = (record.key.as_str(), record.mod_revision);
        let held = self.store.replace(old, &key, &self.value(&lease), ttl).await?;
        let Some(held) = held else { return Ok(None) };
        self.give_back(record.lease_id);
        self.confirm(self.owned(lease, held, reserved, asked)).await
    }

    pub(super) async fn create(
        &self,
        snapshot: &Snapshot,
        previous: Dual<IpNetwork>,
    ) -> Result<Option<Owned>, KeeperError> {
        let lease = self.lease(self.choose(&taken(&snapshot.records), previous)?);
        let asked = Instant::now();
        let key = encode_key(&lease.subnets);
        let held = self.store.create(&key, &self.value(&lease), self.settings.ttl).await?;
        let Some(held) = held else { return Ok(None) };
        self.confirm(self.owned(lease, held, false, asked)).await
    }

    /// A subnet of each family that the network has.
    fn choose(
        &self,
        taken: &BTreeSet<IpNetwork>,
        previous: Dual<IpNetwork>,
    ) -> Result<Dual<IpNetwork>, KeeperError> {
        let mut chosen = Dual::default();
        for (family, pool) in self.settings.network.pools.iter() {
            let subnet = allocate::choose(pool, taken, previous.get(family).copied(), chance::below);
            let subnet = Some(subnet.ok_or(KeeperError::OutOfSubnets(family))?);
            match family {
                Family::V4 => chosen.v4 = subnet,
                Family::V6 => chosen.v6 = subnet,
            }
        }
        Ok(chosen)
    }

    /// A new record, if no older one has a subnet of it; else the next try puts another in its place. Nobody uses it before this is known.
    async fn confirm(&self, new: Owned) -> Result<Option<Owned>, KeeperError> {
        let (key, records) = (encode_key(&new.lease.subnets), self.store.list().await?.records);
        let own = records.iter().find(|r| r.key == key && r.mod_revision == new.held.mod_revision);
        let Some(own) = own else { return Ok(None) };
        let Some(older) = older_owner(&records, own) else { return Ok(Some(new)) };
        tracing::info!(key, older, "another node took one of these subnets first; trying others");
        Ok(None)
    }
}
