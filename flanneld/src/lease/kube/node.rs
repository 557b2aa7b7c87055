//! What stands on a node object: its part of the pods' network, and in its annotations how it is reached, byte for byte as flannel writes and
//! reads them. Pure.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnetwork::{IpNetwork, Ipv4Network};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::annotations::Annotations;
use crate::lease::key::{self, Advert, Lease, encode_key};
use crate::lease::store::Record;

/// Of a node object what is needed here.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Node {
    /// Name, version and annotations.
    pub metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

/// See [`Node`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// The node's.
    pub name: String,
    /// The object's, to watch from.
    pub resource_version: String,
    annotations: BTreeMap<String, String>,
    creation_timestamp: Option<Time>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Spec {
    #[serde(rename = "podCIDR")]
    cidr: String,
    #[serde(rename = "podCIDRs")]
    cidrs: Vec<String>,
}

/// Why a node can't be one of this network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadNode {
    /// Nobody gave it a part of the pods' network yet.
    #[error(
        "node {0}: spec.podCIDR is not assigned: start the controller manager with --allocate-node-cidrs=true and --cluster-cidr (kubeadm: \
         --pod-network-cidr; kubelite: --allocate-node-cidrs), or set it by hand"
    )]
    Unassigned(String),
    /// What it was given is no network, or none of IPv4.
    #[error("node {0}: spec.podCIDRs {1:?} must hold one IPv4 network, and at most one of IPv6 beside it")]
    Cidrs(String, Vec<String>),
    /// What it was given is not of this network.
    #[error(
        "node {0}: spec.podCIDR {1} does not lie in the net config's Network {2}: one of the two must change"
    )]
    Outside(String, Ipv4Network, Ipv4Network),
    /// An annotation that a person set.
    #[error("node {0}: annotation {1}={2} is no address of a host")]
    Address(String, String, String),
}

impl Node {
    fn annotation(&self, name: &str) -> Option<&str> {
        self.metadata.annotations.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Its part of the pods' network.
    fn cidr(&self) -> Result<Ipv4Network, BadNode> {
        let name = &self.metadata.name;
        let texts =
            if self.spec.cidrs.is_empty() { std::slice::from_ref(&self.spec.cidr) } else { &self.spec.cidrs };
        if texts.iter().all(String::is_empty) {
            return Err(BadNode::Unassigned(name.clone()));
        }
        let bad = || BadNode::Cidrs(name.clone(), texts.to_vec());
        let all: Vec<IpNetwork> =
            texts.iter().map(|text| text.parse()).collect::<Result<_, _>>().map_err(|_| bad())?;
        let mut found =
            all.iter().filter_map(|net| if let IpNetwork::V4(net) = net { Some(*net) } else { None });
        match (found.next(), found.next(), all.len()) {
            (Some(net), None, 1..=2) => Ipv4Network::new(net.network(), net.prefix()).map_err(|_| bad()),
            _ => Err(bad()),
        }
    }

    /// Whether flannel runs there, with leases from Kubernetes.
    pub fn is_managed(&self, names: &Annotations) -> bool {
        self.annotation(&names.name("kube-subnet-manager")) == Some("true")
    }

    /// What it says to the other nodes, as the record that stands in etcd where leases are there; none if flannel does not run there.
    /// What is damaged stays so: whoever reads the record finds it.
    pub fn record(&self, names: &Annotations) -> Option<Record> {
        let key = self.cidr().map_or_else(|_| self.metadata.name.clone(), encode_key);
        self.is_managed(names).then(|| Record { key, value: self.value(names), mod_revision: 0, lease_id: 0 })
    }

    /// The record's value.
    fn value(&self, names: &Annotations) -> Vec<u8> {
        let said = |name: &str| self.annotation(&names.name(name));
        let (data, features) = (said("backend-data").unwrap_or("null"), said("features").unwrap_or("null"));
        let is_json = |text: &&str| serde_json::from_str::<IgnoredAny>(text).is_ok();
        if let Some(damaged) = [data, features].into_iter().find(|text| !is_json(text)) {
            return damaged.into();
        }
        let text = |name| Value::from(said(name).unwrap_or_default());
        let value = format!(
            r#"{{"PublicIP":{},"PublicIPv6":null,"BackendType":{},"BackendData":{data},"Features":{features}}}"#,
            text("public-ip"),
            text("backend-type")
        );
        value.into_bytes()
    }

    /// Since when it is there, in seconds: of two with one part the older has it.
    pub(super) fn created(&self) -> i64 {
        self.metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second())
    }

