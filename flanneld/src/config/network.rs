//! The network's configuration, as it stands in etcd under `<prefix>/config`. Keys are read in any case, as Go does.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use serde_json::{Map, Value};

use crate::backend::BackendKind;

/// What all nodes of a network agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// The whole network.
    pub network: Ipv4Network,
    /// The prefix length of each node's subnet.
    pub subnet_len: u8,
    /// The first subnet that is handed out.
    pub subnet_min: Ipv4Addr,
    /// The last one.
    pub subnet_max: Ipv4Addr,
    /// How packets are carried.
    pub backend: BackendKind,
    /// Whether subnets are given out by Kubernetes: then they may be of any length.
    pub assigned: bool,
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

impl NetworkConfig {
    /// Reads and checks it, and fills in what flannel fills in.
    pub fn parse(text: &str) -> Result<NetworkConfig, BadNetwork> {
        let value: Value = serde_json::from_str(text).map_err(|e| BadNetwork::Json(e.to_string()))?;
        let map = value.as_object().ok_or_else(|| BadNetwork::Json("it is something else".to_owned()))?;
        if get(map, "EnableIPv6").is_some_and(|v| v == &Value::Bool(true)) {
            return Err(bad("EnableIPv6", "IPv6 is not there yet; leave it out"));
        }
        let network = text_at(map, "Network")?.ok_or_else(|| bad("Network", "is missing"))?;
        let network: Ipv4Network =
            network.parse().map_err(|_| bad("Network", format!("{network} is no IPv4 network")))?;
        let network = Ipv4Network::new(network.network(), network.prefix())
            .map_err(|e| bad("Network", e.to_string()))?;
        let subnet_len = subnet_len(map, network.prefix())?;
        let size = 1u32 << (32 - subnet_len);
        let first = u32::from(network.network());
        let last = first + (network.size() - size);
        let subnet_min =
            bound(map, "SubnetMin", network, size)?.unwrap_or_else(|| Ipv4Addr::from(first + size));
        let subnet_max = bound(map, "SubnetMax", network, size)?.unwrap_or_else(|| Ipv4Addr::from(last));
        if subnet_min > subnet_max {
            return Err(bad("SubnetMin", format!("{subnet_min} lies behind SubnetMax {subnet_max}")));
        }
        let backend = BackendKind::parse(get(map, "Backend"))?;
        Ok(NetworkConfig { network, subnet_len, subnet_min, subnet_max, backend, assigned: false })
    }

    /// The same where Kubernetes gives out the subnets: what is said of them here counts for nothing, as in flannel.
    pub fn parse_assigned(text: &str) -> Result<NetworkConfig, BadNetwork> {
        let mut value: Value = serde_json::from_str(text).map_err(|e| BadNetwork::Json(e.to_string()))?;
        if let Some(map) = value.as_object_mut() {
            map.retain(|name, _| !name.to_lowercase().contains("subnet"));
        }
        Ok(NetworkConfig { assigned: true, ..NetworkConfig::parse(&value.to_string())? })
    }

    /// Whether a subnet is one that this network hands out.
    pub fn hands_out(&self, subnet: Ipv4Network) -> bool {
        subnet.prefix() == self.subnet_len && (self.subnet_min..=self.subnet_max).contains(&subnet.network())
    }
}

fn subnet_len(map: &Map<String, Value>, network: u8) -> Result<u8, BadNetwork> {
    if network > 28 {
        return Err(bad("Network", "it is smaller than a /28: no four subnets fit into it"));
    }
    let default = if network <= 22 { 24 } else { network + 2 };
    let Some(value) = get(map, "SubnetLen").filter(|v| v.as_u64() != Some(0)) else { return Ok(default) };
    let length = value
        .as_u64()
        .and_then(|l| u8::try_from(l).ok())
        .ok_or_else(|| bad("SubnetLen", "must be a number"))?;
    match length {
        l if l > 30 => Err(bad("SubnetLen", "must be less than /31")),
        l if l < network + 2 => {
            Err(bad("SubnetLen", "network must be able to accommodate at least four subnets"))
        }
        l => Ok(l),
    }
}

fn bound(
    map: &Map<String, Value>,
    field: &'static str,
    network: Ipv4Network,
    size: u32,
) -> Result<Option<Ipv4Addr>, BadNetwork> {
    let Some(text) = text_at(map, field)? else { return Ok(None) };
    let ip: Ipv4Addr = text.parse().map_err(|_| bad(field, format!("{text} is no IPv4 address")))?;
    if !network.contains(ip) {
        return Err(bad(field, format!("{ip} is not in the range of the Network {network}")));
    }
    if u32::from(ip) % size != 0 {
        return Err(bad(field, format!("{ip} is not on a SubnetLen boundary")));
    }
    Ok(Some(ip))
}

/// A field by its name in any case.
pub fn get<'a>(map: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
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
    fn defaults_are_flannels() {
        for (text, len, min, max) in [
            (r#"{"Network":"10.5.0.0/16"}"#, 24, "10.5.1.0", "10.5.255.0"),
            (r#"{"Network":"10.5.3.7/16"}"#, 24, "10.5.1.0", "10.5.255.0"),
            (r#"{"network":"10.5.0.0/24"}"#, 26, "10.5.0.64", "10.5.0.192"),
            (
                r#"{"Network":"10.0.0.0/8","SubnetLen":20,"SubnetMin":"10.10.0.0","SubnetMax":"10.99.0.0"}"#,
                20,
                "10.10.0.0",
                "10.99.0.0",
            ),
        ] {
            let config = NetworkConfig::parse(text).unwrap();
            let expected = (len, min.parse().unwrap(), max.parse().unwrap());
            assert_eq!((config.subnet_len, config.subnet_min, config.subnet_max), expected, "{text}");
            assert_eq!(config.backend, BackendKind::Udp { port: 8285 });
        }
    }

    #[test]
    fn where_kubernetes_gives_them_out_nothing_is_said_of_subnets() {
        let text =
            r#"{"Network":"10.244.0.0/16","subnetlen":17,"SubnetMin":"10.9.0.0","Backend":{"Type":"vxlan"}}"#;
        assert!(NetworkConfig::parse(text).is_err());
        let config = NetworkConfig::parse_assigned(text).unwrap();
        assert!(config.assigned && config.network.to_string() == "10.244.0.0/16");
        assert!(NetworkConfig::parse_assigned("[]").is_err());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, field) in [
            ("{", "JSON"),
            ("[]", "JSON"),
            ("{}", "Network"),
            (r#"{"Network":7}"#, "Network"),
            (r#"{"Network":"fc00::/48"}"#, "Network"),
            (r#"{"Network":"10.5.0.0/29"}"#, "Network"),
            (r#"{"Network":"10.5.0.0/16","SubnetLen":31}"#, "SubnetLen"),
            (r#"{"Network":"10.5.0.0/16","SubnetLen":17}"#, "SubnetLen"),
            (r#"{"Network":"10.5.0.0/16","SubnetMin":"10.6.0.0"}"#, "SubnetMin"),
            (r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.9.9"}"#, "SubnetMax"),
            (r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.3.0"}"#, "SubnetMin"),
            (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"wireguard","PSK":"short"}}"#, "Backend"),
            (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Port":0.5}}"#, "Backend"),
        ] {
            let error = NetworkConfig::parse(text).unwrap_err().to_string();
            assert!(error.contains(field), "{text}: {error}");
        }
    }
}
