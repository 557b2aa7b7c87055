//! The network's configuration, as it stands in etcd under `<prefix>/config` or in a file. Keys are read in any case, as Go does.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::{Map, Value};

use crate::backend::BackendKind;
use crate::family::{Dual, Family, network, number};

/// What all nodes of a network agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// The network of each family that is there, at least of one.
    pub pools: Dual<Pool>,
    /// How packets are carried.
    pub backend: BackendKind,
    /// Whether subnets are given out by Kubernetes: then they may be of any length.
    pub assigned: bool,
}

/// One family's network, and which subnets of it are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// The whole network.
    pub network: IpNetwork,
    /// The prefix length of each node's subnet.
    pub subnet_len: u8,
    /// The first subnet that is handed out.
    pub subnet_min: IpAddr,
    /// The last one.
    pub subnet_max: IpAddr,
}

/// What is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadNetwork {
    /// No JSON object.
    #[error("the network config is no JSON object: {0}")]
    Json(String),
    /// A value of the wrong form.
    #[error("the network config's {field}: {problem}")]
    Field {
        /// E.g. `SubnetLen`.
        field: &'static str,
        /// What is wrong, or what is wanted.
        problem: String,
    },
}

fn bad(field: &'static str, problem: impl Into<String>) -> BadNetwork {
    BadNetwork::Field { field, problem: problem.into() }
}

/// The names of one family's fields, and flannel's numbers for it.
struct Rules {
    family: Family,
    network: &'static str,
    len: &'static str,
    min: &'static str,
    max: &'static str,
    /// The subnets' prefix length where four of them fit.
    default_len: u8,
    /// The smallest network's.
    longest_network: u8,
    longest_subnet: u8,
}

const V4: Rules = Rules {
    family: Family::V4,
    network: "Network",
    len: "SubnetLen",
    min: "SubnetMin",
    max: "SubnetMax",
    default_len: 24,
    longest_network: 28,
    longest_subnet: 30,
};

const V6: Rules = Rules {
    family: Family::V6,
    network: "IPv6Network",
    len: "IPv6SubnetLen",
    min: "IPv6SubnetMin",
    max: "IPv6SubnetMax",
    default_len: 64,
    longest_network: 124,
    longest_subnet: 126,
};

impl NetworkConfig {
    /// Reads and checks it, and fills in what flannel fills in.
    pub fn parse(text: &str) -> Result<NetworkConfig, BadNetwork> {
        let value: Value = serde_json::from_str(text).map_err(|e| BadNetwork::Json(e.to_string()))?;
        let map = value.as_object().ok_or_else(|| BadNetwork::Json("it is something else".to_owned()))?;
        let (v4, v6) = (flag(map, "EnableIPv4", true)?, flag(map, "EnableIPv6", false)?);
        if !v4 && !v6 {
            return Err(bad("EnableIPv4", "it is false, and EnableIPv6 is not true: nothing is left"));
        }
        let backend = BackendKind::parse(get(map, "Backend"))?;
        if v6 && !backend.carries(Family::V6) {
            return Err(bad(
                "EnableIPv6",
                "this Backend carries IPv4 only; take vxlan, wireguard, host-gw or alloc",
            ));
        }
        let pool = |enabled: bool, rules: &Rules| enabled.then(|| Pool::parse(map, rules)).transpose();
        Ok(NetworkConfig { pools: Dual { v4: pool(v4, &V4)?, v6: pool(v6, &V6)? }, backend, assigned: false })
    }

    /// For leases in etcd, whose keys begin with an IPv4 subnet.
    pub fn require_ipv4(self) -> Result<NetworkConfig, BadNetwork> {
        if self.pools.v4.is_none() {
            return Err(bad(
                "EnableIPv4",
                "leases in etcd need IPv4; for IPv6 alone take the leases from Kubernetes",
            ));
        }
        Ok(self)
    }

    /// The same where Kubernetes gives out the subnets: what is said of them here counts for nothing, as in flannel.
    pub fn parse_assigned(text: &str) -> Result<NetworkConfig, BadNetwork> {
        let mut value: Value = serde_json::from_str(text).map_err(|e| BadNetwork::Json(e.to_string()))?;
        if let Some(map) = value.as_object_mut() {
            map.retain(|name, _| !name.to_lowercase().contains("subnet"));
        }
        let network = NetworkConfig::parse(&value.to_string())?;
        if network.pools.v4.is_none() {
            return Err(bad("EnableIPv4", "IPv6 alone is not there yet: leave it out, or set it to true"));
        }
        Ok(NetworkConfig { assigned: true, ..network })
    }

