//! What flannel needs from the cluster, published at the server's start: the network's configuration in etcd, and, for the
//! DaemonSet, where etcd is and the certificate that opens its own prefix there.
//!
//! What doesn't live here: flannel itself. `manifests/kube-flannel.yaml` runs it, here as on any other cluster.

use std::collections::BTreeMap;

use anyhow::Result;
use ipnetwork::IpNetwork;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Client;
use kube::api::{Api, ObjectMeta};
use serde_json::json;

use crate::args::FlannelBackend;
use crate::publish::put;

/// Where flannel's daemon looks for the network's configuration.
pub const CONFIG_KEY: &str = "/coreos.com/network/config";
const NAMESPACE: &str = "kube-system";
const NAME: &str = "flannel-etcd";

/// The configuration that is written where there is none: the pods' network, and how its packets are carried.
pub fn network_config(cluster_cidr: IpNetwork, backend: FlannelBackend) -> String {
    let kind = match backend {
        FlannelBackend::Udp => "udp",
        FlannelBackend::Vxlan => "vxlan",
        FlannelBackend::Wireguard => "wireguard",
        FlannelBackend::HostGw => "host-gw",
    };
    json!({"Network": cluster_cidr.to_string(), "Backend": {"Type": kind}}).to_string()
}

/// How to reach etcd as flannel.
#[derive(Debug, Clone)]
pub struct Access {
    /// Comma-separated URLs.
    pub endpoints: String,
    /// The CA of etcd's certificate, PEM.
    pub ca: String,
    /// The client certificate, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: String,
}

/// Publishes how to reach etcd as ConfigMap and Secret `kube-system/flannel-etcd`.
pub async fn publish(client: &Client, access: Access) -> Result<()> {
    let metadata = || ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
    let endpoints = BTreeMap::from([("endpoints".to_owned(), access.endpoints)]);
    let config = ConfigMap { metadata: metadata(), data: Some(endpoints), ..ConfigMap::default() };
    put(&Api::namespaced(client.clone(), NAMESPACE), &config).await?;

    let files = [("ca.crt", access.ca), ("tls.crt", access.certificate), ("tls.key", access.key)];
    let data = files.into_iter().map(|(name, pem)| (name.to_owned(), ByteString(pem.into_bytes()))).collect();
    let secret = Secret { metadata: metadata(), data: Some(data), ..Secret::default() };
    put(&Api::namespaced(client.clone(), NAMESPACE), &secret).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flannel_can_read_the_configuration() {
        let config = network_config("10.42.0.0/16".parse().unwrap(), FlannelBackend::Udp);
        assert_eq!(config, r#"{"Backend":{"Type":"udp"},"Network":"10.42.0.0/16"}"#);
    }
}
