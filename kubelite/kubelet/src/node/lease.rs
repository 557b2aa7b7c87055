//! The node's lease: the sign of life that the control plane watches (KEP-589).

use crate::context::Context;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use std::time::Duration;

const NAMESPACE: &str = "kube-node-lease";
/// How long the node counts as alive after a renewal, in seconds.
const DURATION: i32 = 40;
const RENEWAL: Duration = Duration::from_secs(10);
/// After a failure it is renewed sooner.
const RETRY: Duration = Duration::from_secs(2);

/// Renews the lease, for ever.
pub(super) async fn keep(context: &Context) {
    loop {
        let wait = match tokio::time::timeout(RENEWAL, renew(context)).await {
            Ok(Ok(())) => RENEWAL,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the node's lease is not renewed, will be tried again");
                RETRY
            }
            Err(_) => RETRY,
        };
        tokio::time::sleep(wait).await;
    }
}

async fn renew(context: &Context) -> Result<(), kube::Error> {
    let name = context.config.node_name.clone();
    let api: Api<Lease> = Api::namespaced(context.client.clone(), NAMESPACE);
    let now = MicroTime(Timestamp::now());
    let patch =
        json!({ "spec": { "holderIdentity": name, "leaseDurationSeconds": DURATION, "renewTime": now } });
    match api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => return other.map(drop),
    }
    let node = Api::<Node>::all(context.client.clone()).get_opt(&name).await?;
    let mut lease = Lease {
        spec: Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(DURATION),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
        ..Lease::default()
    };
    lease.metadata.name = Some(name.clone());
    lease.metadata.namespace = Some(NAMESPACE.into());
    // The lease goes with its node.
    lease.metadata.owner_references = node.and_then(|n| n.metadata.uid).map(|uid| {
        vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name,
            uid,
            ..OwnerReference::default()
        }]
    });
    api.create(&PostParams::default(), &lease).await.map(drop)
}
