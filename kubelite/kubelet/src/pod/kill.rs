//! Stopping containers: hooks first, within one grace period that a later deletion may shorten.

use super::hooks;
use super::spec;
use super::step::{Action, Why};
use super::worker::{Outcome, RETRY};
use crate::context::Context;
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kubelite_informer::EventType::Normal;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A container gets this long after its hook, whatever the hook took.
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// Does `work`, unless the pod is deleted meanwhile: then None.
pub(super) async fn unless_deleted<T>(
    context: &Context,
    pod: &Pod,
    work: impl Future<Output = T>,
) -> Option<T> {
    let uid = pod.uid().unwrap_or_default();
    let deleted = context.pods.until(|pods| pods.get(&uid).is_none_or(|e| spec::deleted(&e.pod)));
    tokio::select! {
        biased;
        done = work => Some(done),
        () = deleted => None,
    }
}

/// Stops containers side by side.
pub(super) async fn all(context: &Arc<Context>, pod: &Arc<Pod>, stops: &[Action]) -> Outcome {
    let one = |action: &Action| match action {
        Action::Stop { id, name, why } => Some((id.clone(), name.clone(), why.clone())),
        _ => None,
    };
    let results = join_all(stops.iter().filter_map(one).map(|(id, name, why)| async move {
        context.recorder.record(&**pod, Normal, "Killing", reason(&name, &why));
        stop(context, pod, &name, &id, &why).await
    }));
    let mut outcome = Outcome::progress();
    for result in results.await {
        if let Err(error) = result {
            tracing::warn!(%error, pod = %pod.name_any(), "a container can't be stopped, will be tried again");
            outcome = Outcome::later(RETRY);
        }
    }
    outcome
}

fn reason(name: &str, why: &Why) -> String {
    match why {
        Why::PodEnds | Why::NoSandbox => format!("Stopping container {name}"),
        Why::Probe(probe) => format!("Container {name} failed {probe} probe, will be restarted"),
        Why::Changed => format!("Container {name} definition changed, will be restarted"),
    }
}

/// The grace of this stop: a probe may have its own.
fn grace(pod: &Pod, name: &str, why: &Why) -> Duration {
    let Why::Probe(probe) = why else { return spec::grace(pod) };
    let container = spec::find(pod, name).map(|(_, c)| c).unwrap_or_default();
    let probe = if *probe == "startup" { container.startup_probe } else { container.liveness_probe };
    let own = probe.and_then(|p| p.termination_grace_period_seconds).and_then(|s| u64::try_from(s).ok());
    own.map_or_else(|| spec::grace(pod), Duration::from_secs)
}

async fn stop(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    name: &str,
    id: &str,
    why: &Why,
) -> Result<(), crate::runtime::RuntimeError> {
    let began = Instant::now();
    let uid = pod.uid().unwrap_or_default();
    let mut grace = grace(pod, name, why);
    let mut hook_done = false;
    loop {
        let shorter = context.pods.until(|pods| pods.get(&uid).is_some_and(|e| spec::grace(&e.pod) < grace));
        let work = async {
            if !hook_done && !grace.is_zero() {
                hooks::before_stop(context, pod, name, id, grace).await;
            }
            hook_done = true;
            let left = grace.saturating_sub(began.elapsed());
            let left = if grace.is_zero() { grace } else { left.max(LEAST_GRACE.min(grace)) };
            context.runtime.stop_container(id, left).await
        };
        tokio::select! {
            result = work => return result,
            () = shorter => {}
        }
        grace = context.pods.get(&uid).map_or(grace, |e| spec::grace(&e.pod)).min(grace);
    }
}
