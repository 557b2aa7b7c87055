//! Liveness, readiness and startup probes: who runs them, and what came out.
//!
//! Each probe of a running container is a task. [`state`] says from its results what the verdict is, [`action`] is one
//! try; [`http`] is also the client of hooks.

mod action;
mod grpc;
mod http;
mod state;

pub(crate) use http::Get;

use crate::context::Context;
use crate::pod::spec;
use action::{Action, Outcome};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};
use kube::ResourceExt;
use kubelite_informer::EventType::Warning;
use parking_lot::Mutex;
use state::{Kind, Plan, Run};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;

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

impl Probed {
    /// Takes in a verdict; says whether anything changed.
    fn put(&mut self, kind: Kind, verdict: bool) -> bool {
        let old = *self;
        match kind {
            Kind::Startup if verdict => self.started = Some(true),
            Kind::Readiness => self.ready = Some(verdict),
            Kind::Startup | Kind::Liveness => self.alive = Some(verdict),
        }
        *self != old
    }

    /// What a kubelet before this one found out, as it stands in the pod's status: a restart of the kubelet makes no
    /// container unready.
    fn adopted(pod: &Pod, id: &str) -> Probed {
        let status = pod.status.clone().unwrap_or_default();
        let lists = [status.container_statuses, status.init_container_statuses];
        let same = |s: &ContainerStatus| s.container_id.as_ref().is_some_and(|own| own.ends_with(id));
        let Some(status) = lists.into_iter().flatten().flatten().find(same) else { return Probed::default() };
        Probed {
            started: status.started.filter(|started| *started),
            ready: status.ready.then_some(true),
            alive: None,
        }
    }
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
    /// By the pod's UID and the container's ID.
    pods: Mutex<HashMap<String, HashMap<String, Probing>>>,
}

/// The probes of one container; dropped, they end.
struct Probing {
    probed: watch::Receiver<Probed>,
    _tasks: Vec<AbortOnDropHandle<()>>,
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
        let mut pods = self.pods.lock();
        let probing = pods.entry(uid.clone()).or_default();
        probing.retain(|id, _| running.iter().any(|target| target.id == *id));
        // Without an address it is not yet known where to ask; the next look knows.
        if let Some(ip) = pod_ip {
            let new = running.iter().filter(|target| !probing.contains_key(&target.id)).collect::<Vec<_>>();
            probing
                .extend(new.into_iter().map(|target| (target.id.clone(), start(context, pod, ip, target))));
        }
        if probing.is_empty() {
            pods.remove(&uid);
        }
    }

    /// What the probes of the container with this ID said.
    pub(crate) fn of(&self, container_id: &str) -> Probed {
        let pods = self.pods.lock();
        let probing = pods.values().find_map(|containers| containers.get(container_id));
        probing.map(|probing| *probing.probed.borrow()).unwrap_or_default()
    }
}

/// The probes of a container with their kinds.
fn probes_of(container: &Container) -> impl Iterator<Item = (Kind, &k8s_openapi::api::core::v1::Probe)> {
    let startup = container.startup_probe.iter().map(|p| (Kind::Startup, p));
    let readiness = container.readiness_probe.iter().map(|p| (Kind::Readiness, p));
    startup.chain(readiness).chain(container.liveness_probe.iter().map(|p| (Kind::Liveness, p)))
}

fn start(context: &Arc<Context>, pod: &Arc<Pod>, ip: IpAddr, target: &Target) -> Probing {
    let container = spec::find(pod, &target.container).map(|(_, c)| c).unwrap_or_default();
    let mut before = Probed::adopted(pod, &target.id);
    if container.startup_probe.is_none() {
        before.started = None;
    }
    let (sender, receiver) = watch::channel(before);
    let sender = Arc::new(sender);
    let age = jiff::Timestamp::now().as_nanosecond() - i128::from(target.started_at);
    let age = Duration::from_nanos(u64::try_from(age).unwrap_or(0));
    let tasks = probes_of(&container).map(|(kind, probe)| {
        let task = Task {
            context: context.clone(),
            pod: pod.clone(),
            id: target.id.clone(),
            kind,
            plan: Plan::new(probe),
            action: Action::new(&container, probe, ip),
            probed: sender.clone(),
            gated: kind != Kind::Startup && container.startup_probe.is_some(),
        };
        AbortOnDropHandle::new(tokio::spawn(task.run(age)))
    });
    Probing { _tasks: tasks.collect(), probed: receiver }
}

/// One probe of one container.
struct Task {
    context: Arc<Context>,
    pod: Arc<Pod>,
    id: String,
    kind: Kind,
    plan: Plan,
    action: Action,
    probed: Arc<watch::Sender<Probed>>,
    /// It waits for the startup probe.
    gated: bool,
}

impl Task {
    /// Probes for ever, or until a verdict ends it; `age` is how long the container runs already.
    async fn run(self, age: Duration) {
        let first = Instant::now() + self.plan.initial_delay.saturating_sub(age);
        if self.gated && self.probed.subscribe().wait_for(|p| p.started == Some(true)).await.is_err() {
            return;
        }
        if self.kind == Kind::Startup && self.probed.borrow().started == Some(true) {
            return;
        }
        tokio::time::sleep_until(first).await;
        let mut ticks = tokio::time::interval(self.plan.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut run = Run::default();
        loop {
            ticks.tick().await;
            let Some(success) = self.once().await else { continue };
            let Some(verdict) = run.verdict(&self.plan, success) else { continue };
            if self.probed.send_if_modified(|probed| probed.put(self.kind, verdict)) {
                self.context.queue.add(self.pod.uid().unwrap_or_default());
            }
            // A started container is not asked again whether it started; one that is dead is killed, which ends this.
            if self.kind == Kind::Startup && verdict || self.kind != Kind::Readiness && !verdict {
                return;
            }
        }
    }

    async fn once(&self) -> Option<bool> {
        let text = match self.action.run(&self.context.runtime, &self.id, self.plan.timeout).await {
            Outcome::Success => return Some(true),
            Outcome::Failure(text) => text,
            Outcome::Unknown(error) => {
                tracing::debug!(error, pod = %self.pod.name_any(), "a probe could not be run");
                return None;
            }
        };
        let text = format!("{} probe failed: {text}", self.kind.title());
        self.context.recorder.record(&*self.pod, Warning, "Unhealthy", text);
        Some(false)
    }
}
