//! Where leases come from: etcd, where they are taken and kept, or Kubernetes, which gives each node its own. What follows them, and what a
//! lease means on this host, knows no difference.

use std::fs;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use ipnetwork::IpNetwork;
use tokio::time::{Instant, sleep, timeout};

use super::feed::Feed;
use super::told::Told;
use super::{RETRY, jittered};
use crate::backend::BackendKind;
use crate::config::network::NetworkConfig;
use crate::config::{Config, Leases};
use crate::family::Dual;
use crate::lease::etcd::Etcd;
use crate::lease::follow::Follower;
use crate::lease::keeper::{Keeper, KeeperError, Owned, Passed, Settings};
use crate::lease::kube::{Nodes, SYNC};
use crate::lease::observed::{Health, Observed};
use crate::lease::store::{LeaseStore, Record, StoreError};

/// Before it is known what this node tells the others.
pub(super) enum Source {
    Etcd(Arc<dyn LeaseStore>),
    Kube(Nodes),
}

/// The own lease, and news of the others'.
#[derive(Clone)]
pub(super) enum Tenure {
    Etcd(Keeper),
    Kube(Nodes, Settings),
}

impl Source {
    /// The one that the flags name.
    pub(super) async fn open(leases: &Leases, health: Health) -> Result<Source> {
        match leases {
            Leases::Etcd(access) => {
                let etcd: Arc<dyn LeaseStore> = Arc::new(Etcd::connect(access).await?);
                Ok(Source::Etcd(Arc::new(Observed::new(etcd, health))))
            }
            Leases::Kube(access) => {
                let client = Nodes::client(access).await?;
                let open = async || Nodes::open(client.clone(), access.clone(), health.clone()).await;
                let nodes = until_told("cannot find out which node this is", open).await;
                tracing::info!(node = nodes.own_name(), "subnets come from Kubernetes' nodes");
                Ok(Source::Kube(nodes))
            }
        }
    }

    /// The network's configuration; in etcd it is waited for.
    pub(super) async fn network(&self) -> Result<NetworkConfig> {
        match self {
            Source::Etcd(store) => {
                let read = async || {
                    let missing = "there is no network config in etcd yet: put {\"Network\":\"10.42.0.0/16\"} at <prefix>/config";
                    store.config().await?.ok_or_else(|| StoreError::Unavailable(missing.to_owned()))
                };
                let text = until_told("couldn't fetch network config", read).await;
                let network = NetworkConfig::parse(&text).and_then(NetworkConfig::require_ipv4);
                network.context("the network config in etcd cannot be used")
            }
            Source::Kube(nodes) => {
                let path = &nodes.access().net_config;
                let text = fs::read_to_string(path).with_context(|| {
                    format!("cannot read the net config {} (--net-config-path)", path.display())
                })?;
                let network = NetworkConfig::parse_assigned(&text);
                network.with_context(|| format!("the net config {} cannot be used", path.display()))
            }
        }
    }

    /// The addresses by which others reach this host, where somebody said them: by flag, or by an annotation of the node.
    pub(super) async fn public(&self, config: &Config) -> Dual<IpAddr> {
        match self {
            Source::Kube(nodes) if config.public.is_empty() => {
                until_told("cannot read this node's annotations", async || nodes.public().await).await
            }
            _ => config.public,
        }
    }

    /// The leases that are there now, the own one of the last time among them under the address that this host has now; asked for until they
    /// are told.
    pub(super) async fn leases(&self, network: &NetworkConfig, public: Dual<IpAddr>) -> Follower {
        let mut follower = Follower::new(network.clone());
        let what = "cannot list the leases";
        let records: Vec<Record> = match self {
            Source::Etcd(store) => {
                until_told(what, async || Ok::<_, StoreError>(store.list().await?.records)).await
            }
            Source::Kube(nodes) => {
                let own = until_told(what, async || nodes.own_record(public).await).await;
                let list = async || Ok::<_, StoreError>(nodes.list().await?.0.records());
                let listed = match () {
                    () if network.backend == BackendKind::Alloc => Some(Vec::new()),
                    () if nodes.access().begin_alone => timeout(SYNC, until_told(what, list)).await.ok(),
                    () => Some(until_told(what, list).await),
                };
                let others = listed.unwrap_or_else(|| {
                    tracing::warn!("the nodes can't be listed; beginning without them");
                    Vec::new()
                });
                let is_own = |record: &Record| own.as_ref().is_some_and(|own| own.key == record.key);
                let others: Vec<Record> = others.into_iter().filter(|record| !is_own(record)).collect();
                own.iter().cloned().chain(others).collect()
            }
        };
        follower.replace(&records);
        follower
    }

    /// For a node that tells the others this.
    pub(super) fn tenure(self, settings: Settings) -> Tenure {
        match self {
            Source::Etcd(store) => Tenure::Etcd(Keeper::new(store, settings)),
            Source::Kube(nodes) => Tenure::Kube(nodes, settings),
        }
    }
}

