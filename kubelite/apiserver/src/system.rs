//! What every cluster has from its first moment: the system namespaces, and the service by which pods find the API.

use k8s_openapi::api::core::v1::{Endpoints, Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Error};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::server::Config;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
const NAME: &str = "kubernetes";

/// Creates the namespaces that are missing.
pub async fn namespaces(client: &Client) -> anyhow::Result<()> {
    let api: Api<Namespace> = Api::all(client.clone());
    for name in NAMESPACES {
        let namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        unless_there(api.create(&PostParams::default(), &namespace).await)?;
    }
    Ok(())
}

/// The service `default/kubernetes` with the first address of the service network, and where it leads to.
pub async fn kubernetes_service(client: &Client, config: &Config) -> anyhow::Result<()> {
    let (network, _) = config.service_network;
    let (address, port) = (config.advertise.0.to_string(), config.advertise.1);
    let first = std::net::Ipv4Addr::from(u32::from(network) + 1);
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    put::<Service>(client, json!({
        "metadata": {"name": NAME, "labels": labels},
        "spec": {"clusterIP": first.to_string(), "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}]},
    })).await?;
    put::<Endpoints>(client, json!({
        "metadata": {"name": NAME, "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": address}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
    })).await?;
    put::<EndpointSlice>(
        client,
        json!({
            "metadata": {"name": NAME, "labels": {"kubernetes.io/service-name": NAME}},
            "addressType": if config.advertise.0.is_ipv4() { "IPv4" } else { "IPv6" },
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }),
    )
    .await
}

/// Creates an object in the namespace `default`, or brings the one there to the same state.
async fn put<K>(client: &Client, object: Value) -> anyhow::Result<()>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), "default");
    if api.get_opt(NAME).await?.is_some() {
        api.patch(NAME, &PatchParams::default(), &Patch::Merge(object)).await?;
    } else {
        api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    }
    Ok(())
}

fn unless_there<K>(created: Result<K, Error>) -> Result<(), Error> {
    match created {
        Err(Error::Api(status)) if status.code == 409 => Ok(()),
        other => other.map(drop),
    }
}