    /// The own lease: the part that this node was given, and how the others shall reach it. An address that stands in `public-ip-overwrite`
    /// goes before the one that was found.
    pub fn own(
        &self,
        names: &Annotations,
        network: Ipv4Network,
        found: Ipv4Addr,
        backend: Advert,
    ) -> Result<Lease, BadNode> {
        let subnet = self.cidr()?;
        if !subnet.is_subnet_of(network) {
            return Err(BadNode::Outside(self.metadata.name.clone(), subnet, network));
        }
        let public_ip = self.address(&names.name("public-ip-overwrite"))?.unwrap_or(found);
        Ok(Lease { subnet, public_ip, backend })
    }

    /// The address that a person gave the node, to be taken as `--public-ip` is.
    pub fn public(&self, names: &Annotations) -> Result<Option<Ipv4Addr>, BadNode> {
        self.address(&names.name("node-public-ip"))
    }

    fn address(&self, name: &str) -> Result<Option<Ipv4Addr>, BadNode> {
        let Some(text) = self.annotation(name) else { return Ok(None) };
        let ip = text.parse().ok().filter(|ip| key::is_host(*ip));
        ip.map(Some)
            .ok_or_else(|| BadNode::Address(self.metadata.name.clone(), name.to_owned(), text.to_owned()))
    }

