//! The control plane and its node: a page that starts everything and wires it.
//!
//! ```text
//!  store (embedded, served as etcd │ a real etcd) ─► apiserver ─► TLS :6443, with /cacerts and the joining of agents
//!                                                       └─► in process, each under its own name: scheduler, controllers, kubelet
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use kubelite_apiserver::parts::Keys;
use kubelite_apiserver::request::UserInfo;
use kubelite_apiserver::{ApiServer, serve};
use kubelite_controllers::NodeCidrs;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::args::ServerArgs;
use crate::backing::Backing;
use crate::join::NodeCredentials;
use crate::node::Identity;
use crate::node_keys::NodeKeys;
use crate::pki::{self, Pki};
use crate::token::Token;
use crate::{agent, dns, files, flannel, join};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;
const MONITOR_GRACE: Duration = Duration::from_secs(40);
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
const ROLE_TRIES: u32 = 240;
const ROLE_RETRY: Duration = Duration::from_millis(250);

/// `kubelite server`: runs until `shutdown`, or until a part fails.
pub async fn run(args: ServerArgs, shutdown: CancellationToken) -> Result<()> {
    let identity = Identity::of(&args.node)?;
    let services = service_network(args.service_cidr)?;
    let node_cidrs = args
        .allocate_node_cidrs
        .then(|| NodeCidrs::new(args.cluster_cidr, args.node_cidr_mask_size))
        .transpose()?;
    let dir = args.node.data_dir.join("server");
    let pki = Arc::new(Pki::load_or_create(&dir.join("tls"), &names(&args, &identity, services))?);
    let token = Token::load_or_create(&dir, pki.ca_pem(), args.token.as_deref())?;
    let listener = listen(args.https_listen_port).await?;

    let mut parts = JoinSet::new();
    let backing = Backing::open(&args, &pki, identity.ip, &mut parts, shutdown.clone()).await?;
    let network = flannel::network_config(args.cluster_cidr, args.flannel_backend);
    backing.put_if_absent(flannel::CONFIG_KEY, &network).await?;
    let config = kubelite_apiserver::Config {
        service_network: services,
        node_ports: NODE_PORTS,
        advertise: (identity.ip, args.https_listen_port),
    };
    let api = ApiServer::start(config, backing.storage(), &keys(&pki), shutdown.clone()).await?;

    let tls = serve::tls_config(&pki.apiserver.certificate, &pki.apiserver.key, pki.ca_pem())?;
    let router = join::router(pki.clone(), token).fallback_service(api.router());
    parts.spawn(done(serve::serve(listener, tls, router, shutdown.clone())));
    flannel::publish(&api.client(component("system:apiserver", &["system:masters"])), backing.flannel(&pki))
        .await?;
    let names = dns::publish(
        api.client(component("system:apiserver", &["system:masters"])),
        services.0,
        shutdown.clone(),
    );
    parts.spawn(names);
    control(&api, &pki, node_cidrs, &mut parts, &shutdown);
    let url = format!("https://{}:{}", identity.ip, args.https_listen_port);
    files::write_secret(&args.write_kubeconfig, &pki::kubeconfig(&url, pki.ca_pem(), &pki.admin))?;
    info!(kubeconfig = %args.write_kubeconfig.display(), token = %dir.join("token").display(), "the API server answers at {url}");
    if !args.disable_agent {
        parts.spawn(node(args, identity, pki, api, shutdown.clone()));
    }
    wait(parts, shutdown).await
}

/// Scheduler and controllers, each with a client of its own name.
fn control(
    api: &ApiServer,
    pki: &Pki,
    node_cidrs: Option<NodeCidrs>,
    parts: &mut JoinSet<Result<()>>,
    shutdown: &CancellationToken,
) {
    let config = kubelite_controllers::Config {
        cluster_ca_pem: pki.ca_pem().to_owned(),
        node_monitor_grace: MONITOR_GRACE,
        node_cidrs,
    };
    let client = api.client(component("system:kube-controller-manager", &[]));
    parts.spawn(kubelite_controllers::run(client, config, shutdown.clone()));
    let client = api.client(component("system:kube-scheduler", &[]));
    parts.spawn(kubelite_scheduler::run(client, kubelite_scheduler::Config::default(), shutdown.clone()));
}