impl Tenure {
    /// Takes the own lease, or what is given.
    pub(super) async fn acquire(&self, previous: Dual<IpNetwork>) -> Result<Owned, KeeperError> {
        match self {
            Tenure::Etcd(keeper) => keeper.acquire(previous).await,
            Tenure::Kube(nodes, settings) => nodes.acquire(settings).await,
        }
    }

    /// The same in place of one that was lost.
    pub(super) async fn retake(&self, lost: &Owned) -> Result<Owned, KeeperError> {
        match self {
            Tenure::Etcd(keeper) => keeper.retake(lost).await,
            Tenure::Kube(nodes, settings) => nodes.acquire(settings).await,
        }
    }

    /// Goes on with the lease of another process of this host. Kubernetes is asked anew.
    pub(super) fn adopt(&self, passed: &Passed, asked: Instant) -> Option<Owned> {
        match self {
            Tenure::Etcd(keeper) => keeper.adopt(passed, asked),
            Tenure::Kube(..) => None,
        }
    }

    /// Who keeps the own lease, if it is not given.
    pub(super) fn keeper(&self) -> Option<&Keeper> {
        match self {
            Tenure::Etcd(keeper) => Some(keeper),
            Tenure::Kube(..) => None,
        }
    }

    /// News of all leases.
    pub(super) fn feed(&self, owned: &Owned) -> Feed {
        match self {
            Tenure::Etcd(keeper) => Feed::new(keeper.store(), owned.held.mod_revision),
            Tenure::Kube(nodes, settings) => {
                let (nodes, alone) = (nodes.clone(), settings.network.backend == BackendKind::Alloc);
                Feed::of(Box::new(move || {
                    let nodes = nodes.clone();
                    Box::pin(async move {
                        if alone { nodes.subscribe_alone().await } else { nodes.subscribe().await }
                    })
                }))
            }
        }
    }

    /// Renews the own lease; none if it is not ours any more. What Kubernetes gave is told to the others again.
    pub(super) async fn renew(&self, owned: &Owned) -> Result<Option<Owned>, StoreError> {
        match self {
            Tenure::Etcd(keeper) => keeper.renew(owned).await,
            Tenure::Kube(nodes, settings) => match nodes.acquire(settings).await {
                Ok(again) => Ok((again.lease.subnets == owned.lease.subnets).then_some(again)),
                Err(KeeperError::Store(error)) => Err(error),
                Err(error) => Err(StoreError::Unavailable(error.to_string())),
            },
        }
    }

    /// When the own lease is due to be renewed.
    pub(super) fn due(&self, owned: &Owned) -> Option<Instant> {
        match self {
            Tenure::Etcd(keeper) => keeper.due(owned),
            Tenure::Kube(..) => None,
        }
    }

    /// Others are told these addresses from now on.
    pub(super) fn move_to(&mut self, public: Dual<IpAddr>) {
        match self {
            Tenure::Etcd(keeper) => keeper.move_to(public),
            Tenure::Kube(_, settings) => settings.public = public,
        }
    }

    /// The same lease, to say what this host wants to be said of it now. What Kubernetes' node says is known when it is asked.
    pub(super) fn reword(&self, owned: Owned) -> Owned {
        match self {
            Tenure::Etcd(keeper) => keeper.reword(owned),
            Tenure::Kube(..) => owned,
        }
    }

    /// This host is reached elsewhere now; whether the others must be told so by a renewal at once.
    pub(super) async fn moved(&self) -> bool {
        match self {
            Tenure::Etcd(keeper) => {
                keeper.store().reconnect().await;
                false
            }
            Tenure::Kube(..) => true,
        }
    }

    /// Tells whoever waits for it that this node's network is there; goes on trying beside everything else.
    pub(super) fn announce(&self) {
        if let Tenure::Kube(nodes, _) = self {
            let nodes = nodes.clone();
            tokio::spawn(async move {
                let mut told = Told::default();
                while let Err(error) = nodes.announce().await {
                    told.once(&error, |error| {
                        tracing::warn!("cannot set the condition NetworkUnavailable: {error}");
                    });
                    sleep(jittered(RETRY)).await;
                }
            });
        }
    }
}

impl From<Keeper> for Tenure {
    fn from(keeper: Keeper) -> Tenure {
        Tenure::Etcd(keeper)
    }
}

/// Asks until there is an answer; a problem that stays the same is told once.
async fn until_told<T, E: std::fmt::Display>(what: &str, ask: impl AsyncFn() -> Result<T, E>) -> T {
    let mut told = Told::default();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => told.once(&error, |error| tracing::warn!("{what}: {error}")),
        }
        sleep(jittered(RETRY)).await;
    }
}
