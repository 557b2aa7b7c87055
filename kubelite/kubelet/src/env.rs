//! A container's environment.
//!
//! Sources are read first, then a pure function puts them together: services, `envFrom`, `env`, each one stronger than the
//! one before, and `$(NAME)` in a value refers to what came earlier.

mod services;

use crate::downward::{self, Allocatable};
use crate::pod::spec;
use crate::volumes::source;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, Pod, Service};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Why an environment can't be made. Shown to users as the reason CreateContainerConfigError.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvError {
    /// A field that the downward API doesn't offer.
    #[error("field path \"{0}\" is not supported in an environment variable")]
    FieldPath(String),
    /// A container or resource that a variable refers to is not there.
    #[error("environment variable {0}: {1}")]
    Resource(String, String),
    /// A source that this kubelet doesn't read.
    #[error("environment variable {0}: its source is not supported")]
    Source(String),
    /// A config map or secret is not there.
    #[error("{} \"{name}\" not found", .kind.to_lowercase())]
    Missing {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// It is there but has no such key.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    Key {
        /// The key.
        key: String,
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// The pod's namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// An entry is not text.
    #[error("environment variable {0}: the value is not UTF-8")]
    NotText(String),
    /// The API server doesn't answer.
    #[error("{0}")]
    Api(String),
}

