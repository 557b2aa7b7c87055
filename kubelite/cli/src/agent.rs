//! A node: containerd, the kubelet over it, the service proxy and the DNS server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result};
use kube::Client;
use kubelite_kubelet::Config;
use tokio_util::sync::CancellationToken;

use crate::args::{AgentArgs, NodeArgs};
use crate::containerd::Containerd;
use crate::join::{self, NodeCredentials};
use crate::node::Identity;
use crate::token::Token;
use crate::{dns, services};

const KUBELET_PORT: u16 = 10250;
/// Upstream's default.
const MAX_PODS: u32 = 110;

/// `kubelite agent`: joins the server and runs the node until `shutdown`.
pub async fn run(args: AgentArgs, shutdown: CancellationToken) -> Result<()> {
    let identity = Identity::of(&args.node)?;
    let token = Token::parse(&args.token)?;
    let dir = args.node.data_dir.join("agent/tls");
    let credentials = join::until_joined(&args.server, &token, &identity, &dir, &shutdown).await?;
    let client = client(&args.server, &credentials)?;
    run_node(args.node, identity, credentials, client, shutdown).await
}

/// The node itself, with whatever client it was given: over TLS here, in process on a server.
pub async fn run_node(
    args: NodeArgs,
    identity: Identity,
    credentials: NodeCredentials,
    client: Client,
    shutdown: CancellationToken,
) -> Result<()> {
    let runtime = runtime(&args, shutdown.clone()).await?;
    let services = services::run(client.clone(), &identity, args.cluster_domain.clone(), shutdown.clone());
    let names = match args.cluster_dns {
        Some(ip) => ip,
        None => dns::address(&client, &args.data_dir).await?,
    };
    let config = config(args, identity.clone(), credentials, runtime, names)?;
    let kubelet = kubelite_kubelet::run(client, config, shutdown);
    let kubelet = async { kubelet.await.context("the kubelet ended") };
    tokio::try_join!(kubelet, services).map(drop)
}

/// The CRI socket: the one that was named, or that of a containerd of our own.
async fn runtime(args: &NodeArgs, shutdown: CancellationToken) -> Result<PathBuf> {
    if let Some(endpoint) = &args.container_runtime_endpoint {
        return Ok(PathBuf::from(endpoint.strip_prefix("unix://").unwrap_or(endpoint)));
    }
    let containerd = Containerd { data_dir: args.data_dir.clone(), pause_image: args.pause_image.clone() };
    containerd.start(shutdown).await?;
    Ok(Containerd::socket())
}

/// A client with the node's certificate.
fn client(server: &str, credentials: &NodeCredentials) -> Result<Client> {
    let uri = server.parse().with_context(|| format!("--server {server} is no URL"))?;
    let mut config = kube::Config::new(uri);
    config.root_cert = Some(vec![pem_to_der(&credentials.ca)?]);
    config.auth_info.client_certificate_data = Some(base64(&credentials.client.certificate));
    config.auth_info.client_key_data = Some(base64(&credentials.client.key).into());
    Client::try_from(config).context("cannot set up the client for the API server")
}

fn pem_to_der(pem: &str) -> Result<Vec<u8>> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    Ok(CertificateDer::from_pem_slice(pem.as_bytes()).context("the CA's certificate is damaged")?.to_vec())
}

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn config(
    args: NodeArgs,
    identity: Identity,
    credentials: NodeCredentials,
    runtime: PathBuf,
    cluster_dns: IpAddr,
) -> Result<Config> {
    let label = |text: &String| {
        let (key, value) = text.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    };
    let labels = args
        .node_labels
        .iter()
        .map(|text| label(text).with_context(|| format!("--node-label {text}: write it as key=value")));
    Ok(Config {
        node_name: identity.name,
        node_ip: identity.ip,
        data_dir: args.data_dir.join("agent/kubelet"),
        log_dir: PathBuf::from("/var/log/pods"),
        runtime_endpoint: runtime,
        cluster_dns: Some(cluster_dns),
        cluster_domain: args.cluster_domain,
        listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), KUBELET_PORT),
        serving_certificate: credentials.serving.certificate,
        serving_key: credentials.serving.key,
        client_ca: credentials.ca,
        labels: labels.collect::<Result<_>>()?,
        cgroup_root: args.cgroup_root,
        max_pods: MAX_PODS,
    })
}
