//! The loop: the others' leases are followed, the own one is kept, and what somebody took away is mended. No branch waits for
//! another: that etcd is silent delays neither the end of a lease nor the mending of a route.

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
use crate::lease::keeper::Owned;
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
            let (feed, renewal) = (self.tenure.feed(), Renewal::new(self.tenure.clone(), &owned));
            let end = self.follow(feed, renewal, &mut follower, &mut owned, place).await;
            if let End::HandedOver(successor) = end {
                return Ok(successor);
            }
            // Lost: nothing is forwarded until there is another.
            self.stand_still(&owned).await;
            tracing::warn!(subnet = %owned.lease.subnets, "the lease is lost; taking it again, or another");
            let (lost, tenure) = (owned, self.tenure.clone());
            owned = match place.unless_left(insist(async || tenure.retake(&lost).await)).await {
                Ok(owned) => owned,
                Err(successor) => return Ok(successor),
            };
            if owned.lease.subnets != lost.lease.subnets {
                self.settle(&owned, &follower).await?;
            }
        }
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
                    if self.take(item, follower, owned).await {
                        return End::Lost;
                    }
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
                        feed = self.tenure.feed();
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

    /// Takes over news; whether the own lease is not ours any more by them.
    async fn take(&mut self, item: Item, follower: &mut Follower, owned: &Owned) -> bool {
        let read = Instant::now();
        let lost = absorb(item, follower, owned);
        if !lost {
            self.publish(follower, owned).await;
            self.converged(read);
        }
        lost
    }
}

/// Why the leases are followed no more.
enum End {
    /// The own one is not ours.
    Lost,
    /// Another process has the place.
    HandedOver(Successor),
}

/// Takes over news into the picture; whether the own lease is not ours any more by them.
pub(super) fn absorb(item: Item, follower: &mut Follower, owned: &Owned) -> bool {
    match item {
        Item::All(snapshot) => {
            tell(&follower.replace(&snapshot.records), owned);
            // A listing from before the lease was taken says nothing about it.
            snapshot.revision >= owned.held.mod_revision && !is_ours(follower, owned)
        }
        Item::Some(changes) => {
            let news: Vec<News> = changes.iter().flat_map(|event| follower.apply(event)).collect();
            tell(&news, owned);
            !news.is_empty() && !is_ours(follower, owned)
        }
    }
}

fn is_ours(follower: &Follower, owned: &Owned) -> bool {
    let own = follower.lease(&encode_key(&owned.lease.subnets));
    own.is_some_and(|lease| owned.is_of(&lease.public))
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
