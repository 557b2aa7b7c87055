//! What stands on a node object: its part of the pods' network, and in its annotations how it is reached, byte for byte as flannel writes and
//! reads them. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnetwork::IpNetwork;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::annotations::Annotations;
use crate::config::network::NetworkConfig;
use crate::family::{Dual, Family, network};
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
    /// What it was given is no network, or two of a family.
    #[error("node {0}: spec.podCIDRs {1:?} must be one IPv4 network, one IPv6 network, or one of each")]
    Cidrs(String, Vec<String>),
    /// What it was given is of other families than the network.
    #[error(
        "node {0}: spec.podCIDRs has no {1} network, but the net config has one: give the cluster one, or take it out there"
    )]
    Family(String, Family),
    /// What it was given is not of this network.
    #[error(
        "node {0}: spec.podCIDR {1} does not lie in the net config's network {2}: one of the two must change"
    )]
    Outside(String, IpNetwork, IpNetwork),
    /// An annotation that a person set.
    #[error("node {0}: annotation {1}={2} is no address of a host")]
    Address(String, String, String),
}

impl Node {
    fn annotation(&self, name: &str) -> Option<&str> {
        self.metadata.annotations.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Its parts of the pods' network, at least one.
    fn cidrs(&self) -> Result<Dual<IpNetwork>, BadNode> {
        let name = &self.metadata.name;
        let texts =
            if self.spec.cidrs.is_empty() { std::slice::from_ref(&self.spec.cidr) } else { &self.spec.cidrs };
        let bad = || BadNode::Cidrs(name.clone(), texts.to_vec());
        let mut found = Dual::default();
        for text in texts.iter().filter(|text| !text.is_empty()) {
            let net: IpNetwork = text.parse().map_err(|_| bad())?;
            let net = network(net.ip(), net.prefix()).ok_or_else(bad)?;
            let place = match Family::of(net.ip()) {
                Family::V4 => &mut found.v4,
                Family::V6 => &mut found.v6,
            };
            if place.replace(net).is_some() {
                return Err(bad());
            }
        }
        if found.is_empty() { Err(BadNode::Unassigned(name.clone())) } else { Ok(found) }
    }

    /// Whether flannel runs there, with leases from Kubernetes.
    pub fn is_managed(&self, names: &Annotations) -> bool {
        self.annotation(&names.name("kube-subnet-manager")) == Some("true")
    }

    /// What it says to the other nodes, as the record that stands in etcd where leases are there; none if flannel does not run there.
    /// What is damaged stays so: whoever reads the record finds it.
    pub fn record(&self, names: &Annotations) -> Option<Record> {
        let key = self.cidrs().map_or_else(|_| self.metadata.name.clone(), |cidrs| encode_key(&cidrs));
        self.is_managed(names).then(|| Record {
            key,
            value: self.value(names),
            create_revision: self.created(),
            mod_revision: 0,
            lease_id: 0,
        })
    }

    /// The record's value.
    fn value(&self, names: &Annotations) -> Vec<u8> {
        let said = |name: &str| self.annotation(&names.name(name));
        let json = ["backend-data", "backend-v6-data", "features"].map(|name| said(name).unwrap_or("null"));
        let is_json = |text: &&str| serde_json::from_str::<IgnoredAny>(text).is_ok();
        if let Some(damaged) = json.into_iter().find(|text| !is_json(text)) {
            return damaged.into();
        }
        let [data, data_v6, features] = json;
        let text = |name| said(name).map_or(Value::Null, Value::from);
        let (v4, v6, kind) = (text("public-ip"), text("public-ipv6"), text("backend-type"));
        let value = format!(
            r#"{{"PublicIP":{v4},"PublicIPv6":{v6},"BackendType":{kind},"BackendData":{data},"BackendV6Data":{data_v6},"Features":{features}}}"#
        );
        value.into_bytes()
    }

    /// Since when it is there, in seconds: of two with one part the older has it.
    pub(super) fn created(&self) -> i64 {
        self.metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second())
    }