/// A map's entries, or None if there is no such map.
type Entries = Option<BTreeMap<String, Vec<u8>>>;
/// The maps that an environment refers to, by kind and name.
type Maps = BTreeMap<(&'static str, String), Entries>;

const CONFIG_MAP: &str = "ConfigMap";
const SECRET: &str = "Secret";

/// The environment of `container`, in order, a later entry of one name replacing an earlier one's value.
///
/// `pod_ips` are the pod's addresses (the node's in the host's network); `client` reads config maps, secrets and services.
pub(crate) async fn environment(
    client: &kube::Client,
    pod: &Pod,
    container: &Container,
    pod_ips: &[IpAddr],
    host_ip: IpAddr,
) -> Result<Vec<(String, String)>, EnvError> {
    let namespace = pod.namespace().unwrap_or_default();
    let mut maps = Maps::new();
    for (kind, name) in references(container) {
        let entries = match kind {
            SECRET => source::secret(client, &namespace, &name).await,
            _ => source::config_map(client, &namespace, &name).await,
        };
        maps.insert((kind, name), entries.map_err(EnvError::Api)?);
    }
    let services = read_services(client, pod).await?;
    let facts = Facts { pod, container, pod_ips, host_ip, maps, node: Allocatable::measure() };
    facts.assemble(services)
}

/// The variables that tell of services: those of the pod's namespace if it wants them, and always the API server.
async fn read_services(client: &kube::Client, pod: &Pod) -> Result<Vec<(String, String)>, EnvError> {
    let failed = |e: kube::Error| EnvError::Api(format!("services can't be read: {e}"));
    let master = Api::<Service>::namespaced(client.clone(), "default").get_opt("kubernetes").await;
    let mut all: Vec<Service> = master.map_err(failed)?.into_iter().collect();
    if spec::of(pod).enable_service_links.unwrap_or(true) {
        let namespace = pod.namespace().unwrap_or_default();
        let services = Api::<Service>::namespaced(client.clone(), &namespace);
        all.extend(services.list(&ListParams::default()).await.map_err(failed)?.items);
    }
    Ok(all.iter().flat_map(services::variables).collect())
}

/// The maps that the container's environment refers to.
fn references(container: &Container) -> Vec<(&'static str, String)> {
    let from = container.env_from.iter().flatten().flat_map(|from| {
        let map = from.config_map_ref.as_ref().map(|r| (CONFIG_MAP, r.name.clone()));
        map.into_iter().chain(from.secret_ref.as_ref().map(|r| (SECRET, r.name.clone())))
    });
    let keys = container.env.iter().flatten().filter_map(|v| v.value_from.as_ref()).flat_map(|from| {
        let map = from.config_map_key_ref.as_ref().map(|r| (CONFIG_MAP, r.name.clone()));
        map.into_iter().chain(from.secret_key_ref.as_ref().map(|r| (SECRET, r.name.clone())))
    });
    from.chain(keys).collect()
}

/// Variables in the order of their first appearance.
#[derive(Default)]
struct Variables {
    order: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Variables {
    fn set(&mut self, name: String, value: String) {
        if self.values.insert(name.clone(), value).is_none() {
            self.order.push(name);
        }
    }

    fn list(mut self) -> Vec<(String, String)> {
        let order = std::mem::take(&mut self.order);
        order.into_iter().filter_map(|name| self.values.remove_entry(&name)).collect()
    }
}

/// All that an environment is made from.
struct Facts<'a> {
    pod: &'a Pod,
    container: &'a Container,
    pod_ips: &'a [IpAddr],
    host_ip: IpAddr,
    maps: Maps,
    node: Allocatable,
}

impl Facts<'_> {
    fn assemble(&self, services: Vec<(String, String)>) -> Result<Vec<(String, String)>, EnvError> {
        let mut variables = Variables::default();
        for (name, value) in services {
            variables.set(name, value);
        }
        for from in self.container.env_from.iter().flatten() {
            let prefix = from.prefix.as_deref().unwrap_or_default();
            let map = from.config_map_ref.as_ref().map(|r| (CONFIG_MAP, &r.name, r.optional));
            let secret = from.secret_ref.as_ref().map(|r| (SECRET, &r.name, r.optional));
            for (kind, name, optional) in map.into_iter().chain(secret) {
                self.take_all(kind, name, optional.unwrap_or(false), prefix, &mut variables)?;
            }
        }
        for variable in self.container.env.iter().flatten() {
            if let Some(value) = self.value(variable, &variables.values)? {
                variables.set(variable.name.clone(), value);
            }
        }
        Ok(variables.list())
    }

    fn take_all(
        &self,
        kind: &'static str,
        name: &str,
        optional: bool,
        prefix: &str,
        variables: &mut Variables,
    ) -> Result<(), EnvError> {
        let Some(entries) = self.entries(kind, name, optional)? else { return Ok(()) };
        for (key, value) in entries {
            let name = format!("{prefix}{key}");
            // A map may have keys that are no names of variables; the others count.
            if !kubelite_api::names::env_name(&name).is_empty() {
                continue;
            }
            let value = String::from_utf8(value.clone()).map_err(|_| EnvError::NotText(name.clone()))?;
            variables.set(name, value);
        }
        Ok(())
    }

    fn entries(
        &self,
        kind: &'static str,
        name: &str,
        optional: bool,
    ) -> Result<Option<&BTreeMap<String, Vec<u8>>>, EnvError> {
        match self.maps.get(&(kind, name.to_string())) {
            Some(Some(entries)) => Ok(Some(entries)),
            _ if optional => Ok(None),
            _ => Err(EnvError::Missing { kind, name: name.to_string() }),
        }
    }

    /// The variable's value; None if it has an optional source that is not there.
    fn value(
        &self,
        variable: &EnvVar,
        earlier: &BTreeMap<String, String>,
    ) -> Result<Option<String>, EnvError> {
        let Some(from) = &variable.value_from else {
            return Ok(Some(expand(variable.value.as_deref().unwrap_or_default(), earlier)));
        };
        if let Some(field) = &from.field_ref {
            return self.field(&field.field_path).map(Some);
        }
        if let Some(resource) = &from.resource_field_ref {
            let value = downward::resource(self.pod, Some(self.container), resource, self.node);
            return value.map(Some).map_err(|e| EnvError::Resource(variable.name.clone(), e));
        }
        self.key(variable, from)
    }

    fn key(&self, variable: &EnvVar, from: &EnvVarSource) -> Result<Option<String>, EnvError> {
        let (kind, name, key, optional) = match (&from.config_map_key_ref, &from.secret_key_ref) {
            (Some(map), _) => (CONFIG_MAP, &map.name, &map.key, map.optional),
            (None, Some(secret)) => (SECRET, &secret.name, &secret.key, secret.optional),
            (None, None) => return Err(EnvError::Source(variable.name.clone())),
        };
        let optional = optional.unwrap_or(false);
        let Some(entries) = self.entries(kind, name, optional)? else { return Ok(None) };
        match entries.get(key) {
            Some(value) => {
                let text = String::from_utf8(value.clone());
                text.map(Some).map_err(|_| EnvError::NotText(variable.name.clone()))
            }
            None if optional => Ok(None),
            None => Err(EnvError::Key {
                key: key.clone(),
                kind,
                namespace: self.pod.namespace().unwrap_or_default(),
                name: name.clone(),
            }),
        }
    }

    fn field(&self, path: &str) -> Result<String, EnvError> {
        let spec = spec::of(self.pod);
        Ok(match path {
            "spec.nodeName" => spec.node_name.clone().unwrap_or_default(),
            "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
            "status.hostIP" | "status.hostIPs" => self.host_ip.to_string(),
            "status.podIP" => self.pod_ips.first().map(ToString::to_string).unwrap_or_default(),
            "status.podIPs" => self.pod_ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            other => downward::metadata(self.pod, other).ok_or(EnvError::FieldPath(other.into()))?,
        })
    }
}

/// Replaces `$(NAME)` by the value of NAME where there is one; `$$` stands for one dollar sign.
pub(crate) fn expand(text: &str, values: &BTreeMap<String, String>) -> String {
    substitute(text, |name| values.get(name).cloned())
}

