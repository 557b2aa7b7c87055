//! A lease as a key and a value. The format is flannel's: no blanks, this order of fields, `PublicIPv6` always there. Ours alone is the
//! field at the end, `Features`, which is there only where a node has some.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnetwork::Ipv4Network;
use serde_json::Value;

use super::features::Features;

/// Who has a subnet, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The subnet.
    pub subnet: Ipv4Network,
    /// The owner's external address.
    pub public_ip: Ipv4Addr,
    /// How it is reached.
    pub backend: Advert,
}

/// What a lease says of its owner's backend.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Advert {
    /// E.g. `vxlan`; empty for udp, as flannel leaves it out.
    pub kind: String,
    /// What that backend needs to know, as JSON; empty if it needs nothing.
    pub data: String,
    /// What its owner can take beyond what every flannel can.
    pub features: Features,
}

/// Why a key or value is not a lease.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLease {
    /// The key names no subnet.
    #[error("the key names no subnet")]
    Key,
    /// The subnet is not one that the network's configuration hands out.
    #[error("the subnet is not one of this network")]
    Foreign,
    /// The value is no JSON object.
    #[error("the value is no JSON: {0}")]
    Json(String),
    /// Another record has the subnet.
    #[error("another record has this subnet already")]
    Taken,
    /// No usable address.
    #[error("PublicIP is missing or can't be an address of a host")]
    PublicIp,
}

/// The last part of the key, e.g. `10.5.89.0-24`.
pub fn encode_key(subnet: Ipv4Network) -> String {
    format!("{}-{}", subnet.network(), subnet.prefix())
}

/// The subnet that a key names, written as flannel writes it; of a second, IPv6 part (`&fc00::-64`) only the form is looked at.
pub fn decode_key(key: &str) -> Result<Ipv4Network, BadLease> {
    let (first, second) = key.split_once('&').map_or((key, None), |(first, second)| (first, Some(second)));
    let (ip, length) = parts::<Ipv4Addr>(first, 31).ok_or(BadLease::Key)?;
    if second.is_some_and(|second| parts::<Ipv6Addr>(second, 127).is_none()) {
        return Err(BadLease::Key);
    }
    let subnet = Ipv4Network::new(ip, length).map_err(|_| BadLease::Key)?;
    if encode_key(subnet) == first { Ok(subnet) } else { Err(BadLease::Key) }
}

fn parts<A: FromStr>(text: &str, longest: u8) -> Option<(A, u8)> {
    let (ip, length) = text.rsplit_once('-')?;
    Some((ip.parse().ok()?, length.parse().ok().filter(|length| *length <= longest)?))
}

/// Whether other hosts can be reached at an address at all: it is neither of "this network" (0/8), nor loopback, multicast or reserved.
pub(super) fn is_host(ip: Ipv4Addr) -> bool {
    !ip.is_loopback() && (1..=223).contains(&ip.octets()[0])
}