    /// The own lease: the part of each of the network's families that this node was given, and how the others shall reach it. An address that
    /// stands in `public-ip-overwrite` goes before the one that was found.
    pub fn own(
        &self,
        names: &Annotations,
        network: &NetworkConfig,
        found: &Dual<IpAddr>,
        backend: Advert,
    ) -> Result<Lease, BadNode> {
        let (node, cidrs) = (&self.metadata.name, self.cidrs()?);
        let mut subnets = Dual::default();
        for (family, whole) in network.networks().iter() {
            let cidr = *cidrs.get(family).ok_or_else(|| BadNode::Family(node.clone(), family))?;
            if !network.could_be(family, cidr) {
                return Err(BadNode::Outside(node.clone(), cidr, *whole));
            }
            match family {
                Family::V4 => subnets.v4 = Some(cidr),
                Family::V6 => subnets.v6 = Some(cidr),
            }
        }
        let overwritten = self.addresses(names, ["public-ip-overwrite", "public-ipv6-overwrite"])?;
        let public = Dual::of(|family| {
            let found = subnets.get(family).and(found.get(family))?;
            Some(*overwritten.get(family).unwrap_or(found))
        });
        Ok(Lease { subnets, public, backend })
    }

    /// The addresses that a person gave the node, to be taken as `--public-ip` and `--public-ipv6` are.
    pub fn public(&self, names: &Annotations) -> Result<Dual<IpAddr>, BadNode> {
        self.addresses(names, ["node-public-ip", "node-public-ipv6"])
    }

    fn addresses(&self, names: &Annotations, [v4, v6]: [&str; 2]) -> Result<Dual<IpAddr>, BadNode> {
        Ok(Dual {
            v4: self.address::<Ipv4Addr>(&names.name(v4))?,
            v6: self.address::<Ipv6Addr>(&names.name(v6))?,
        })
    }

    fn address<A: FromStr + Into<IpAddr>>(&self, name: &str) -> Result<Option<IpAddr>, BadNode> {
        let Some(text) = self.annotation(name) else { return Ok(None) };
        let bad = |_| BadNode::Address(self.metadata.name.clone(), name.to_owned(), text.to_owned());
        key::host::<A>(text).map(Some).map_err(bad)
    }

