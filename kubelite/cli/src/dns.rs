//! The cluster's DNS service: one address for all pods, behind which each node's own server stands.
//!
//! The service has no selector: its endpoints are the nodes, and `internalTrafficPolicy: Local` leads a pod to the server of its own
//! node. What doesn't live here: the server (crate `kubelite-dns`), which `services` starts on each node.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client};
use kubelite_informer::Informer;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::publish::put;
use crate::{files, services};

/// Where each node's server listens, on the node's address. Not 53: a resolver of the host's own may be there.
pub const PORT: u16 = 10053;
const NAMESPACE: &str = "kube-system";
/// The name under which tools look for a cluster's DNS, whoever serves it.
const NAME: &str = "kube-dns";
/// The service's address within the service network, by custom.
const HOST: u32 = 10;
const RETRY: Duration = Duration::from_secs(1);
/// How often a node asks for the address before it uses that of the last time.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// Publishes the service and keeps its endpoints, until `shutdown`.
pub async fn publish(client: Client, network: Ipv4Addr, shutdown: CancellationToken) -> Result<()> {
    let ip = Ipv4Addr::from(u32::from(network) + HOST);
    put(&Api::namespaced(client.clone(), NAMESPACE), &service(ip)?).await?;
    let nodes: Informer<Node> = services::watch(&client, &shutdown);
    let dirty = Arc::new(Notify::new());
    let changed = dirty.clone();
    nodes.on_change(move |_| changed.notify_one());
    nodes.synced().await;
    let slices: Api<EndpointSlice> = Api::namespaced(client, NAMESPACE);
    let mut published = Value::Null;
    loop {
        let wanted = slice(&nodes.all());
        let outcome = if wanted == published {
            Ok(())
        } else {
            put(&slices, &serde_json::from_value(wanted.clone())?).await
        };
        let failed = outcome.inspect_err(|error| tracing::warn!("{error:#}")).is_err();
        if !failed {
            published = wanted;
        }
        let next = async { if failed { tokio::time::sleep(RETRY).await } else { dirty.notified().await } };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = next => {}
        }
    }
}

/// The service's address as the API tells it; without the API, as it was told the last time.
pub async fn address(client: &Client, data_dir: &Path) -> Result<IpAddr> {
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let file = data_dir.join("agent/cluster-dns");
    for _ in 0..TRIES {
        let service = services.get_opt(NAME).await;
        match service.map(|service| service.and_then(|service| service.spec?.cluster_ip?.parse().ok())) {
            Ok(Some(ip)) => {
                let _: IpAddr = ip;
                files::write_secret(&file, &ip.to_string())?;
                return Ok(ip);
            }
            Ok(None) => {}
            Err(error) => tracing::debug!("cannot ask for the service {NAMESPACE}/{NAME}: {error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
    match std::fs::read_to_string(&file) {
        Ok(text) => text.trim().parse().with_context(|| format!("{} holds no address", file.display())),
        Err(_) => bail!(
            "there is no service {NAMESPACE}/{NAME}, which tells pods where DNS is; name it by --cluster-dns"
        ),
    }
}

fn service(ip: Ipv4Addr) -> Result<Service> {
    let port = |name: &str, protocol: &str| json!({ "name": name, "port": 53, "protocol": protocol, "targetPort": PORT });
    Ok(serde_json::from_value(json!({
        "metadata": { "name": NAME, "namespace": NAMESPACE, "labels": { "k8s-app": NAME, "kubernetes.io/name": "CoreDNS" } },
        "spec": {
            "clusterIP": ip, "clusterIPs": [ip], "internalTrafficPolicy": "Local",
            "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
        },
    }))?)
}

fn slice(nodes: &[Arc<Node>]) -> Value {
    let endpoint = |node: &Arc<Node>| {
        let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        let mut own = addresses.filter(|address| address.type_ == "InternalIP");
        let ip = own.find_map(|address| address.address.parse::<Ipv4Addr>().ok())?;
        Some(json!({ "addresses": [ip], "nodeName": node.metadata.name, "conditions": { "ready": true } }))
    };
    json!({
        "metadata": {
            "name": NAME, "namespace": NAMESPACE,
            "labels": { "kubernetes.io/service-name": NAME, "endpointslice.kubernetes.io/managed-by": "kubelite-server" },
        },
        "addressType": "IPv4",
        "ports": [
            { "name": "dns", "protocol": "UDP", "port": PORT },
            { "name": "dns-tcp", "protocol": "TCP", "port": PORT },
        ],
        "endpoints": nodes.iter().filter_map(endpoint).collect::<Vec<_>>(),
    })
}
