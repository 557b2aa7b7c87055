//! What the runtime has of one pod.

use crate::runtime::{Container, ContainerState, ContainerStatus, Runtime, RuntimeError, Sandbox};
use std::collections::HashMap;
use std::net::IpAddr;

/// A container with its sandbox.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// ID of its sandbox.
    pub(crate) sandbox_id: String,
    /// How it is.
    pub(crate) status: ContainerStatus,
}

/// A pod's sandboxes and containers, the newest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    /// Sandboxes, the newest first.
    pub(crate) sandboxes: Vec<Sandbox>,
    /// Containers, the newest first.
    pub(crate) containers: Vec<Seen>,
    /// Addresses of the newest ready sandbox; none in the host's network.
    pub(crate) ips: Vec<IpAddr>,
}

impl Observed {
    /// The newest sandbox in which containers can be started.
    pub(crate) fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.iter().find(|s| s.ready)
    }

    /// The containers of this name, the newest first.
    pub(crate) fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Seen> {
        self.containers.iter().filter(move |c| c.status.name == name)
    }

    /// The newest container of this name.
    pub(crate) fn latest(&self, name: &str) -> Option<&Seen> {
        self.containers.iter().find(|c| c.status.name == name)
    }

    /// The newest container of this name in one sandbox.
    pub(crate) fn latest_in(&self, sandbox_id: &str, name: &str) -> Option<&Seen> {
        self.containers.iter().find(|c| c.status.name == name && c.sandbox_id == sandbox_id)
    }

    /// The containers that run, or may run.
    pub(crate) fn running(&self) -> impl Iterator<Item = &Seen> {
        let alive = |s: ContainerState| matches!(s, ContainerState::Running | ContainerState::Unknown);
        self.containers.iter().filter(move |c| alive(c.status.state))
    }
}

/// Statuses that can't change any more until the container's state does, kept between looks at a pod.
#[derive(Default)]
pub(crate) struct Cache {
    containers: HashMap<String, ContainerStatus>,
    ips: HashMap<String, Vec<IpAddr>>,
}

/// Asks the runtime about one pod: two lists, and the status of what changed since the last time.
pub(crate) async fn observe(
    runtime: &dyn Runtime,
    uid: &str,
    cache: &mut Cache,
) -> Result<Observed, RuntimeError> {
    let (sandboxes, containers) =
        tokio::try_join!(runtime.list_sandboxes(Some(uid)), runtime.list_containers(Some(uid)))?;
    let mut observed = Observed { sandboxes, ..Observed::default() };
    observed.sandboxes.sort_by_key(|s| std::cmp::Reverse((s.created_at, s.attempt)));
    cache.containers.retain(|id, _| containers.iter().any(|c| c.id == *id));
    cache.ips.retain(|id, _| observed.sandboxes.iter().any(|s| s.id == *id));
    for container in containers {
        if let Some(status) = status_of(runtime, &container, cache).await? {
            observed.containers.push(Seen { sandbox_id: container.sandbox_id, status });
        }
    }
    observed.containers.sort_by_key(|c| std::cmp::Reverse((c.status.created_at, c.status.attempt)));
    if let Some(id) = observed.sandbox().map(|s| s.id.clone()) {
        observed.ips = ips_of(runtime, &id, cache).await?;
    }
    Ok(observed)
}

async fn status_of(
    runtime: &dyn Runtime,
    container: &Container,
    cache: &mut Cache,
) -> Result<Option<ContainerStatus>, RuntimeError> {
    if let Some(known) = cache.containers.get(&container.id).filter(|s| s.state == container.state) {
        return Ok(Some(known.clone()));
    }
    match runtime.container_status(&container.id).await {
        Ok(mut status) => {
            super::termination::add_message(&mut status).await;
            cache.containers.insert(container.id.clone(), status.clone());
            Ok(Some(status))
        }
        Err(RuntimeError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn ips_of(runtime: &dyn Runtime, id: &str, cache: &mut Cache) -> Result<Vec<IpAddr>, RuntimeError> {
    if let Some(ips) = cache.ips.get(id) {
        return Ok(ips.clone());
    }
    let ips = match runtime.sandbox_ips(id).await {
        Ok(ips) => ips,
        Err(RuntimeError::NotFound(_)) => return Ok(vec![]),
        Err(error) => return Err(error),
    };
    cache.ips.insert(id.to_string(), ips.clone());
    Ok(ips)
}
