//! The names of the cluster, as the Kubernetes DNS specification (version 1.1.0) wants them. Pure: services and endpoint slices in,
//! an immutable zone out.
//!
//! Names here are in lower case and without the last dot. IPv4 only.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::ResourceExt;

/// The label that says whose a slice is.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// What `dns-version` says.
const VERSION: &str = "1.1.0";

/// What stands under a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// An address.
    A(Ipv4Addr),
    /// A port, and the name of its host.
    Srv(u16, String),
    /// Another name for what is elsewhere.
    Alias(String),
    /// The name of an address.
    Ptr(String),
    /// Text.
    Text(String),
}

/// The zone of the cluster's domain and the names of its addresses.
#[derive(Debug, Default)]
pub struct Zone {
    domain: String,
    names: HashMap<String, BTreeSet<Data>>,
    /// Names that only lead to others, like `svc.cluster.local`: they exist and have no records.
    between: HashSet<String>,
}

/// What the zone knows of a name.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Its records, of all types.
    Records(Vec<Data>),
    /// There is no such name.
    Nothing,
    /// The name is none of this zone's.
    Foreign,
}

impl Zone {
    /// The zone of these services.
    pub fn new(domain: &str, services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> Zone {
        let mut zone = Zone { domain: domain.to_lowercase(), ..Zone::default() };
        zone.add(&format!("dns-version.{domain}"), Data::Text(VERSION.to_owned()));
        let mut by_service: HashMap<(String, &str), Vec<&EndpointSlice>> = HashMap::new();
        for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
            if let Some(name) = slice.labels().get(SERVICE_LABEL) {
                by_service.entry((slice.namespace().unwrap_or_default(), name)).or_default().push(slice);
            }
        }
        for service in services {
            let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
            let slices = by_service.get(&(namespace, name.as_str())).map(Vec::as_slice).unwrap_or_default();
            zone.add_service(service, slices);
        }
        zone
    }

    fn add_service(&mut self, service: &Service, slices: &[&EndpointSlice]) {
        let Some(spec) = &service.spec else { return };
        let name =
            format!("{}.{}.svc.{}", service.name_any(), service.namespace().unwrap_or_default(), self.domain);
        if spec.type_.as_deref() == Some("ExternalName") {
            let target =
                spec.external_name.as_deref().unwrap_or_default().trim_end_matches('.').to_lowercase();
            return self.add(&name, Data::Alias(target));
        }
        let Some(ip) = spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok()) else {
            return slices.iter().for_each(|slice| self.add_headless(&name, slice));
        };
        self.add(&name, Data::A(ip));
        self.add(&reverse(ip), Data::Ptr(name.clone()));
        for port in spec.ports.iter().flatten() {
            self.add_port(&name, port.name.as_deref(), port.protocol.as_deref(), port.port, &name);
        }
    }

    /// Without an address of its own a service's name is the names of its endpoints.
    fn add_headless(&mut self, service: &str, slice: &EndpointSlice) {
        for endpoint in slice.endpoints.iter().flatten().filter(|endpoint| is_ready(endpoint)) {
            for ip in endpoint.addresses.iter().filter_map(|ip| ip.parse::<Ipv4Addr>().ok()) {
                let host = endpoint.hostname.clone().unwrap_or_else(|| ip.to_string().replace('.', "-"));
                let host = format!("{host}.{service}");
                self.add(service, Data::A(ip));
                self.add(&host, Data::A(ip));
                self.add(&reverse(ip), Data::Ptr(host.clone()));
                for port in slice.ports.iter().flatten() {
                    let number = port.port.unwrap_or(0);
                    self.add_port(service, port.name.as_deref(), port.protocol.as_deref(), number, &host);
                }
            }
        }
    }

    /// Only ports with a name have one in DNS.
    fn add_port(&mut self, service: &str, name: Option<&str>, protocol: Option<&str>, port: i32, host: &str) {
        let (Some(name), Ok(port)) = (name.filter(|name| !name.is_empty()), u16::try_from(port)) else {
            return;
        };
        let protocol = protocol.unwrap_or("TCP").to_lowercase();
        self.add(&format!("_{name}._{protocol}.{service}"), Data::Srv(port, host.to_owned()));
    }

    fn add(&mut self, name: &str, data: Data) {
        let name = name.to_lowercase();
        let mut parent = name.as_str();
        while let Some((_, above)) = parent.split_once('.').filter(|(_, above)| above.ends_with(&self.domain))
        {
            if !self.between.insert(above.to_owned()) {
                break;
            }
            parent = above;
        }
        self.names.entry(name).or_default().insert(data);
    }

    /// The cluster's domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// What there is of a name in lower case.
    pub fn find(&self, name: &str) -> Found {
        if let Some(records) = self.names.get(name) {
            return Found::Records(records.iter().cloned().collect());
        }
        let inside = name.strip_suffix(&self.domain).filter(|rest| rest.is_empty() || rest.ends_with('.'));
        let Some(rest) = inside else { return Found::Foreign };
        if let Some(ip) = pod(rest) {
            return Found::Records(vec![Data::A(ip)]);
        }
        if rest.is_empty() || rest == "pod." || self.between.contains(name) {
            return Found::Records(Vec::new());
        }
        Found::Nothing
    }
}

