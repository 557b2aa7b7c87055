//! DaemonSets: one pod on each node that it may run on.

mod plan;

use crate::claim::{claim_all, controller_of, selector};
use crate::context::{Context, WORKERS, message};
use crate::history::{self, Revised};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::PostParams;
use kube::core::SelectorExt;
use kubelite_informer::{EventType, Key, Queue, Recorder};
use plan::Observed;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

struct Controller {
    ctx: Context,
    recorder: Recorder,
}

/// Subscribes the daemon set controller, and runs it.
pub(crate) fn run(ctx: Context) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let (own, from_pods, from_nodes, from_history) =
        (queue.clone(), queue.clone(), queue.clone(), queue.clone());
    ctx.caches
        .daemon_sets
        .on_change(move |change| change.new.into_iter().for_each(|set| own.add(Key::of(set))));
    let sets = ctx.caches.daemon_sets.clone();
    ctx.caches.pods.on_change(move |change| {
        for pod in change.old.into_iter().chain(change.new) {
            let namespace = pod.namespace().unwrap_or_default();
            match controller_of(pod) {
                Some(owner) if owner.kind == "DaemonSet" => from_pods.add(Key::new(namespace, &owner.name)),
                Some(_) => {}
                None => sets
                    .list(&namespace)
                    .iter()
                    .filter(|s| selects(s, pod))
                    .for_each(|s| from_pods.add(Key::of(&**s))),
            }
        }
    });
    let sets = ctx.caches.daemon_sets.clone();
    ctx.caches.nodes.on_change(move |change| {
        // A heartbeat is a change of the node too, but not of where pods may run.
        if !change.old.zip(change.new).is_some_and(|(old, new)| plan::same_for_daemons(old, new)) {
            sets.all().iter().for_each(|set| from_nodes.add(Key::of(&**set)));
        }
    });
    ctx.caches.controller_revisions.on_change(move |change| {
        let Some(revision) = change.object() else { return };
        let owner = controller_of(revision).filter(|owner| owner.kind == "DaemonSet");
        owner
            .into_iter()
            .for_each(|o| from_history.add(Key::new(revision.namespace().unwrap_or_default(), &o.name)));
    });
    async move {
        ctx.caches.synced().await;
        let (recorder, shutdown) = (ctx.recorder("daemonset-controller"), ctx.shutdown.clone());
        let controller = Arc::new(Controller { ctx, recorder });
        queue.run(WORKERS, shutdown, move |key| controller.clone().reconcile(key)).await;
    }
}

fn selects(set: &DaemonSet, pod: &Pod) -> bool {
    selector(&set.spec.selector).is_some_and(|selector| selector.matches(pod.labels()))
}

impl Controller {
    async fn reconcile(self: Arc<Self>, key: Key) -> kube::Result<Option<Duration>> {
        let Some(set) = self.ctx.caches.daemon_sets.get(&key) else { return Ok(None) };
        let Some(sel) = selector(&set.spec.selector) else { return Ok(None) };
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let revisions = claim_all(&self.ctx, &*set, &sel, &self.ctx.caches.controller_revisions).await?;
        let Some(current) =
            history::current(&self.ctx, &self.ctx.caches.daemon_sets, &*set, &revisions).await?
        else {
            return Ok(Some(Duration::ZERO));
        };
        let pods = claim_all(&self.ctx, &*set, &sel, &self.ctx.caches.pods).await?;
        let nodes = self.ctx.caches.nodes.all();
        let hash = history::hash_of::<DaemonSet>(&current);
        let now = Timestamp::now();
        let plan = plan::plan(&Observed { set: &set, nodes: &nodes, pods: &pods, hash: &hash, now });
        let deleted = join_all(plan.delete.iter().map(|pod| self.delete(&set, pod))).await;
        let created = join_all(plan.create.iter().map(|node| self.create(&set, node, &hash))).await;
        let live = |revision: &ControllerRevision| {
            let of = history::hash_of::<DaemonSet>(revision);
            of == hash || pods.iter().any(|pod| pod.labels().get(DaemonSet::HASH_LABEL) == Some(&of))
        };
        for expired in history::expired(&*set, &revisions, live) {
            self.ctx.delete(&self.ctx.caches.controller_revisions, &*expired).await?;
        }
        if set.status.as_ref() != Some(&plan.status) {
            let changed = DaemonSet { status: Some(plan.status), ..(*set).clone() };
            let api = self.ctx.api::<DaemonSet>(&key.namespace);
            let written = api.replace_status(&key.name, &PostParams::default(), &changed).await?;
            self.ctx.caches.daemon_sets.written(written);
        }
        deleted.into_iter().chain(created).collect::<kube::Result<()>>()?;
        Ok(plan.look_again)
    }

    async fn create(&self, set: &DaemonSet, node: &str, hash: &str) -> kube::Result<()> {
        let namespace = set.namespace().unwrap_or_default();
        let pod = plan::pod_for(set, node, hash);
        match self.ctx.api::<Pod>(&namespace).create(&PostParams::default(), &pod).await {
            Ok(created) => {
                let text = format!("Created pod: {}", created.name_any());
                self.recorder.record(set, EventType::Normal, "SuccessfulCreate", text);
                self.ctx.caches.pods.written(created);
                Ok(())
            }
            Err(error) => {
                let text = format!("Error creating: {}", message(&error));
                self.recorder.record(set, EventType::Warning, "FailedCreate", text);
                Err(error)
            }
        }
    }

    async fn delete(&self, set: &DaemonSet, pod: &Pod) -> kube::Result<()> {
        self.ctx.delete(&self.ctx.caches.pods, pod).await?;
        let text = format!("Deleted pod: {}", pod.name_any());
        self.recorder.record(set, EventType::Normal, "SuccessfulDelete", text);
        Ok(())
    }
}
