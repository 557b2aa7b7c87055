//! A lease as a key and a value. The format is flannel's: no blanks, this order of fields, `PublicIPv6` always there. Ours alone is the
//! field at the end, `Features`, which is there only where a node has some.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnetwork::IpNetwork;
use serde_json::Value;

use super::features::Features;
use crate::family::{Dual, Family};

/// Who has which subnets, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The subnets, at least one.
    pub subnets: Dual<IpNetwork>,
    /// The owner's external addresses.
    pub public: Dual<IpAddr>,
    /// How it is reached.
    pub backend: Advert,
}

/// What a lease says of its owner's backend.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Advert {
    /// E.g. `vxlan`; empty for udp, as flannel leaves it out.
    pub kind: String,
    /// What that backend needs to know for packets of each family, as JSON; none if it needs nothing.
    pub data: Dual<String>,
    /// What its owner can take beyond what every flannel can.
    pub features: Features,
}

/// One family's part of a lease: packets to this subnet go by way of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Half<'a> {
    /// The subnet.
    pub subnet: IpNetwork,
    /// The owner's external address of the same family.
    pub public: IpAddr,
    /// What the backend needs to know, as JSON; empty if it needs nothing.
    pub data: &'a str,
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
    #[error("PublicIP is missing, or it or PublicIPv6 can't be an address of a host")]
    PublicIp,
}

/// The last part of the key, e.g. `10.5.89.0-24` or `10.5.89.0-24&fc00:0:0:1::-64`.
pub fn encode_key(subnets: &Dual<IpNetwork>) -> String {
    let parts = subnets.values().map(|subnet| format!("{}-{}", subnet.network(), subnet.prefix()));
    parts.collect::<Vec<_>>().join("&")
}

/// The subnets that a key names, written as flannel writes them: IPv4, and behind a `&` IPv6.
pub fn decode_key(key: &str) -> Result<Dual<IpNetwork>, BadLease> {
    let (first, second) = key.split_once('&').map_or((key, None), |(first, second)| (first, Some(second)));
    let v4 = part::<Ipv4Addr>(first, 31).ok_or(BadLease::Key)?;
    let v6 = second.map(|second| part::<Ipv6Addr>(second, 127).ok_or(BadLease::Key)).transpose()?;
    let subnets = Dual { v4: Some(v4), v6 };
    if encode_key(&subnets) == key { Ok(subnets) } else { Err(BadLease::Key) }
}

fn part<A: FromStr + Into<IpAddr>>(text: &str, longest: u8) -> Option<IpNetwork> {
    let (ip, length) = text.rsplit_once('-')?;
    let ip: A = ip.parse().ok()?;
    IpNetwork::new(ip.into(), length.parse().ok().filter(|length| *length <= longest)?).ok()
}

/// Whether other hosts can be reached at an address at all: it is neither of "this network" (0/8), nor loopback, multicast or reserved,
/// nor good on one link only.
fn is_host(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && (1..=223).contains(&ip.octets()[0]),
        IpAddr::V6(ip) => {
            let other =
                ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_unicast_link_local();
            !other && ip.to_ipv4_mapped().is_none()
        }
    }
}

