//! A container's environment: given values, and values from the pod, its config maps, its secrets, its resources, and services.

use crate::volumes::sources::message;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVar, EnvVarSource, Node, Pod, ResourceFieldSelector, Secret, Service,
};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use kubelite_api::quantity::Quantity;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Why an environment can't be made. Shown to users as the reason CreateContainerConfigError.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvError {
    /// A field that the downward API doesn't offer.
    #[error("field path \"{0}\" is not supported in an environment variable")]
    FieldPath(String),
    /// A source that this kubelet doesn't read.
    #[error("environment variable {0}: its source is not supported")]
    Source(String),
    /// An object, or a key of it, that isn't there.
    #[error("{0}")]
    Missing(String),
}

/// The values so far, in the order in which their names first came.
#[derive(Default)]
struct Values {
    values: BTreeMap<String, String>,
    order: Vec<String>,
}

impl Values {
    fn set(&mut self, name: String, value: String) {
        if self.values.insert(name.clone(), value).is_none() {
            self.order.push(name);
        }
    }

    fn into_pairs(mut self) -> Vec<(String, String)> {
        let pair = |name: String| self.values.remove(&name).map(|value| (name, value));
        self.order.into_iter().filter_map(pair).collect()
    }
}

/// The environment of `container`, in order, a later entry of one name replacing an earlier one's value.
///
/// `pod_ips` are the pod's addresses (the node's in the host's network); `client` reads config maps, secrets and services.
pub(crate) async fn environment(
    client: &Client,
    pod: &Pod,
    container: &Container,
    pod_ips: &[IpAddr],
    host_ip: IpAddr,
) -> Result<Vec<(String, String)>, EnvError> {
    let maker =
        Maker { client, pod, container, pod_ips, host_ip, namespace: pod.namespace().unwrap_or_default() };
    let mut values = Values::default();
    for (name, value) in maker.services().await? {
        values.set(name, value);
    }
    maker.sources(&mut values).await?;
    for variable in container.env.iter().flatten() {
        if let Some(value) = maker.value_of(variable, &values.values).await? {
            values.set(variable.name.clone(), value);
        }
    }
    Ok(values.into_pairs())
}

struct Maker<'a> {
    client: &'a Client,
    pod: &'a Pod,
    container: &'a Container,
    pod_ips: &'a [IpAddr],
    host_ip: IpAddr,
    namespace: String,
}