impl Lease {
    /// The value, byte for byte.
    pub fn encode(&self) -> String {
        let mut text = format!(r#"{{"PublicIP":"{}","PublicIPv6":null"#, self.public_ip);
        if !self.backend.kind.is_empty() {
            text.push_str(&format!(r#","BackendType":"{}""#, self.backend.kind));
        }
        if !self.backend.data.is_empty() {
            text.push_str(&format!(r#","BackendData":{}"#, self.backend.data));
        }
        if let Some(features) = self.backend.features.encode() {
            text.push_str(&format!(r#","Features":{features}"#));
        }
        text.push('}');
        text
    }

    /// A lease from its key and value. Names of fields are read in any case and unknown ones ignored, as Go's decoder does.
    pub fn decode(key: &str, value: &[u8]) -> Result<Lease, BadLease> {
        let subnet = decode_key(key)?;
        let value: Value = serde_json::from_slice(value).map_err(|e| BadLease::Json(e.to_string()))?;
        let map = value.as_object().ok_or_else(|| BadLease::Json("not an object".to_owned()))?;
        let field =
            |name: &str| map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        let text = |name: &str| field(name).and_then(Value::as_str);
        let public_ip: Ipv4Addr =
            text("PublicIP").and_then(|ip| ip.parse().ok()).ok_or(BadLease::PublicIp)?;
        if !is_host(public_ip) {
            return Err(BadLease::PublicIp);
        }
        let data = field("BackendData").filter(|data| !data.is_null()).map(Value::to_string);
        let kind = text("BackendType").unwrap_or_default().to_owned();
        let features = field("Features").map(Features::decode).unwrap_or_default();
        Ok(Lease { subnet, public_ip, backend: Advert { kind, data: data.unwrap_or_default(), features } })
    }
}

#[cfg(test)]
mod tests {
    use super::super::features::Feature;
    use super::*;

    fn lease() -> Lease {
        let subnet = "10.5.89.0/24".parse().unwrap();
        Lease { subnet, public_ip: Ipv4Addr::new(192, 168, 100, 1), backend: Advert::default() }
    }

    #[test]
    fn the_bytes_are_flannels() {
        assert_eq!(encode_key(lease().subnet), "10.5.89.0-24");
        assert_eq!(lease().encode(), r#"{"PublicIP":"192.168.100.1","PublicIPv6":null}"#);
        let advert = |kind: &str, data: &str| Advert {
            kind: kind.into(),
            data: data.into(),
            features: Features::default(),
        };
        let host_gw = Lease { backend: advert("host-gw", ""), ..lease() };
        assert_eq!(
            host_gw.encode(),
            r#"{"PublicIP":"192.168.100.1","PublicIPv6":null,"BackendType":"host-gw"}"#
        );
        let data = r#"{"VNI":1,"VtepMAC":"8e:92:c7:f8:29:6a"}"#;
        let vxlan = Lease { backend: advert("vxlan", data), ..lease() };
        let value = format!(
            r#"{{"PublicIP":"192.168.100.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{data}}}"#
        );
        assert_eq!(vxlan.encode(), value);
        assert_eq!(Lease::decode("10.5.89.0-24", value.as_bytes()), Ok(vxlan));
        let features = Features::default().with(Feature::Offload);
        let ours = Lease { backend: Advert { features, ..Advert::default() }, ..lease() };
        let value = r#"{"PublicIP":"192.168.100.1","PublicIPv6":null,"Features":["offload"]}"#;
        assert_eq!(ours.encode(), value);
        assert_eq!(Lease::decode("10.5.89.0-24", value.as_bytes()), Ok(ours));
    }

    #[test]
    fn gos_leases_are_read() {
        let value = br#"{"PublicIP":"192.168.100.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1}}"#;
        let read = Lease::decode("10.5.89.0-24", value).unwrap();
        assert_eq!((read.public_ip, read.backend.kind.as_str()), (lease().public_ip, "vxlan"));
        assert_eq!(Lease::decode("10.5.89.0-24", br#"{"publicip":"192.168.100.1"}"#), Ok(lease()));
        assert_eq!(
            Lease::decode("10.5.89.0-24&fc00:0:0:1::-64", br#"{"PublicIP":"192.168.100.1"}"#),
            Ok(lease())
        );
    }

    #[test]
    fn damaged_ones_are_told_apart() {
        let good = br#"{"PublicIP":"192.0.2.1"}"#;
        for key in [
            "foo",
            "10.5.0.0",
            "10.5.300.0-24",
            "10.5.1.0-",
            "10.5.1.0-32",
            "10.5.1.0-+9",
            "10.5.1.7-24",
            "10.5.1.0-024",
            "10.05.1.0-24",
            "x/10.5.1.0-24",
            "10.5.1.0-24&",
            "10.5.1.0-24&fc00::",
            "10.5.1.0-24&fc00::-128",
            "-24",
            "",
        ] {
            assert_eq!(Lease::decode(key, good), Err(BadLease::Key), "{key}");
        }
        for value in [&b"{not json"[..], b"[]", b"7", b""] {
            assert!(matches!(Lease::decode("10.5.1.0-24", value), Err(BadLease::Json(_))));
        }
        for ip in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "x", ""] {
            let value = format!(r#"{{"PublicIP":"{ip}"}}"#);
            assert_eq!(Lease::decode("10.5.1.0-24", value.as_bytes()), Err(BadLease::PublicIp), "{ip}");
        }
    }
}