/// The names that `text` refers to and that have no value.
pub(crate) fn unknown(text: &str, values: &BTreeMap<String, String>) -> Vec<String> {
    let mut unknown = vec![];
    substitute(text, |name| {
        if !values.contains_key(name) {
            unknown.push(name.to_string());
        }
        None
    });
    unknown
}

fn substitute(text: &str, mut value: impl FnMut(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(escaped) = after.strip_prefix('$') {
            out.push('$');
            rest = escaped;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|r| r.split_once(')')) {
            out.push_str(&value(name).unwrap_or_else(|| format!("$({name})")));
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
    use serde_json::{Value, json};

    #[test]
    fn expansion() {
        let values = BTreeMap::from([("A".to_string(), "1".to_string())]);
        let cases = [
            ("$(A)", "1"),
            ("x$(A)y$(B)", "x1y$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("é$(A)", "é1"),
        ];
        for (text, expected) in cases {
            assert_eq!(expand(text, &values), expected, "{text}");
        }
        assert_eq!(unknown("$(A)/$(B)/$$(C)", &values), ["B"]);
    }

    fn assemble(container: Value) -> Result<String, String> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "ns", "uid": "u", "labels": { "app": "web" } },
            "spec": { "nodeName": "n", "serviceAccountName": "robot", "containers": [] },
        }))
        .unwrap();
        let mut container = container;
        container["name"] = "c".into();
        let container: Container = serde_json::from_value(container).unwrap();
        let entries = |all: &[(&str, &[u8])]| {
            Some(all.iter().map(|(k, v)| (k.to_string(), v.to_vec())).collect::<BTreeMap<_, _>>())
        };
        let maps = Maps::from([
            ((CONFIG_MAP, "m".into()), entries(&[("a", b"1"), ("b", b"2")])),
            ((SECRET, "s".into()), entries(&[("bytes", &[0xff])])),
        ]);
        let ips = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let node = Allocatable { cpus: 2, memory: 1_000_000_000 };
        let host_ip = "192.0.2.1".parse().unwrap();
        let facts = Facts { pod: &pod, container: &container, pod_ips: &ips, host_ip, maps, node };
        let list = facts.assemble(vec![("SVC".into(), "x".into())]).map_err(|e| e.to_string())?;
        Ok(list.into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn environments() {
        let field = |path: &str| json!({ "env": [{ "name": "F", "valueFrom": { "fieldRef": { "fieldPath": path } } }] });
        let key = |kind: &str, name: &str, key: &str, optional: bool| json!({ "env": [{ "name": "K", "valueFrom": { kind: { "name": name, "key": key, "optional": optional } } }] });
        let cases = [
            (
                json!({ "env": [{ "name": "A", "value": "1" }, { "name": "B", "value": "$(A)$(SVC)" }, { "name": "A", "value": "2" }] }),
                Ok("SVC=x A=2 B=1x"),
            ),
            (
                json!({ "envFrom": [{ "prefix": "P_", "configMapRef": { "name": "m" } }, { "secretRef": { "name": "no", "optional": true } }],
                    "env": [{ "name": "P_b", "value": "own" }] }),
                Ok("SVC=x P_a=1 P_b=own"),
            ),
            (json!({ "env": [{ "name": "SVC", "value": "own" }] }), Ok("SVC=own")),
            (field("metadata.labels['app']"), Ok("SVC=x F=web")),
            (field("spec.serviceAccountName"), Ok("SVC=x F=robot")),
            (field("status.podIPs"), Ok("SVC=x F=10.0.0.1,fd00::1")),
            (field("status.hostIP"), Ok("SVC=x F=192.0.2.1")),
            (
                field("metadata.labels"),
                Err("field path \"metadata.labels\" is not supported in an environment variable"),
            ),
            (
                json!({ "env": [{ "name": "R", "valueFrom": { "resourceFieldRef": { "resource": "limits.cpu" } } }] }),
                Ok("SVC=x R=2"),
            ),
            (key("configMapKeyRef", "m", "a", false), Ok("SVC=x K=1")),
            (key("configMapKeyRef", "m", "z", true), Ok("SVC=x")),
            (key("configMapKeyRef", "m", "z", false), Err("couldn't find key z in ConfigMap ns/m")),
            (key("secretKeyRef", "s", "z", false), Err("couldn't find key z in Secret ns/s")),
            (key("secretKeyRef", "no", "z", false), Err("secret \"no\" not found")),
            (key("secretKeyRef", "no", "z", true), Ok("SVC=x")),
            (key("secretKeyRef", "s", "bytes", false), Err("environment variable K: the value is not UTF-8")),
            (json!({ "envFrom": [{ "configMapRef": { "name": "no" } }] }), Err("configmap \"no\" not found")),
        ];
        for (container, expected) in cases {
            let expected = expected.map(str::to_string).map_err(str::to_string);
            assert_eq!(assemble(container.clone()), expected, "{container}");
        }
    }
}