    /// Whether a lease may be of this subnet.
    pub fn could_be(&self, family: Family, subnet: IpNetwork) -> bool {
        self.pools.get(family).is_some_and(|pool| match self.assigned {
            true => pool.network.contains(subnet.network()) && subnet.prefix() >= pool.network.prefix(),
            false => pool.could_hand_out(subnet),
        })
    }

    /// The whole network of each family.
    pub fn networks(&self) -> Dual<IpNetwork> {
        self.pools.map(|pool| pool.network)
    }

    /// Whether these subnets are what a node of this network gets: one of each family, and each one that is handed out.
    pub fn hands_out(&self, subnets: &Dual<IpNetwork>) -> bool {
        Family::BOTH.into_iter().all(|family| match (self.pools.get(family), subnets.get(family)) {
            (Some(pool), Some(subnet)) => pool.hands_out(*subnet),
            (None, None) => true,
            _ => false,
        })
    }
}

impl Pool {
    fn parse(map: &Map<String, Value>, rules: &Rules) -> Result<Pool, BadNetwork> {
        let Rules { family, network: field, min, max, .. } = *rules;
        let text = text_at(map, field)?.ok_or_else(|| bad(field, "is missing"))?;
        let net = text.parse::<IpNetwork>().ok().filter(|net| Family::of(net.ip()) == family);
        let net = net.and_then(|net| network(net.ip(), net.prefix()));
        let net = net.ok_or_else(|| bad(field, format!("{text} is no {family} network")))?;
        let subnet_len = subnet_len(map, net.prefix(), rules)?;
        let size = 1u128 << (family.bits() - subnet_len);
        let first = number(net.network());
        let last = number(net.broadcast()) - (size - 1);
        // The first subnet is left out, as in flannel.
        let subnet_min = bound(map, min, net, size)?.unwrap_or_else(|| family.address(first + size));
        let subnet_max = bound(map, max, net, size)?.unwrap_or_else(|| family.address(last));
        if subnet_min > subnet_max {
            return Err(bad(min, format!("{subnet_min} lies behind {max} {subnet_max}")));
        }
        Ok(Pool { network: net, subnet_len, subnet_min, subnet_max })
    }

    /// Whether a subnet is one that this network hands out.
    pub fn hands_out(&self, subnet: IpNetwork) -> bool {
        subnet.prefix() == self.subnet_len && (self.subnet_min..=self.subnet_max).contains(&subnet.network())
    }

    /// Whether a subnet is one that this network could hand out, were it not for its bounds.
    pub fn could_hand_out(&self, subnet: IpNetwork) -> bool {
        subnet.prefix() == self.subnet_len && self.network.contains(subnet.network())
    }
}

fn subnet_len(map: &Map<String, Value>, network: u8, rules: &Rules) -> Result<u8, BadNetwork> {
    let (field, longest) = (rules.len, rules.longest_network);
    if network > longest {
        let problem = format!("it is smaller than a /{longest}: no four subnets fit into it");
        return Err(bad(rules.network, problem));
    }
    let default = rules.default_len.max(network + 2);
    let Some(value) = get(map, field).filter(|v| v.as_u64() != Some(0)) else { return Ok(default) };
    let length =
        value.as_u64().and_then(|l| u8::try_from(l).ok()).ok_or_else(|| bad(field, "must be a number"))?;
    match length {
        l if l > rules.longest_subnet => {
            Err(bad(field, format!("must be less than /{}", rules.longest_subnet + 1)))
        }
        l if l < network + 2 => Err(bad(field, "network must be able to accommodate at least four subnets")),
        l => Ok(l),
    }
}

fn bound(
    map: &Map<String, Value>,
    field: &'static str,
    network: IpNetwork,
    size: u128,
) -> Result<Option<IpAddr>, BadNetwork> {
    let Some(text) = text_at(map, field)? else { return Ok(None) };
    let ip: IpAddr = text.parse().map_err(|_| bad(field, format!("{text} is no IP address")))?;
    if !network.contains(ip) {
        return Err(bad(field, format!("{ip} is not in the range of the network {network}")));
    }
    if !number(ip).is_multiple_of(size) {
        return Err(bad(field, format!("{ip} is not on a subnet's boundary")));
    }
    Ok(Some(ip))
}