impl Maker<'_> {
    /// `envFrom`.
    async fn sources(&self, values: &mut Values) -> Result<(), EnvError> {
        for source in self.container.env_from.iter().flatten() {
            let prefix = source.prefix.as_deref().unwrap_or_default();
            let data = if let Some(map) = &source.config_map_ref {
                self.needed("configmap", &map.name, self.config_map(&map.name).await?, map.optional)?
            } else if let Some(secret) = &source.secret_ref {
                self.needed("secret", &secret.name, self.secret(&secret.name).await?, secret.optional)?
            } else {
                BTreeMap::new()
            };
            for (key, value) in data {
                let name = format!("{prefix}{key}");
                if kubelite_api::names::env_name(&name).is_empty() {
                    values.set(name, value);
                }
            }
        }
        Ok(())
    }

    async fn value_of(
        &self,
        variable: &EnvVar,
        earlier: &BTreeMap<String, String>,
    ) -> Result<Option<String>, EnvError> {
        match &variable.value_from {
            None => Ok(Some(expand(variable.value.as_deref().unwrap_or_default(), earlier))),
            Some(from) => self.value_from(&variable.name, from).await,
        }
    }

    async fn value_from(&self, name: &str, from: &EnvVarSource) -> Result<Option<String>, EnvError> {
        if let Some(field) = &from.field_ref {
            return self.field(&field.field_path).map(Some);
        }
        if let Some(resource) = &from.resource_field_ref {
            return self.resource(resource).await.map(Some);
        }
        let (what, object, key, optional, data) = if let Some(wanted) = &from.config_map_key_ref {
            ("ConfigMap", &wanted.name, &wanted.key, wanted.optional, self.config_map(&wanted.name).await?)
        } else if let Some(wanted) = &from.secret_key_ref {
            ("Secret", &wanted.name, &wanted.key, wanted.optional, self.secret(&wanted.name).await?)
        } else {
            return Err(EnvError::Source(name.to_owned()));
        };
        let found = self.needed(&what.to_lowercase(), object, data, optional)?.remove(key);
        if found.is_none() && optional != Some(true) {
            return Err(EnvError::Missing(format!(
                "couldn't find key {key} in {what} {}/{object}",
                self.namespace
            )));
        }
        Ok(found)
    }

    fn field(&self, path: &str) -> Result<String, EnvError> {
        let spec = self.pod.spec.as_ref();
        Ok(match path {
            "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
            "spec.serviceAccountName" => {
                spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default()
            }
            "status.hostIP" | "status.hostIPs" => self.host_ip.to_string(),
            "status.podIP" => self.pod_ips.first().map(ToString::to_string).unwrap_or_default(),
            "status.podIPs" => self.pod_ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            other => return volume_field(other, self.pod),
        })
    }

    /// A limit that is not set is what the node can give.
    async fn resource(&self, wanted: &ResourceFieldSelector) -> Result<String, EnvError> {
        let container = wanted.container_name.as_deref().or(Some(self.container.name.as_str()));
        if let Some(value) = resource_value(self.pod, container, wanted, None) {
            return Ok(value);
        }
        let node = self.pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
        let node = Api::<Node>::all(self.client.clone())
            .get(&node)
            .await
            .map_err(|e| EnvError::Missing(message(&e)))?;
        let value = resource_value(self.pod, container, wanted, Some(&node));
        value.ok_or_else(|| EnvError::Missing(format!("the resource {} is not known here", wanted.resource)))
    }

    fn needed(
        &self,
        what: &str,
        name: &str,
        data: Option<BTreeMap<String, String>>,
        optional: Option<bool>,
    ) -> Result<BTreeMap<String, String>, EnvError> {
        match data {
            Some(data) => Ok(data),
            None if optional == Some(true) => Ok(BTreeMap::new()),
            None => Err(EnvError::Missing(format!("{what} \"{name}\" not found"))),
        }
    }

    async fn config_map(&self, name: &str) -> Result<Option<BTreeMap<String, String>>, EnvError> {
        let found = Api::<ConfigMap>::namespaced(self.client.clone(), &self.namespace).get_opt(name).await;
        Ok(found.map_err(|e| EnvError::Missing(message(&e)))?.map(|map| map.data.unwrap_or_default()))
    }

    async fn secret(&self, name: &str) -> Result<Option<BTreeMap<String, String>>, EnvError> {
        let found = Api::<Secret>::namespaced(self.client.clone(), &self.namespace).get_opt(name).await;
        let found = found.map_err(|e| EnvError::Missing(message(&e)))?;
        let text = |(key, bytes): (String, k8s_openapi::ByteString)| {
            (key, String::from_utf8_lossy(&bytes.0).into_owned())
        };
        Ok(found.map(|secret| secret.data.unwrap_or_default().into_iter().map(text).collect()))
    }

    /// The variables by which a pod finds services that were there before it; `kubernetes` always.
    async fn services(&self) -> Result<Vec<(String, String)>, EnvError> {
        let failed = |e: kube::Error| EnvError::Missing(message(&e));
        let links = self.pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
        let mut services = Vec::new();
        if self.namespace != "default" || !links {
            let api: Api<Service> = Api::namespaced(self.client.clone(), "default");
            services.extend(api.get_opt("kubernetes").await.map_err(failed)?);
        }
        if links {
            let api: Api<Service> = Api::namespaced(self.client.clone(), &self.namespace);
            services.extend(api.list(&ListParams::default()).await.map_err(failed)?);
        }
        Ok(services.iter().flat_map(service_variables).collect())
    }
}

