//! The loop: the others' leases are followed, the own one is kept, and what somebody took away is mended. No branch waits for
//! another: that etcd is silent delays neither the end of a lease nor the mending of a route.

use std::pin::pin;
use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::feed::{Feed, Item};
use super::insist;
use super::node::{Look, Node};
use super::place::Place;
use super::renewal::{Renewal, wait_until};
use super::succession::Successor;
use crate::lease::follow::{Follower, News};
use crate::lease::keeper::{Keeper, Owned};
use crate::lease::key::encode_key;

/// Between two looks at whether something is to be mended. A look that finds nothing costs two system calls or three.
const LOOK: Duration = Duration::from_secs(1);
/// So much of a damaged record's key is logged.
const LOGGED_KEY: usize = 80;

impl Node {
    /// Follows the others and keeps the own lease, until another process has taken the place.
    pub(super) async fn keep(
        &mut self,
        mut owned: Owned,
        mut follower: Follower,
        place: &mut Place,
    ) -> Result<Successor> {
        loop {
            let (feed, renewal) = (self.tenure.feed(&owned), Renewal::new(self.tenure.clone(), &owned));
            let end = self.follow(feed, renewal, &mut follower, &mut owned, place).await;
            let lost = owned;
            let replaced = match end {
                End::HandedOver(successor) => return Ok(successor),
                End::Lost => self.replace(&lost, None, place).await,
                End::Doubtful => self.replace(&lost, lost.safe_until(), place).await,
            };
            owned = match replaced {
                Ok(owned) => owned,
                Err(successor) => return Ok(successor),
            };
            if owned.lease.subnets != lost.lease.subnets {
                self.equip(&owned).await?;
            }
        }
    }

    /// A lease in place of one that is lost, or that the store may not know any more. Until then nothing is forwarded; `until` then, it
    /// is forwarded as before.
    async fn replace(
        &mut self,
        lost: &Owned,
        until: Option<Instant>,
        place: &mut Place,
    ) -> Result<Owned, Successor> {
        let tenure = self.tenure.clone();
        let mut asked = pin!(insist(async || tenure.retake(lost).await));
        if until.is_some() {
            tokio::select! {
                replaced = place.unless_left(asked.as_mut()) => return replaced,
                () = wait_until(until) => {}
            }
        }
        self.stand_still(lost).await;
        tracing::warn!(subnet = %lost.lease.subnets, "the lease is lost; taking it again, or another");
        place.unless_left(asked).await
    }

    /// Until the own lease is not ours any more, or another process has the place. While etcd is away the routes stay as they are.
    async fn follow(
        &mut self,
        mut feed: Feed,
        mut renewal: Renewal,
        follower: &mut Follower,
        owned: &mut Owned,
        place: &mut Place,
    ) -> End {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                item = feed.next() => {
                    let read = Instant::now();
                    match absorb(item, follower, owned, self.tenure.keeper()) {
                        Fate::Ours => {}
                        Fate::Claimed => renewal.at_once(),
                        Fate::Lost => return End::Lost,
                        Fate::Doubtful => return End::Doubtful,
                    }
                    self.publish(follower, owned).await;
                    self.converged(read);
                }
                renewed = renewal.next(owned) => match renewed {
                    Some(renewed) => {
                        self.reword(renewed, owned, &mut renewal);
                        self.publish(follower, owned).await;
                    }
                    None => return End::Lost,
                },
                () = wait_until(owned.safe_until()) => return End::Lost,
                mut successor = place.successor() => {
                    if self.hand_over(place, &mut successor, owned).await {
                        return End::HandedOver(successor);
                    }
                    let _ = self.look(owned).await;
                }
                _ = look.tick() => {
                    if self.look(owned).await == Look::Moved {
                        let tell = self.tenure.moved().await;
                        feed = self.tenure.feed(owned);
                        renewal = Renewal::new(self.tenure.clone(), owned);
                        if tell {
                            renewal.at_once();
                        }
                        self.reword(owned.clone(), owned, &mut renewal);
                        self.publish(follower, owned).await;
                    }
                }
            }
        }
    }

    /// The lease is this one now. If it does not say what it should it is written again at once.
    fn reword(&self, from: Owned, owned: &mut Owned, renewal: &mut Renewal) {
        *owned = self.tenure.reword(from);
        if owned.is_outdated() {
            renewal.at_once();
        }
    }
}

/// Why the leases are followed no more.
enum End {
    /// The own one is not ours.
    Lost,
    /// The store may not know that it is ours.
    Doubtful,
    /// Another process has the place.
    HandedOver(Successor),
}

/// What news say of the own lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is ours as before.
    Ours,
    /// It is ours, and another host with our address asks whether we are alive.
    Claimed,
    /// It is not ours any more.
    Lost,
    /// The store was set back to before it was last written: it may be somebody else's by now, or nobody's.
    Doubtful,
}

/// Takes over news into the picture.
pub(super) fn absorb(
    item: Item,
    follower: &mut Follower,
    owned: &mut Owned,
    keeper: Option<&Keeper>,
) -> Fate {
    let newsworthy = match item {
        Item::Back(snapshot) => {
            tracing::warn!(
                revision = snapshot.revision,
                "etcd was set back to an earlier state; asserting the lease"
            );
            tell(&follower.replace(&snapshot.records), owned);
            return Fate::Doubtful;
        }
        Item::All(snapshot) => {
            tell(&follower.replace(&snapshot.records), owned);
            // A listing from before the lease was renewed says nothing about it.
            snapshot.revision >= owned.held.mod_revision
        }
        Item::Some(changes) => {
            let news: Vec<News> = changes.iter().flat_map(|event| follower.apply(event)).collect();
            tell(&news, owned);
            !news.is_empty()
        }
    };
    let key = encode_key(&owned.lease.subnets);
    if follower.lease(&key).is_none_or(|lease| !owned.is_of(&lease.public)) {
        return if newsworthy { Fate::Lost } else { Fate::Ours };
    }
    // In Kubernetes a node is given its subnets, and nobody claims them.
    let Some(keeper) = keeper else { return Fate::Ours };
    match follower.holding(&key) {
        Some((holding, revision)) if revision > owned.held.mod_revision && !keeper.holds(holding) => {
            Fate::Lost
        }
        Some((holding, revision)) if keeper.answer(owned, holding, revision) => Fate::Claimed,
        _ => Fate::Ours,
    }
}

fn tell(news: &[News], owned: &Owned) {
    for item in news {
        match item {
            News::Set(lease) | News::Gone(lease) if lease.subnets == owned.lease.subnets => {}
            News::Set(lease) => {
                tracing::info!(subnet = %lease.subnets, via = %lease.public, "subnet added");
            }
            News::Gone(lease) => {
                tracing::info!(subnet = %lease.subnets, via = %lease.public, "subnet removed");
            }
            News::Bad(key, error) => {
                let key: String = key.chars().take(LOGGED_KEY).collect();
                tracing::warn!(key, "a record under the leases is damaged and is left out: {error}");
            }
        }
    }
}