/// A field by its name in any case.
pub fn get<'a>(map: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn flag(map: &Map<String, Value>, name: &'static str, default: bool) -> Result<bool, BadNetwork> {
    match get(map, name) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => value.as_bool().ok_or_else(|| bad(name, "must be true or false")),
    }
}

fn text_at<'a>(map: &'a Map<String, Value>, name: &'static str) -> Result<Option<&'a str>, BadNetwork> {
    match get(map, name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(bad(name, "must be a string")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_udp_backend_has_a_port_and_an_outer_mtu() {
        let backend = |text: &str| NetworkConfig::parse(text).map(|config| config.backend);
        let text = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp","port":9000,"mtu":1400}}"#;
        assert_eq!(backend(text), Ok(BackendKind::Udp { port: 9000, mtu: Some(1400) }));
        let text = r#"{"Network":"10.5.0.0/16","Backend":{"MTU":0}}"#;
        assert_eq!(backend(text), Ok(BackendKind::Udp { port: 8285, mtu: None }));
        for wrong in ["575", "\"1400\"", "70000"] {
            let text = format!(r#"{{"Network":"10.5.0.0/16","Backend":{{"MTU":{wrong}}}}}"#);
            assert!(backend(&text).is_err_and(|error| error.to_string().contains("MTU")), "{wrong}");
        }
    }

    #[test]
    fn defaults_are_flannels() {
        for (text, family, len, min, max) in [
            (r#"{"Network":"10.5.0.0/16"}"#, Family::V4, 24, "10.5.1.0", "10.5.255.0"),
            (r#"{"Network":"10.5.3.7/16"}"#, Family::V4, 24, "10.5.1.0", "10.5.255.0"),
            (r#"{"network":"10.5.0.0/24"}"#, Family::V4, 26, "10.5.0.64", "10.5.0.192"),
            (
                r#"{"Network":"10.0.0.0/8","SubnetLen":20,"SubnetMin":"10.10.0.0","SubnetMax":"10.99.0.0"}"#,
                Family::V4,
                20,
                "10.10.0.0",
                "10.99.0.0",
            ),
            (
                r#"{"EnableIPv4":false,"enableipv6":true,"IPv6Network":"fc00::/48","Backend":{"Type":"vxlan"}}"#,
                Family::V6,
                64,
                "fc00:0:0:1::",
                "fc00:0:0:ffff::",
            ),
            (
                r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::7/96","Backend":{"Type":"host-gw"}}"#,
                Family::V6,
                98,
                "fc00::4000:0",
                "fc00::c000:0",
            ),
            (
                r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"::/0","IPv6SubnetLen":126,"IPv6SubnetMax":"fc00::4","Backend":{"Type":"alloc"}}"#,
                Family::V6,
                126,
                "::4",
                "fc00::4",
            ),
        ] {
            let config = NetworkConfig::parse(text).unwrap();
            let pool = config.pools.get(family).unwrap();
            let expected = (len, min.parse().unwrap(), max.parse().unwrap());
            assert_eq!((pool.subnet_len, pool.subnet_min, pool.subnet_max), expected, "{text}");
        }
        let plain = NetworkConfig::parse(r#"{"Network":"10.5.0.0/16"}"#).unwrap();
        assert_eq!((plain.pools.v6, plain.backend), (None, BackendKind::Udp { port: 8285, mtu: None }));
    }

    #[test]
    fn a_node_gets_one_subnet_of_each_family() {
        let text = r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{"Type":"vxlan"}}"#;
        let both = NetworkConfig::parse(text).unwrap();
        let v4 = NetworkConfig::parse(r#"{"Network":"10.5.0.0/16"}"#).unwrap();
        let subnets = |v4: &str, v6: &str| Dual { v4: v4.parse().ok(), v6: v6.parse().ok() };
        for (subnets, of_both, of_v4) in [
            (subnets("10.5.1.0/24", "fc00:0:0:1::/64"), true, false),
            (subnets("10.5.1.0/24", ""), false, true),
            (subnets("", "fc00:0:0:1::/64"), false, false),
            (subnets("10.5.1.0/24", "fc00::/64"), false, false),
            (subnets("10.5.1.0/24", "fc00:0:0:1::/65"), false, false),
        ] {
            assert_eq!((both.hands_out(&subnets), v4.hands_out(&subnets)), (of_both, of_v4), "{subnets}");
        }
        let v6 =
            r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{"Type":"vxlan"}}"#;
        let error = NetworkConfig::parse(v6).unwrap().require_ipv4().unwrap_err().to_string();
        assert!(error.contains("leases in etcd need IPv4"), "{error}");
        assert_eq!(both.clone().require_ipv4(), Ok(both));
    }

    #[test]
    fn where_kubernetes_gives_them_out_nothing_is_said_of_subnets() {
        let text =
            r#"{"Network":"10.244.0.0/16","subnetlen":17,"SubnetMin":"10.9.0.0","Backend":{"Type":"vxlan"}}"#;
        assert!(NetworkConfig::parse(text).is_err());
        let config = NetworkConfig::parse_assigned(text).unwrap();
        for (subnet, could_be) in [("10.244.7.0/28", true), ("10.244.0.0/16", true), ("10.0.0.0/8", false)] {
            assert_eq!(config.could_be(Family::V4, subnet.parse().unwrap()), could_be, "{subnet}");
        }
        let v6 =
            r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{"Type":"vxlan"}}"#;
        for bad in ["[]", v6] {
            assert!(NetworkConfig::parse_assigned(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let v6 = |rest: &str| {
            format!(r#"{{"Network":"10.5.0.0/16","EnableIPv6":true,"Backend":{{"Type":"vxlan"}},{rest}}}"#)
        };
        let table = [
            ("{".to_owned(), "JSON"),
            ("[]".to_owned(), "JSON"),
            ("{}".to_owned(), "Network"),
            (r#"{"Network":7}"#.to_owned(), "Network"),
            (r#"{"Network":"fc00::/48"}"#.to_owned(), "Network"),
            (r#"{"Network":"10.5.0.0/29"}"#.to_owned(), "Network"),
            (r#"{"Network":"10.5.0.0/16","SubnetLen":31}"#.to_owned(), "SubnetLen"),
            (r#"{"Network":"10.5.0.0/16","SubnetLen":17}"#.to_owned(), "SubnetLen"),
            (r#"{"Network":"10.5.0.0/16","SubnetMin":"10.6.0.0"}"#.to_owned(), "SubnetMin"),
            (r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.9.9"}"#.to_owned(), "SubnetMax"),
            (
                r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.3.0"}"#.to_owned(),
                "SubnetMin",
            ),
            (
                r#"{"Network":"10.5.0.0/16","Backend":{"Type":"wireguard","PSK":"short"}}"#.to_owned(),
                "Backend",
            ),
            (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Port":0.5}}"#.to_owned(), "Backend"),
            (
                r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48"}"#.to_owned(),
                "this Backend carries IPv4 only",
            ),
            (r#"{"EnableIPv4":false}"#.to_owned(), "EnableIPv4"),
            (r#"{"EnableIPv4":1}"#.to_owned(), "EnableIPv4: must be true or false"),
            (v6(r#""x":1"#), "IPv6Network: is missing"),
            (v6(r#""IPv6Network":"10.6.0.0/16""#), "IPv6Network: 10.6.0.0/16 is no IPv6 network"),
            (v6(r#""IPv6Network":"fc00::/125""#), "smaller than a /124"),
            (v6(r#""IPv6Network":"fc00::/48","IPv6SubnetLen":127"#), "IPv6SubnetLen: must be less than /127"),
            (v6(r#""IPv6Network":"fc00::/48","IPv6SubnetLen":49"#), "at least four subnets"),
            (v6(r#""IPv6Network":"fc00::/48","IPv6SubnetMin":"fc01::""#), "IPv6SubnetMin"),
            (v6(r#""IPv6Network":"fc00::/48","IPv6SubnetMax":"fc00::1""#), "IPv6SubnetMax"),
            (v6(r#""IPv6Network":"fc00::/48","IPv6SubnetMax":"10.5.1.0""#), "IPv6SubnetMax"),
        ];
        for (text, field) in table {
            let error = NetworkConfig::parse(&text).unwrap_err().to_string();
            assert!(error.contains(field), "{text}: {error}");
        }
    }
}