    /// The patch that makes the node say this lease; none if it does already.
    pub fn patch(&self, names: &Annotations, lease: &Lease) -> Option<Value> {
        let mut wanted: Map<String, Value> = Map::new();
        let mut say = |name: &str, value: &str| wanted.insert(names.name(name), Value::from(value));
        say("kube-subnet-manager", "true");
        say("backend-type", &lease.backend.kind);
        for (family, ip) in lease.public.iter() {
            let (data, address) = match family {
                Family::V4 => ("backend-data", "public-ip"),
                Family::V6 => ("backend-v6-data", "public-ipv6"),
            };
            say(data, lease.backend.data.get(family).map_or("null", String::as_str));
            say(address, &ip.to_string());
        }
        if let Some(features) = lease.backend.features.encode() {
            // Ours: flannel's nodes look past it.
            say("features", &features);
        }
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
        assert_eq!(vxlan.subnets, Dual::only_v4("10.244.1.0/24".parse().unwrap()));
        assert_eq!(vxlan.public, Dual::only_v4("192.0.2.7".parse().unwrap()));
        let data = vxlan.backend.data.v4.as_deref();
        assert_eq!((vxlan.backend.kind.as_str(), data), (VXLAN[1].1, Some(VXLAN[2].1)));
        let udp = [VXLAN[0], VXLAN[3], ("backend-type", ""), ("backend-data", "null")];
        assert_eq!(lease(&node(&["10.244.1.0/24"], &udp)).unwrap().backend, Advert::default());
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
    fn of_both_families_each_half_is_read_and_a_change_of_one_is_seen() {
        let v6 = r#"{"VNI":1,"VtepMAC":"ca:fe:00:00:00:06"}"#;
        let both: Vec<_> =
            VXLAN.into_iter().chain([("public-ipv6", "2001:db8::7"), ("backend-v6-data", v6)]).collect();
        let cidrs = ["10.244.1.0/24", "fd00:0:0:1::/64"];
        let record = |annotations: &[(&str, &str)]| node(&cidrs, annotations).record(&names()).unwrap();
        let lease = Lease::decode(&record(&both).key, &record(&both).value).unwrap();
        assert_eq!((lease.subnets.v6, lease.public.v6), (cidrs[1].parse().ok(), "2001:db8::7".parse().ok()));
        assert_eq!(lease.backend.data.v6.as_deref(), Some(v6));
        for changed in [("public-ip", "192.0.2.8"), ("public-ipv6", "2001:db8::8")] {
            let other: Vec<_> =
                both.iter().copied().filter(|(name, _)| *name != changed.0).chain([changed]).collect();
            assert_ne!(record(&other), record(&both), "{changed:?}: Go flannel would drop this");
        }
        let patch = node(&cidrs, &[]).patch(&names(), &lease).unwrap();
        let said: BTreeMap<String, &str> =
            both.iter().map(|(name, value)| (format!("{PREFIX}/{name}"), *value)).collect();
        assert_eq!(patch, json!({ "metadata": { "annotations": said } }));
    }

    #[test]
    fn the_own_part_must_be_there_and_of_the_network() {
        let found = Dual::only_v4("192.0.2.1".parse().unwrap());
        let network = NetworkConfig::parse_assigned(r#"{"Network":"10.244.0.0/16"}"#).unwrap();
        let own = |node: &Node| node.own(&names(), &network, &found, Advert::default());
        for (cidrs, words) in [
            (&[][..], "spec.podCIDR is not assigned"),
            (&["10.42.1.0/24"], "10.42.1.0/24 does not lie in the net config's network 10.244.0.0/16"),
            (&["10.0.0.0/8"], "does not lie"),
            (&["fd00::/64"], "no IPv4 network"),
            (&["nonsense"], "nonsense"),
            (&["10.244.1.0/24", "10.244.2.0/24"], "or one of each"),
        ] {
            let error = own(&node(cidrs, &[])).unwrap_err().to_string();
            assert!(error.starts_with("node n1: ") && error.contains(words), "{error}");
        }
        assert_eq!(own(&node(&["10.244.1.0/24"], &[])).unwrap().public, found);
        let given = Dual::only_v4("203.0.113.9".parse().unwrap());
        let overwritten = node(&["10.244.1.0/24", "fd00::/64"], &[("public-ip-overwrite", "203.0.113.9")]);
        let lease = own(&overwritten).unwrap();
        assert_eq!((lease.public, lease.subnets.v6), (given, None));
        let wrong = node(&["10.244.1.0/24"], &[("public-ip-overwrite", "nowhere")]);
        assert!(own(&wrong).unwrap_err().to_string().contains("public-ip-overwrite=nowhere"));
        assert_eq!(node(&[], &[("node-public-ip", "203.0.113.9")]).public(&names()).unwrap(), given);
    }

    #[test]
    fn the_patch_is_what_go_writes_and_is_made_once() {
        let lease = |kind: &str, data: Option<&str>| Lease {
            subnets: Dual::only_v4("10.244.1.0/24".parse().unwrap()),
            public: Dual::only_v4("192.0.2.7".parse().unwrap()),
            backend: Advert {
                kind: kind.into(),
                data: Dual { v4: data.map(str::to_owned), v6: None },
                ..Advert::default()
            },
        };
        let bare = node(&["10.244.1.0/24"], &[]);
        let patch = bare.patch(&names(), &lease("vxlan", Some(VXLAN[2].1))).unwrap();
        let said: BTreeMap<String, &str> =
            VXLAN.map(|(name, value)| (format!("{PREFIX}/{name}"), value)).into();
        assert_eq!(patch, json!({ "metadata": { "annotations": said } }));
        let patch = bare.patch(&names(), &lease("", None)).unwrap();
        assert_eq!(patch["metadata"]["annotations"][format!("{PREFIX}/backend-data")], "null");
        assert_eq!(patch["metadata"]["annotations"][format!("{PREFIX}/backend-type")], "");
        let said = node(&["10.244.1.0/24"], &VXLAN);
        assert_eq!(said.patch(&names(), &lease("vxlan", Some(VXLAN[2].1))), None);
        assert!(said.patch(&names(), &lease("host-gw", None)).is_some());
    }
}
