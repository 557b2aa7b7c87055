//! Liveness, readiness and startup probes: who runs them, and what came out.

use crate::context::Context;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// What the probes of one container said so far. None: not yet known, or there is no such probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Probed {
    /// The startup probe succeeded. The other probes begin only then.
    pub(crate) started: Option<bool>,
    /// The readiness probe's last verdict.
    pub(crate) ready: Option<bool>,
    /// The liveness (or startup) probe's last verdict; false makes the worker kill and restart the container.
    pub(crate) alive: Option<bool>,
}

/// A container that runs and may have probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Name in the pod.
    pub(crate) container: String,
    /// ID at the runtime; a restarted container is another target.
    pub(crate) id: String,
    /// When it was started, nanoseconds since the epoch.
    pub(crate) started_at: i64,
}

/// All probes of the node.
#[derive(Default)]
pub(crate) struct Probes {
    results: Mutex<HashMap<String, Probed>>,
}

impl Probes {
    /// Makes the probes of `pod` be those of `running`: starts what is missing, ends what is no longer there. Called at
    /// every look at a pod (with nothing running at its end), so it must be cheap when nothing changed. A verdict that
    /// changes is followed by `context.queue.add(uid)`.
    pub(crate) fn sync(
        &self,
        _context: &Arc<Context>,
        pod: &Arc<Pod>,
        _pod_ip: Option<IpAddr>,
        running: &[Target],
    ) {
        let _ = (pod, running);
    }

    /// What the probes of the container with this ID said.
    pub(crate) fn of(&self, container_id: &str) -> Probed {
        self.results.lock().get(container_id).copied().unwrap_or_default()
    }
}