/// `10-42-0-7.default.pod.`: a pod's address spells its name, whether or not there is such a pod.
fn pod(rest: &str) -> Option<Ipv4Addr> {
    let (address, namespace) = rest.strip_suffix(".pod.")?.split_once('.')?;
    if namespace.contains('.') {
        return None;
    }
    address.replace('-', ".").parse().ok().filter(|_| !address.contains('.'))
}

/// Ready, or published although it isn't (the controller says ready for those); those that leave get no new clients.
fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
}

/// The name under which an address is looked up (RFC 1035, 3.5).
fn reverse(ip: impl Into<IpAddr>) -> String {
    match ip.into() {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(ip) => {
            let nibbles = ip.octets().into_iter().rev().flat_map(|b| [b & 15, b >> 4]);
            nibbles.map(|n| format!("{n:x}.")).collect::<String>() + "ip6.arpa"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn object<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn zone() -> Zone {
        let service = |name: &str, spec: Value| {
            object::<Service>(json!({ "metadata": {"name": name, "namespace": "shop"}, "spec": spec }))
        };
        let services = [
            service(
                "web",
                json!({ "clusterIP": "10.43.0.9", "ports": [{"name": "http", "port": 80}, {"port": 81}] }),
            ),
            service("db", json!({ "clusterIP": "None", "ports": [{"name": "pg", "port": 5432}] })),
            service("out", json!({ "type": "ExternalName", "externalName": "Example.Test." })),
        ];
        let slices = [object::<EndpointSlice>(json!({
            "metadata": {"name": "db-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}},
            "addressType": "IPv4", "ports": [{"name": "pg", "port": 5432, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.42.1.2"], "hostname": "db-0", "conditions": {"ready": true}},
                {"addresses": ["10.42.1.3"], "conditions": {"ready": true}},
                {"addresses": ["10.42.1.4"], "conditions": {"ready": false}},
            ],
        }))];
        Zone::new("cluster.local", &services, &slices)
    }

    #[test]
    fn names_are_those_of_the_specification() {
        let zone = zone();
        let a = |last| Data::A(Ipv4Addr::new(10, 42, 1, last));
        let table = [
            ("web.shop.svc.cluster.local", vec![Data::A([10, 43, 0, 9].into())]),
            (
                "_http._tcp.web.shop.svc.cluster.local",
                vec![Data::Srv(80, "web.shop.svc.cluster.local".into())],
            ),
            ("9.0.43.10.in-addr.arpa", vec![Data::Ptr("web.shop.svc.cluster.local".into())]),
            ("db.shop.svc.cluster.local", vec![a(2), a(3)]),
            ("db-0.db.shop.svc.cluster.local", vec![a(2)]),
            ("10-42-1-3.db.shop.svc.cluster.local", vec![a(3)]),
            ("2.1.42.10.in-addr.arpa", vec![Data::Ptr("db-0.db.shop.svc.cluster.local".into())]),
            (
                "_pg._tcp.db.shop.svc.cluster.local",
                vec![
                    Data::Srv(5432, "10-42-1-3.db.shop.svc.cluster.local".into()),
                    Data::Srv(5432, "db-0.db.shop.svc.cluster.local".into()),
                ],
            ),
            ("out.shop.svc.cluster.local", vec![Data::Alias("example.test".into())]),
            ("10-42-1-9.shop.pod.cluster.local", vec![Data::A([10, 42, 1, 9].into())]),
            ("dns-version.cluster.local", vec![Data::Text("1.1.0".into())]),
        ];
        for (name, records) in table {
            assert_eq!(zone.find(name), Found::Records(records), "{name}");
        }
    }

    #[test]
    fn what_is_empty_what_is_not_there_and_what_is_not_ours() {
        let zone = zone();
        for empty in [
            "cluster.local",
            "svc.cluster.local",
            "shop.svc.cluster.local",
            "_tcp.web.shop.svc.cluster.local",
            "pod.cluster.local",
        ] {
            assert_eq!(zone.find(empty), Found::Records(Vec::new()), "{empty}");
        }
        for missing in [
            "no.shop.svc.cluster.local",
            "x.svc.cluster.local",
            "web.cluster.local",
            "1-2-3.shop.pod.cluster.local",
            "10.42.1.9.shop.pod.cluster.local",
        ] {
            assert_eq!(zone.find(missing), Found::Nothing, "{missing}");
        }
        for foreign in ["example.test", "mycluster.local", "local", "", "1.1.1.10.in-addr.arpa"] {
            assert_eq!(zone.find(foreign), Found::Foreign, "{foreign}");
        }
    }
}
