//! The way to the API server: by flags, or by the pod's service account.

use std::time::Duration;

use anyhow::{Context, Result};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Client, ClientBuilder, ConfigExt};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use tower::{BoxError, ServiceBuilder};

/// A server that is gone without a word is found after three of these: a watch would wait for it for ever.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const PROBES: u32 = 2;
/// So long what was sent may stay without an acknowledgement.
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);
const CONNECT: Duration = Duration::from_secs(5);
/// One for the watch, one for what is asked beside it.
const IDLE_CONNECTIONS: usize = 1;

/// A client; the server need not be there yet. `url` goes before what `kubeconfig` says; both empty is the pod's own account.
pub(super) async fn client(url: &str, kubeconfig: &str) -> Result<Client> {
    let mut config = match (url, kubeconfig) {
        ("", "") => Config::incluster_env().context(
            "neither --kubeconfig-file nor --kube-api-url is given, and this is no pod with a service account (KUBERNETES_SERVICE_HOST, \
             /var/run/secrets/kubernetes.io/serviceaccount)",
        )?,
        (url, "") => Config::new(url.parse().context("--kube-api-url is no URL")?),
        (_, path) => {
            let file = Kubeconfig::read_from(path).with_context(|| format!("--kubeconfig-file {path}"))?;
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
            config.with_context(|| format!("--kubeconfig-file {path}"))?
        }
    };
    if !url.is_empty() {
        config.cluster_url = url.parse().context("--kube-api-url is no URL")?;
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(KEEP_ALIVE));
    tcp.set_keepalive_interval(Some(KEEP_ALIVE));
    tcp.set_keepalive_retries(Some(PROBES));
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let tls = config.rustls_https_connector_with_connector(tcp)?;
    let mut http = hyper_util::client::legacy::Builder::new(TokioExecutor::new());
    let http = http.pool_max_idle_per_host(IDLE_CONNECTIONS).build(tls);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}