/// `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT` and the older `NAME_PORT_…` of one service.
fn service_variables(service: &Service) -> Vec<(String, String)> {
    let spec = service.spec.as_ref();
    let ip = spec.and_then(|s| s.cluster_ip.clone()).filter(|ip| !ip.is_empty() && ip != "None");
    let ports = spec.and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let (Some(ip), Some(first)) = (ip, ports.first()) else { return Vec::new() };
    let name = service.name_any().to_uppercase().replace('-', "_");
    let mut found = vec![
        (format!("{name}_SERVICE_HOST"), ip.clone()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in ports {
        if let Some(port_name) = &port.name {
            let port_name = port_name.to_uppercase().replace('-', "_");
            found.push((format!("{name}_SERVICE_PORT_{port_name}"), port.port.to_string()));
        }
    }
    for (i, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{ip}:{}", protocol.to_lowercase(), port.port);
        if i == 0 {
            found.push((format!("{name}_PORT"), url.clone()));
        }
        let base = format!("{name}_PORT_{}_{protocol}", port.port);
        found.push((base.clone(), url));
        found.push((format!("{base}_PROTO"), protocol.to_lowercase()));
        found.push((format!("{base}_PORT"), port.port.to_string()));
        found.push((format!("{base}_ADDR"), ip.clone()));
    }
    found
}

/// A field of the pod's metadata, which files can have as well as variables.
pub(crate) fn volume_field(path: &str, pod: &Pod) -> Result<String, EnvError> {
    let key = |rest: &str| rest.strip_suffix("']").map(str::to_owned);
    let all = |map: &BTreeMap<String, String>| {
        map.iter().map(|(k, v)| format!("{k}={v:?}\n")).collect::<String>().trim_end().to_owned()
    };
    if let Some(key) = path.strip_prefix("metadata.labels['").and_then(key) {
        return Ok(pod.labels().get(&key).cloned().unwrap_or_default());
    }
    if let Some(key) = path.strip_prefix("metadata.annotations['").and_then(key) {
        return Ok(pod.annotations().get(&key).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "metadata.labels" => all(pod.labels()),
        "metadata.annotations" => all(pod.annotations()),
        other => return Err(EnvError::FieldPath(other.to_string())),
    })
}

/// A container's request or limit in units of the divisor, rounded up; of a limit that is not set, what `node` can give.
pub(crate) fn resource_value(
    pod: &Pod,
    container: Option<&str>,
    wanted: &ResourceFieldSelector,
    node: Option<&Node>,
) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let resources =
        containers.find(|c| Some(c.name.as_str()) == container)?.resources.clone().unwrap_or_default();
    let (kind, name) = wanted.resource.split_once('.')?;
    let own = if kind == "limits" { resources.limits } else { resources.requests };
    let given = own.and_then(|map| map.get(name).cloned());
    let allocatable = || node?.status.as_ref()?.allocatable.as_ref()?.get(name).cloned();
    let unset =
        || (kind == "requests").then(|| k8s_openapi::apimachinery::pkg::api::resource::Quantity("0".into()));
    let amount: Quantity = given.or_else(allocatable).or_else(unset)?.0.parse().ok()?;
    let divisor = wanted.divisor.as_ref().and_then(|d| d.0.parse::<Quantity>().ok()).filter(|d| !d.is_zero());
    let divisor = divisor.map_or(1000, |d| d.milli_value());
    let milli = amount.milli_value();
    Some((milli / divisor + i64::from(milli % divisor > 0)).to_string())
}

/// Replaces `$(NAME)` by the value of NAME where there is one; `$$` stands for one dollar sign.
pub(crate) fn expand(text: &str, values: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(escaped) = after.strip_prefix('$') {
            out.push('$');
            rest = escaped;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match values.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expansion() {
        let values = BTreeMap::from([("A".to_string(), "1".to_string())]);
        let cases =
            [("$(A)", "1"), ("x$(A)y$(B)", "x1y$(B)"), ("$$(A)", "$(A)"), ("$A $", "$A $"), ("$(A", "$(A")];
        for (text, expected) in cases {
            assert_eq!(expand(text, &values), expected, "{text}");
        }
    }

    #[test]
    fn services_are_told_as_variables() {
        let service = serde_json::from_value(json!({
            "metadata": {"name": "my-db"},
            "spec": {"clusterIP": "10.43.0.9", "ports": [{"name": "sql", "port": 5432}]},
        }));
        let found: BTreeMap<_, _> = service_variables(&service.unwrap()).into_iter().collect();
        for (name, value) in [
            ("MY_DB_SERVICE_HOST", "10.43.0.9"),
            ("MY_DB_SERVICE_PORT", "5432"),
            ("MY_DB_SERVICE_PORT_SQL", "5432"),
            ("MY_DB_PORT", "tcp://10.43.0.9:5432"),
            ("MY_DB_PORT_5432_TCP_ADDR", "10.43.0.9"),
        ] {
            assert_eq!(found.get(name).map(String::as_str), Some(value), "{name}");
        }
        let headless = serde_json::from_value(
            json!({"metadata": {"name": "h"}, "spec": {"clusterIP": "None", "ports": [{"port": 1}]}}),
        );
        assert!(service_variables(&headless.unwrap()).is_empty());
    }

    #[test]
    fn resources_are_told_in_units_of_the_divisor() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [
            {"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}}}]}}))
        .unwrap();
        let told = |resource: &str, divisor: &str| {
            let wanted = serde_json::from_value(json!({"resource": resource, "divisor": divisor})).unwrap();
            resource_value(&pod, Some("c"), &wanted, None)
        };
        assert_eq!(told("limits.cpu", "1").as_deref(), Some("2"), "rounded up");
        assert_eq!(told("limits.cpu", "1m").as_deref(), Some("1500"));
        assert_eq!(told("limits.memory", "1Mi").as_deref(), Some("64"));
        assert_eq!(told("requests.cpu", "1").as_deref(), Some("0"));
        assert_eq!(told("limits.ephemeral-storage", "1"), None);
    }

    #[test]
    fn fields_of_the_metadata() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "labels": {"a": "x", "b.c/d": "y"}}}))
                .unwrap();
        assert_eq!(volume_field("metadata.labels['b.c/d']", &pod).unwrap(), "y");
        assert_eq!(volume_field("metadata.labels", &pod).unwrap(), "a=\"x\"\nb.c/d=\"y\"");
        assert!(volume_field("spec.nothing", &pod).is_err());
    }
}