/// The server's own node: as an agent's, but with a client in process and certificates from next door.
async fn node(
    args: ServerArgs,
    identity: Identity,
    pki: Arc<Pki>,
    api: ApiServer,
    shutdown: CancellationToken,
) -> Result<()> {
    let keys = NodeKeys::load_or_create(&args.node.data_dir.join("agent/tls"))?;
    let client = pki.sign_node_client(&keys.client_csr(&identity.name)?, &identity.name)?;
    let serving = pki.sign_node_serving(&keys.serving_csr(&identity.name)?, &identity.name, identity.ip)?;
    let credentials: NodeCredentials = keys.with(pki.ca_pem().to_owned(), client, serving);
    let user = component(&format!("system:node:{}", identity.name), &["system:nodes"]);
    let role =
        mark_control_plane(api.client(component("system:apiserver", &["system:masters"])), &identity.name);
    let (ended, ()) = tokio::join!(
        agent::run_node(args.node, identity.clone(), credentials, api.client(user), shutdown),
        role
    );
    ended
}

/// Labels the node with its role once it is there: a kubelet may not give itself one, and `kubectl get nodes` shows it.
async fn mark_control_plane(client: Client, name: &str) {
    let nodes: Api<Node> = Api::all(client);
    let role = Patch::Merge(json!({ "metadata": { "labels": { CONTROL_PLANE: "true" } } }));
    for _ in 0..ROLE_TRIES {
        match nodes.patch(name, &PatchParams::default(), &role).await {
            Ok(_) => return,
            Err(error) => tracing::debug!("cannot label node {name} yet: {error}"),
        }
        tokio::time::sleep(ROLE_RETRY).await;
    }
    tracing::warn!(
        "node {name} has no role: it did not register; `kubectl label node {name} {CONTROL_PLANE}=true` gives it"
    );
}

/// Waits for the end. A part that ends before it was told to takes the others with it: half a server helps nobody.
async fn wait(mut parts: JoinSet<Result<()>>, shutdown: CancellationToken) -> Result<()> {
    let mut outcome = Ok(());
    while let Some(ended) = parts.join_next().await {
        let ended = ended.unwrap_or_else(|error| Err(error.into()));
        if !shutdown.is_cancelled() {
            shutdown.cancel();
            outcome = ended.and_then(|()| bail!("a part of the server ended by itself"));
        }
    }
    outcome
}

async fn done(work: impl Future<Output = ()>) -> Result<()> {
    work.await;
    Ok(())
}

fn component(name: &str, groups: &[&str]) -> UserInfo {
    UserInfo::new(name, groups)
}

async fn listen(port: u16) -> Result<TcpListener> {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on port {port}: does another kubelite or API server run here?")
    })
}

fn keys(pki: &Pki) -> Keys {
    Keys {
        issuer: ISSUER.to_owned(),
        service_account_key: pki.service_account_key(),
        ca: pki.ca_pem().to_owned(),
        kubelet_client_certificate: pki.kubelet_client.certificate.clone(),
        kubelet_client_key: pki.kubelet_client.key.clone(),
        static_tokens: Vec::new(),
    }
}

/// By what names the server is reached beside the usual ones.
fn names(args: &ServerArgs, identity: &Identity, (services, _): (Ipv4Addr, u8)) -> Vec<String> {
    let first_service = Ipv4Addr::from(u32::from(services) + 1).to_string();
    [identity.name.clone(), identity.ip.to_string(), first_service]
        .into_iter()
        .chain(args.tls_san.clone())
        .collect()
}

fn service_network(cidr: IpNetwork) -> Result<(Ipv4Addr, u8)> {
    match cidr {
        IpNetwork::V4(net) if (12..=24).contains(&net.prefix()) => Ok((net.network(), net.prefix())),
        _ => bail!("--service-cidr {cidr}: an IPv4 network with a prefix from /12 to /24 is needed"),
    }
}
