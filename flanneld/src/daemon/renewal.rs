//! When the own lease is renewed, and what came of it.

use futures::future::BoxFuture;
use tokio::time::{Instant, sleep_until, timeout};

use super::told::Told;
use super::{PATIENCE, RETRY, jittered};
use crate::lease::keeper::{Keeper, Owned};
use crate::lease::store::StoreError;

/// Renews a lease again and again.
pub(super) struct Renewal {
    /// None: nothing is to be renewed.
    keeper: Option<Keeper>,
    state: State,
    told: Told,
}

enum State {
    /// Not due; a reservation never is.
    Resting(Option<Instant>),
    /// Asked.
    Asking(BoxFuture<'static, Result<Option<Owned>, StoreError>>),
}

impl Renewal {
    /// Of this lease.
    pub(super) fn new(keeper: Keeper, owned: &Owned) -> Renewal {
        let state = State::Resting(keeper.due(owned));
        Renewal { keeper: Some(keeper), state, told: Told::default() }
    }

    /// Of what lasts by itself.
    pub(super) fn never() -> Renewal {
        Renewal { keeper: None, state: State::Resting(None), told: Told::default() }
    }

    /// The lease as it is renewed; none if it is not ours any more. As long as etcd is away it is asked again. It may be dropped
    /// half-way and called again.
    pub(super) async fn next(&mut self, owned: &Owned) -> Option<Owned> {
        let Some(keeper) = &self.keeper else { return std::future::pending().await };
        loop {
            match &mut self.state {
                State::Resting(due) => {
                    wait_until(*due).await;
                    let (keeper, owned) = (keeper.clone(), owned.clone());
                    self.state = State::Asking(Box::pin(async move {
                        let silent = |_| Err(StoreError::Unavailable("etcd does not answer".to_owned()));
                        timeout(PATIENCE, keeper.renew(&owned)).await.unwrap_or_else(silent)
                    }));
                }
                State::Asking(answer) => match answer.await {
                    Ok(renewed) => {
                        self.told.over();
                        self.state = State::Resting(renewed.as_ref().and_then(|owned| keeper.due(owned)));
                        return renewed;
                    }
                    Err(error) => {
                        self.told
                            .once(&error, |error| tracing::warn!("the lease cannot be renewed now: {error}"));
                        self.state = State::Resting(Some(Instant::now() + jittered(RETRY)));
                    }
                },
            }
        }
    }
}

/// Waits for a moment; for ever if there is none.
pub(super) async fn wait_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
