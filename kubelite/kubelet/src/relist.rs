//! Notices what happens at the runtime, which may have no events: two lists, often while something is going on, seldom else.

use crate::context::Context;
use crate::pod::finish::settled;
use crate::runtime::{ContainerState, RuntimeError};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// While pods start, stop or are to end by themselves.
const BUSY: Duration = Duration::from_secs(1);
/// While all run as they should.
const IDLE: Duration = Duration::from_secs(5);
/// Calm rounds before it gets slower.
const CALM_ROUNDS: u32 = 10;

/// A pod's sandboxes (ready or not) and containers with their states.
type Fingerprint = BTreeSet<(String, u8)>;

/// Looks for changes for ever, and puts the UIDs of changed pods into the queue.
pub(crate) async fn run(context: Arc<Context>) {
    let mut last = HashMap::new();
    let mut calm = 0;
    let mut silent = false;
    loop {
        match list(&context).await {
            Ok(now) => {
                silent = false;
                let changed = changed(&last, &now);
                calm = if changed.is_empty() { calm + 1 } else { 0 };
                changed.into_iter().for_each(|uid| context.queue.add(uid));
                last = now;
            }
            Err(error) => {
                if !std::mem::replace(&mut silent, true) {
                    tracing::warn!(%error, "the container runtime can't list its pods, will be asked again");
                }
            }
        }
        let idle = calm >= CALM_ROUNDS && context.pods.all().iter().all(|e| settled(&e.pod) && runs(e));
        tokio::time::sleep(if idle { IDLE } else { BUSY }).await;
    }
}

fn runs(entry: &crate::context::Entry) -> bool {
    entry.status.as_ref().is_some_and(|s| s.phase.as_deref() != Some("Pending"))
}

async fn list(context: &Context) -> Result<HashMap<String, Fingerprint>, RuntimeError> {
    let runtime = &context.runtime;
    let (sandboxes, containers) =
        tokio::try_join!(runtime.list_sandboxes(None), runtime.list_containers(None))?;
    let mut pods: HashMap<String, Fingerprint> = HashMap::new();
    for sandbox in sandboxes {
        pods.entry(sandbox.uid).or_default().insert((sandbox.id, u8::from(sandbox.ready)));
    }
    for container in containers {
        let state = match container.state {
            ContainerState::Created => 2,
            ContainerState::Running => 3,
            ContainerState::Exited => 4,
            ContainerState::Unknown => 5,
        };
        pods.entry(container.pod_uid).or_default().insert((container.id, state));
    }
    Ok(pods)
}

/// The pods that differ between two lists.
fn changed(last: &HashMap<String, Fingerprint>, now: &HashMap<String, Fingerprint>) -> Vec<String> {
    let differs = |uid: &&String| last.get(*uid) != now.get(*uid);
    let uids: BTreeSet<&String> = last.keys().chain(now.keys()).collect();
    uids.into_iter().filter(differs).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_changed_and_gone_pods_differ() {
        let pod = |state| Fingerprint::from([("c".to_string(), state)]);
        let last =
            HashMap::from([("same".to_string(), pod(3)), ("ended".into(), pod(3)), ("gone".into(), pod(3))]);
        let now =
            HashMap::from([("same".to_string(), pod(3)), ("ended".into(), pod(4)), ("new".into(), pod(2))]);
        assert_eq!(changed(&last, &now), ["ended", "gone", "new"]);
    }
}
