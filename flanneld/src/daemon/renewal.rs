//! When the own lease is renewed, and what came of it.

use futures::future::BoxFuture;
use tokio::time::{Instant, sleep_until, timeout};

use super::source::Tenure;
use super::told::Told;
use super::{PATIENCE, RETRY, jittered};
use crate::lease::keeper::Owned;
use crate::lease::store::StoreError;

/// Renews a lease again and again.
pub(super) struct Renewal {
    tenure: Tenure,
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
    pub(super) fn new(tenure: impl Into<Tenure>, owned: &Owned) -> Renewal {
        let tenure = tenure.into();
        let state = State::Resting(tenure.due(owned));
        Renewal { tenure, state, told: Told::default() }
    }

    /// Does not wait until it is due.
    pub(super) fn at_once(&mut self) {
        if matches!(self.state, State::Resting(_)) {
            self.state = State::Resting(Some(Instant::now()));
        }
    }

    /// The lease as it is renewed; none if it is not ours any more. As long as etcd is away it is asked again. It may be dropped
    /// half-way and called again.
    pub(super) async fn next(&mut self, owned: &Owned) -> Option<Owned> {
        loop {
            match &mut self.state {
                State::Resting(due) => {
                    wait_until(*due).await;
                    let (tenure, owned) = (self.tenure.clone(), owned.clone());
                    self.state = State::Asking(Box::pin(async move {
                        let silent = |_| Err(StoreError::Unavailable("it does not answer".to_owned()));
                        timeout(PATIENCE, tenure.renew(&owned)).await.unwrap_or_else(silent)
                    }));
                }
                State::Asking(answer) => match answer.await {
                    Ok(renewed) => {
                        self.told.over();
                        self.state =
                            State::Resting(renewed.as_ref().and_then(|owned| self.tenure.due(owned)));
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
