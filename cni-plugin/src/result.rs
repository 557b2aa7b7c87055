//! The answers of the plugin, typed, and how each version of the specification writes them.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::version::Version;

/// What ADD answers and what CHECK gets back as `prevResult`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AddResult {
    /// Bridge, host side and container side, in this order.
    pub interfaces: Vec<Interface>,
    /// The container's addresses.
    pub ips: Vec<Ip>,
    /// The container's routes.
    pub routes: Vec<Route>,
    /// Passed through from the configuration.
    pub dns: Dns,
}

/// An interface that was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Hardware address, `aa:bb:…`.
    pub mac: String,
    /// Since 1.1.0: bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Path of the namespace it is in; empty on the host.
    #[serde(skip_serializing_if = "is_empty_path")]
    pub sandbox: PathBuf,
}

/// An address of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ip {
    /// With the subnet's prefix length.
    pub address: IpNetwork,
    /// The bridge's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Index into [`AddResult::interfaces`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

/// A route of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub dst: IpNetwork,
    /// By way of; the subnet's gateway if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
}

/// `dns` of configuration and result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // resolv.conf's words
pub struct Dns {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl AddResult {
    /// The result as `version` writes it: before 1.0.0 an address says its family, and only 1.1.0 knows an interface's MTU.
    pub fn to_json(&self, version: Version) -> Value {
        let mut json = json!(self);
        json["cniVersion"] = version.as_str().into();
        if version < Version::V1_0_0 {
            for (ip, json) in self.ips.iter().zip(json["ips"].as_array_mut().into_iter().flatten()) {
                json["version"] = if ip.address.is_ipv4() { "4" } else { "6" }.into();
            }
        }
        if version < Version::V1_1_0 {
            for interface in
                json["interfaces"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut)
            {
                interface.remove("mtu");
            }
        }
        json
    }
}

/// VERSION's answer. 0.1.0 and 0.2.0 are not offered: their results have one address and no interfaces.
pub fn versions(asked: Version) -> Value {
    json!({ "cniVersion": asked.as_str(), "supportedVersions": Version::ALL.map(Version::as_str) })
}

fn is_empty_path(path: &std::path::Path) -> bool {
    path.as_os_str().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result() -> AddResult {
        AddResult {
            interfaces: vec![Interface {
                name: "eth0".into(),
                mac: "02:00:00:00:00:01".into(),
                mtu: Some(1400),
                sandbox: "/n".into(),
            }],
            ips: vec![Ip {
                address: "10.5.1.2/24".parse().unwrap(),
                gateway: "10.5.1.1".parse().ok(),
                interface: Some(0),
            }],
            routes: vec![Route { dst: "0.0.0.0/0".parse().unwrap(), gw: "10.5.1.1".parse().ok() }],
            dns: Dns::default(),
        }
    }

    #[test]
    fn each_version_has_its_own_shape() {
        let old = result().to_json(Version::V0_4_0);
        assert_eq!(
            old["ips"][0],
            json!({ "version": "4", "address": "10.5.1.2/24", "gateway": "10.5.1.1", "interface": 0 })
        );
        let middle = result().to_json(Version::V1_0_0);
        assert_eq!(middle["ips"][0]["version"], Value::Null);
        assert_eq!(
            middle["interfaces"][0],
            json!({ "name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/n" })
        );
        assert_eq!(result().to_json(Version::V1_1_0)["interfaces"][0]["mtu"], 1400);
    }

    #[test]
    fn every_shape_reads_back() {
        for version in Version::ALL {
            let json = result().to_json(version);
            let back: AddResult = serde_json::from_value(json).unwrap();
            assert_eq!(back.ips, result().ips, "{version:?}");
        }
    }
}
