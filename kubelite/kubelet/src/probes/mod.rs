//! Liveness, readiness and startup probes: who runs them, and what came out.
//!
//! One task a probe, from its container's start to its end. What counts is [`state`], which is pure; how to ask is
//! [`check`]'s matter. A verdict that changes wakes the pod's worker, which alone acts on it.

pub(crate) mod check;
mod state;

use crate::context::Context;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use kube::ResourceExt;
use kubelite_informer::EventType::Warning;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use state::{State, Timing};

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

/// Which of a container's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Startup, Kind::Readiness, Kind::Liveness];

    fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Kind::Startup => container.startup_probe.as_ref(),
            Kind::Readiness => container.readiness_probe.as_ref(),
            Kind::Liveness => container.liveness_probe.as_ref(),
        }
    }

    fn record(self, probed: &mut Probed, verdict: bool) {
        match self {
            Kind::Startup if verdict => probed.started = Some(true),
            Kind::Startup | Kind::Liveness => probed.alive = Some(verdict),
            Kind::Readiness => probed.ready = Some(verdict),
        }
    }
}

/// All probes of the node.
#[derive(Default)]
pub(crate) struct Probes {
    running: Mutex<HashMap<String, Running>>,
}

/// The probes of one container; they end when this is dropped.
struct Running {
    pod_uid: String,
    probed: watch::Sender<Probed>,
    _end: DropGuard,
}

impl Probes {
    /// Makes the probes of `pod` be those of `running`: starts what is missing, ends what is no longer there. Called at
    /// every look at a pod (with nothing running at its end), so it must be cheap when nothing changed. A verdict that
    /// changes is followed by `context.queue.add(uid)`.
    pub(crate) fn sync(
        &self,
        context: &Arc<Context>,
        pod: &Arc<Pod>,
        pod_ip: Option<IpAddr>,
        running: &[Target],
    ) {
        let uid = pod.uid().unwrap_or_default();
        let mut all = self.running.lock();
        all.retain(|id, probes| probes.pod_uid != uid || running.iter().any(|target| target.id == *id));
        for target in running {
            if !all.contains_key(&target.id)
                && let Some(probes) = begin(context, pod, pod_ip, target)
            {
                all.insert(target.id.clone(), probes);
            }
        }
    }

    /// What the probes of the container with this ID said.
    pub(crate) fn of(&self, container_id: &str) -> Probed {
        self.running.lock().get(container_id).map(|running| *running.probed.borrow()).unwrap_or_default()
    }
}

/// Starts the probes of a container; none if it has none.
fn begin(context: &Arc<Context>, pod: &Arc<Pod>, pod_ip: Option<IpAddr>, target: &Target) -> Option<Running> {
    let (_, container) = crate::pod::spec::find(pod, &target.container)?;
    let probes: Vec<(Kind, Probe)> =
        Kind::ALL.into_iter().filter_map(|kind| Some((kind, kind.of(&container)?.clone()))).collect();
    if probes.is_empty() {
        return None;
    }
    let end = CancellationToken::new();
    let (sender, _) = watch::channel(Probed::default());
    for (kind, probe) in probes {
        let asker = Asker {
            context: context.clone(),
            pod: pod.clone(),
            container: container.clone(),
            pod_ip,
            target: target.clone(),
            kind,
            probe,
        };
        tokio::spawn(end.clone().run_until_cancelled_owned(asker.run(sender.clone())));
    }
    Some(Running { pod_uid: pod.uid().unwrap_or_default(), probed: sender, _end: end.drop_guard() })
}

/// One probe of one container.
struct Asker {
    context: Arc<Context>,
    pod: Arc<Pod>,
    container: Container,
    pod_ip: Option<IpAddr>,
    target: Target,
    kind: Kind,
    probe: Probe,
}

impl Asker {
    async fn run(self, probed: watch::Sender<Probed>) {
        if self.kind != Kind::Startup && self.container.startup_probe.is_some() {
            // Fails only if the sender is gone, and this task holds one.
            let _ = probed.subscribe().wait_for(|p| p.started == Some(true)).await;
        }
        let timing = Timing::of(&self.probe);
        let age = jiff::Timestamp::now().as_nanosecond() - i128::from(self.target.started_at);
        let age = Duration::from_nanos(u64::try_from(age).unwrap_or(0));
        tokio::time::sleep(timing.initial_delay.saturating_sub(age)).await;
        let mut state = State::default();
        loop {
            let outcome = match tokio::time::timeout(timing.timeout, self.ask()).await {
                Ok(outcome) => outcome,
                Err(_) => Err(format!("command timed out after {} s", timing.timeout.as_secs())),
            };
            if let Err(text) = &outcome {
                self.tell(text);
            }
            if let Some(verdict) = state.record(outcome.is_ok(), &timing) {
                probed.send_modify(|p| self.kind.record(p, verdict));
                let uid = self.pod.uid().unwrap_or_default();
                self.context.queue.add(uid.clone());
                self.context.writes.add(uid);
                if self.kind == Kind::Startup {
                    return;
                }
            }
            tokio::time::sleep(timing.period).await;
        }
    }

    async fn ask(&self) -> Result<(), String> {
        let subject = check::Subject {
            context: &self.context,
            pod: &self.pod,
            container: &self.container,
            id: &self.target.id,
            pod_ip: self.pod_ip,
        };
        if let Some(exec) = &self.probe.exec {
            return subject.exec(exec, Timing::of(&self.probe).timeout).await;
        }
        if let Some(get) = &self.probe.http_get {
            return subject.http_get(get).await;
        }
        if let Some(socket) = &self.probe.tcp_socket {
            return subject.tcp(socket).await;
        }
        Err("this kind of probe is not supported by this kubelet".to_owned())
    }

    fn tell(&self, text: &str) {
        let text = format!("{:?} probe failed: {text}", self.kind);
        self.context.recorder.record(&*self.pod, Warning, "Unhealthy", text);
    }
}