impl Lease {
    /// Its families' parts. One whose owner has no address of that family leads nowhere, and is left out.
    pub fn halves(&self) -> impl Iterator<Item = Half<'_>> {
        self.subnets.iter().filter_map(|(family, subnet)| {
            let data = self.backend.data.get(family).map_or("", String::as_str);
            Some(Half { subnet: *subnet, public: *self.public.get(family)?, data })
        })
    }

    /// Whether it is that of the node with these addresses. It goes by the IPv4 address where there is one, as in flannel.
    pub fn is_of(&self, node: &Dual<IpAddr>) -> bool {
        let name = |addresses: &Dual<IpAddr>| addresses.values().next().copied();
        name(&self.public).is_some() && name(&self.public) == name(node)
    }

    /// The value, byte for byte.
    pub fn encode(&self) -> String {
        let quoted = |ip: Option<IpAddr>| ip.map_or("null".to_owned(), |ip| format!("\"{ip}\""));
        let (v4, v6) = (quoted(self.public.v4), quoted(self.public.v6));
        let mut text = format!(r#"{{"PublicIP":{v4},"PublicIPv6":{v6}"#);
        if !self.backend.kind.is_empty() {
            text.push_str(&format!(r#","BackendType":"{}""#, self.backend.kind));
        }
        for (family, data) in self.backend.data.iter() {
            let name = if family == Family::V4 { "BackendData" } else { "BackendV6Data" };
            text.push_str(&format!(r#","{name}":{data}"#));
        }
        if let Some(features) = self.backend.features.encode() {
            text.push_str(&format!(r#","Features":{features}"#));
        }
        text.push('}');
        text
    }

    /// A lease from its key and value. Names of fields are read in any case and unknown ones ignored, as Go's decoder does.
    pub fn decode(key: &str, value: &[u8]) -> Result<Lease, BadLease> {
        let subnets = decode_key(key)?;
        let value: Value = serde_json::from_slice(value).map_err(|e| BadLease::Json(e.to_string()))?;
        let map = value.as_object().ok_or_else(|| BadLease::Json("not an object".to_owned()))?;
        let field =
            |name: &str| map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        let text = |name: &str| field(name).and_then(Value::as_str);
        let data = |name: &str| field(name).filter(|data| !data.is_null()).map(Value::to_string);
        let v4 = host::<Ipv4Addr>(text("PublicIP").unwrap_or_default())?;
        // Of a lease without an IPv6 subnet this says nothing.
        let v6 = text("PublicIPv6").filter(|_| subnets.v6.is_some()).map(host::<Ipv6Addr>).transpose()?;
        let kind = text("BackendType").unwrap_or_default().to_owned();
        let data = Dual { v4: data("BackendData"), v6: data("BackendV6Data") };
        let features = field("Features").map(Features::decode).unwrap_or_default();
        let backend = Advert { kind, data, features };
        Ok(Lease { subnets, public: Dual { v4: Some(v4), v6 }, backend })
    }
}

pub(super) fn host<A: FromStr + Into<IpAddr>>(text: &str) -> Result<IpAddr, BadLease> {
    let ip = text.parse::<A>().ok().map(Into::into);
    ip.filter(is_host).ok_or(BadLease::PublicIp)
}

#[cfg(test)]
mod tests {
    use super::super::features::Feature;
    use super::*;

    fn lease() -> Lease {
        let subnets = Dual::only_v4("10.5.89.0/24".parse().unwrap());
        let public = Dual::only_v4("192.168.100.1".parse().unwrap());
        Lease { subnets, public, backend: Advert::default() }
    }

    fn advert(kind: &str, v4: &str, v6: &str) -> Advert {
        let data = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let data = Dual { v4: data(v4), v6: data(v6) };
        Advert { kind: kind.into(), data, features: Features::default() }
    }

    #[test]
    fn the_bytes_are_flannels() {
        assert_eq!(encode_key(&lease().subnets), "10.5.89.0-24");
        assert_eq!(lease().encode(), r#"{"PublicIP":"192.168.100.1","PublicIPv6":null}"#);
        let host_gw = Lease { backend: advert("host-gw", "", ""), ..lease() };
        assert_eq!(
            host_gw.encode(),
            r#"{"PublicIP":"192.168.100.1","PublicIPv6":null,"BackendType":"host-gw"}"#
        );
        let data = r#"{"VNI":1,"VtepMAC":"8e:92:c7:f8:29:6a"}"#;
        let vxlan = Lease { backend: advert("vxlan", data, ""), ..lease() };
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
    fn with_both_families_too() {
        let subnets = Dual { v4: "10.5.34.0/24".parse().ok(), v6: "fc00:0:0:1::/64".parse().ok() };
        let public = Dual { v4: "192.168.100.1".parse().ok(), v6: "fd00::1".parse().ok() };
        let (v4, v6) =
            (r#"{"VNI":1,"VtepMAC":"8e:92:c7:f8:29:6a"}"#, r#"{"VNI":1,"VtepMAC":"ca:fe:00:00:00:06"}"#);
        let dual = Lease { subnets, public, backend: advert("vxlan", v4, v6) };
        let key = "10.5.34.0-24&fc00:0:0:1::-64";
        let value = format!(
            r#"{{"PublicIP":"192.168.100.1","PublicIPv6":"fd00::1","BackendType":"vxlan","BackendData":{v4},"BackendV6Data":{v6}}}"#
        );
        assert_eq!((encode_key(&subnets).as_str(), dual.encode()), (key, value.clone()));
        assert_eq!(Lease::decode(key, value.as_bytes()).as_ref(), Ok(&dual));
        let halves: Vec<Half> = dual.halves().collect();
        assert_eq!(
            (halves[0].subnet, halves[0].public, halves[0].data),
            (subnets.v4.unwrap(), public.v4.unwrap(), v4)
        );
        assert_eq!(
            (halves[1].subnet, halves[1].public, halves[1].data),
            (subnets.v6.unwrap(), public.v6.unwrap(), v6)
        );

        // Reserved by hand, without the address: its node is known, and no way to it yet.
        let reserved = Lease::decode(key, br#"{"PublicIP":"192.168.100.1"}"#).unwrap();
        assert!(
            reserved.subnets == subnets && reserved.is_of(&dual.public) && reserved.halves().count() == 1
        );
        assert!(!reserved.is_of(&Dual { v4: "192.168.100.2".parse().ok(), ..public }));
        for ip in ["::", "::1", "fe80::1", "ff02::1", "::ffff:192.0.2.1", "192.0.2.1", "x", ""] {
            let value = format!(r#"{{"PublicIP":"192.0.2.1","PublicIPv6":"{ip}"}}"#);
            assert_eq!(Lease::decode(key, value.as_bytes()), Err(BadLease::PublicIp), "{ip}");
            assert!(Lease::decode("10.5.34.0-24", value.as_bytes()).is_ok(), "nobody asks for it: {ip}");
        }
    }

    #[test]
    fn gos_leases_are_read() {
        let value = br#"{"PublicIP":"192.168.100.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1}}"#;
        let read = Lease::decode("10.5.89.0-24", value).unwrap();
        assert_eq!((read.public, read.backend.kind.as_str()), (lease().public, "vxlan"));
        assert_eq!(Lease::decode("10.5.89.0-24", br#"{"publicip":"192.168.100.1"}"#), Ok(lease()));
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
            "10.5.1.0-24&fc00::1-64",
            "10.5.1.0-24&FC00::-64",
            "10.5.1.0-24&fc00:0:0::-64",
            "10.5.1.0-24&10.6.1.0-24",
            "10.5.1.0-24&fc00::-64&fc01::-64",
            "fc00::-64",
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