    /// The patch that makes the node say this lease; none if it does already.
    pub fn patch(&self, names: &Annotations, lease: &Lease) -> Option<Value> {
        let data = Some(lease.backend.data.as_str()).filter(|data| !data.is_empty()).unwrap_or("null");
        let features = lease.backend.features.encode();
        let wanted: Map<String, Value> = [
            ("kube-subnet-manager", "true"),
            ("backend-type", &lease.backend.kind),
            ("backend-data", data),
            ("public-ip", &lease.public_ip.to_string()),
        ]
        .into_iter()
        // Ours: flannel's nodes look past it.
        .chain(features.iter().map(|features| ("features", features.as_str())))
        .map(|(name, value)| (names.name(name), Value::from(value)))
        .collect();
        let there = &self.metadata.annotations;
        let same = wanted.iter().all(|(name, value)| there.get(name).map(String::as_str) == value.as_str());
        (!same).then(|| json!({ "metadata": { "annotations": wanted } }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "flannel.alpha.coreos.com";

    fn names() -> Annotations {
        Annotations::new(PREFIX).unwrap()
    }

    fn node(cidrs: &[&str], annotations: &[(&str, &str)]) -> Node {
        let annotations: BTreeMap<String, &str> =
            annotations.iter().map(|(name, value)| (format!("{PREFIX}/{name}"), *value)).collect();
        let object = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "n1", "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": annotations},
            "spec": {"podCIDR": cidrs.first(), "podCIDRs": cidrs, "taints": []}, "status": {"images": [{"names": ["x"]}]},
        });
        let text = object.to_string().replace(r#""podCIDR":null"#, r#""providerID":"x""#);
        serde_json::from_str(&text).unwrap()
    }

    /// As a Go flannel leaves them.
    const VXLAN: [(&str, &str); 4] = [
        ("kube-subnet-manager", "true"),
        ("backend-type", "vxlan"),
        ("backend-data", r#"{"VNI":1,"VtepMAC":"8e:92:c7:f8:29:6a"}"#),
        ("public-ip", "192.0.2.7"),
    ];

    #[test]
    fn gos_annotations_are_read() {
        let lease = |node: &Node| {
            let record = node.record(&names()).unwrap();
            Lease::decode(&record.key, &record.value)
        };
        let vxlan = lease(&node(&["10.244.1.0/24"], &VXLAN)).unwrap();
        assert_eq!(
            (vxlan.subnet.to_string().as_str(), vxlan.public_ip),
            ("10.244.1.0/24", Ipv4Addr::new(192, 0, 2, 7))
        );
        assert_eq!((vxlan.backend.kind.as_str(), vxlan.backend.data.as_str()), (VXLAN[1].1, VXLAN[2].1));
        let udp = [VXLAN[0], VXLAN[3], ("backend-type", ""), ("backend-data", "null")];
        assert_eq!(lease(&node(&["10.244.1.0/24"], &udp)).unwrap().backend, Advert::default());
        let dual = lease(&node(&["fd00::/64", "10.244.1.0/24"], &VXLAN)).unwrap();
        assert_eq!(dual.subnet, vxlan.subnet);
        assert_eq!(
            node(&["10.244.1.0/24"], &VXLAN[1..]).record(&names()),
            None,
            "flannel does not run there"
        );
        for (cidrs, annotations) in [
            (&[][..], &VXLAN[..]),
            (&["10.244.1.0/24", "10.244.2.0/24"], &VXLAN),
            (&["10.244.1.0/24"], &VXLAN[..3]),
            (&["10.244.1.0/24"], &[VXLAN[0], VXLAN[3], ("backend-data", "{")]),
            (&["10.244.1.0/24"], &[VXLAN[0], ("public-ip", r#"1","x":""#)]),
        ] {
            assert!(lease(&node(cidrs, annotations)).is_err(), "{cidrs:?} {annotations:?}");
        }
    }

    #[test]
    fn the_own_part_must_be_there_and_of_the_network() {
        let (network, found) = ("10.244.0.0/16".parse().unwrap(), Ipv4Addr::new(192, 0, 2, 1));
        let own = |node: &Node| node.own(&names(), network, found, Advert::default());
        for (cidrs, words) in [
            (&[][..], "spec.podCIDR is not assigned"),
            (&["10.42.1.0/24"], "10.42.1.0/24 does not lie in the net config's Network 10.244.0.0/16"),
            (&["10.0.0.0/8"], "does not lie"),
            (&["fd00::/64"], "one IPv4 network"),
            (&["nonsense"], "nonsense"),
        ] {
            let error = own(&node(cidrs, &[])).unwrap_err().to_string();
            assert!(error.starts_with("node n1: ") && error.contains(words), "{error}");
        }
        assert_eq!(own(&node(&["10.244.1.0/24"], &[])).unwrap().public_ip, found);
        let overwritten = node(&["10.244.1.0/24"], &[("public-ip-overwrite", "203.0.113.9")]);
        assert_eq!(own(&overwritten).unwrap().public_ip, Ipv4Addr::new(203, 0, 113, 9));
        let wrong = node(&["10.244.1.0/24"], &[("public-ip-overwrite", "nowhere")]);
        assert!(own(&wrong).unwrap_err().to_string().contains("public-ip-overwrite=nowhere"));
        let given = node(&[], &[("node-public-ip", "203.0.113.9")]);
        assert_eq!(given.public(&names()).unwrap(), Some(Ipv4Addr::new(203, 0, 113, 9)));
    }

    #[test]
    fn the_patch_is_what_go_writes_and_is_made_once() {
        let lease = |kind: &str, data: &str| Lease {
            subnet: "10.244.1.0/24".parse().unwrap(),
            public_ip: Ipv4Addr::new(192, 0, 2, 7),
            backend: Advert { kind: kind.into(), data: data.into(), ..Advert::default() },
        };
        let bare = node(&["10.244.1.0/24"], &[]);
        let patch = bare.patch(&names(), &lease("vxlan", VXLAN[2].1)).unwrap();
        let said: BTreeMap<String, &str> =
            VXLAN.map(|(name, value)| (format!("{PREFIX}/{name}"), value)).into();
        assert_eq!(patch, json!({ "metadata": { "annotations": said } }));
        let patch = bare.patch(&names(), &lease("", "")).unwrap();
        assert_eq!(patch["metadata"]["annotations"][format!("{PREFIX}/backend-data")], "null");
        assert_eq!(patch["metadata"]["annotations"][format!("{PREFIX}/backend-type")], "");
        let said = node(&["10.244.1.0/24"], &VXLAN);
        assert_eq!(said.patch(&names(), &lease("vxlan", VXLAN[2].1)), None);
        assert!(said.patch(&names(), &lease("host-gw", "")).is_some());
    }
}
