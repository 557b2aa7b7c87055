//! subnet.env: what flanneld tells the plugin about this node's part of the network.
//!
//! flanneld writes it with a rename, so a reader sees a whole file or none.

use std::path::Path;

use ipnetwork::IpNetwork;

use crate::error::Error;

/// A file of the node's own daemon; a longer one is something else.
const MAX_LENGTH: u64 = 64 << 10;

/// The meaning of subnet.env.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetEnv {
    /// FLANNEL_NETWORK and FLANNEL_IPV6_NETWORK: all nodes' pods. IPv4 first.
    pub networks: Vec<IpNetwork>,
    /// FLANNEL_SUBNET and FLANNEL_IPV6_SUBNET: this node's pods, as written (the address is the gateway's). IPv4 first, at most one each.
    pub subnets: Vec<IpNetwork>,
    /// FLANNEL_MTU, bytes; none if the file does not say.
    pub mtu: Option<u32>,
    /// FLANNEL_IPMASQ: does flanneld itself masquerade what leaves the network?
    pub ip_masq: Option<bool>,
}

impl SubnetEnv {
    /// Reads and parses the file.
    pub fn load(path: &Path) -> Result<SubnetEnv, Error> {
        let missing = |source| Error::NoSubnetEnv { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(missing)?.len() > MAX_LENGTH {
            return Err(bad(path, format!("it is longer than {MAX_LENGTH} bytes")));
        }
        let text = std::fs::read_to_string(path).map_err(missing)?;
        SubnetEnv::parse(&text).map_err(|problem| bad(path, problem))
    }

    /// Parses the text; keys that are not known are ignored, as other daemons write more of them.
    pub fn parse(text: &str) -> Result<SubnetEnv, String> {
        let value = |key: &str| {
            text.lines().rev().find_map(|line| {
                let (name, value) = line.trim().split_once('=')?;
                (name.trim() == key).then(|| value.trim().trim_matches('"').to_owned())
            })
        };
        let env = SubnetEnv {
            networks: [prefixes(&value, "FLANNEL_NETWORK", 4)?, prefixes(&value, "FLANNEL_IPV6_NETWORK", 6)?]
                .concat(),
            subnets: [prefixes(&value, "FLANNEL_SUBNET", 4)?, prefixes(&value, "FLANNEL_IPV6_SUBNET", 6)?]
                .concat(),
            mtu: parsed(&value, "FLANNEL_MTU")?,
            ip_masq: parsed(&value, "FLANNEL_IPMASQ")?,
        };
        for version in [4, 6] {
            if env.subnets.iter().filter(|subnet| family(subnet) == version).count() > 1 {
                return Err(format!("it has more than one IPv{version} subnet"));
            }
        }
        match (env.subnets.is_empty(), env.networks.is_empty()) {
            (true, _) => Err("it lacks FLANNEL_SUBNET (and FLANNEL_IPV6_SUBNET)".to_owned()),
            (_, true) => Err("it lacks FLANNEL_NETWORK (and FLANNEL_IPV6_NETWORK)".to_owned()),
            _ => Ok(env),
        }
    }
}

/// 4 or 6.
pub fn family(network: &IpNetwork) -> u8 {
    if network.is_ipv4() { 4 } else { 6 }
}

fn prefixes(
    value: &impl Fn(&str) -> Option<String>,
    key: &str,
    version: u8,
) -> Result<Vec<IpNetwork>, String> {
    let text = value(key).unwrap_or_default();
    let prefix = |part: &str| match part.trim().parse::<IpNetwork>() {
        Ok(network) if family(&network) == version && part.contains('/') => Ok(network),
        _ => Err(format!("{key}={text} is no IPv{version} prefix")),
    };
    text.split(',').filter(|part| !part.trim().is_empty()).map(prefix).collect()
}

fn parsed<T: std::str::FromStr>(
    value: &impl Fn(&str) -> Option<String>,
    key: &str,
) -> Result<Option<T>, String> {
    match value(key) {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| format!("{key}={text} makes no sense")),
    }
}

fn bad(path: &Path, problem: String) -> Error {
    Error::BadSubnetEnv { path: path.to_owned(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_flanneld_writes() {
        let text = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.89.1/24\nFLANNEL_IPV6_NETWORK=fd00::/48\n\
                    FLANNEL_IPV6_SUBNET=fd00:0:0:1::1/64\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n";
        let env = SubnetEnv::parse(text).unwrap();
        assert_eq!(env.networks, ["10.5.0.0/16".parse().unwrap(), "fd00::/48".parse().unwrap()]);
        assert_eq!(env.subnets, ["10.5.89.1/24".parse().unwrap(), "fd00:0:0:1::1/64".parse().unwrap()]);
        assert_eq!((env.mtu, env.ip_masq), (Some(1472), Some(true)));
    }

    #[test]
    fn networks_may_be_a_list() {
        let text = "FLANNEL_NETWORK=10.5.0.0/16,10.6.0.0/16\nFLANNEL_SUBNET=10.5.89.1/24\n";
        assert_eq!(SubnetEnv::parse(text).unwrap().networks.len(), 2);
    }

    #[test]
    fn says_which_key_is_at_fault() {
        for (text, key) in [
            ("", "FLANNEL_SUBNET"),
            ("FLANNEL_SUBNET=10.5.1.1/24", "FLANNEL_NETWORK"),
            ("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.1.1", "FLANNEL_SUBNET=10.5.1.1"),
            ("FLANNEL_NETWORK=fd00::/48\nFLANNEL_SUBNET=10.5.1.1/24", "FLANNEL_NETWORK=fd00::/48"),
            ("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.1.1/24\nFLANNEL_MTU=big", "FLANNEL_MTU=big"),
            ("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.1.1/24\nFLANNEL_IPMASQ=1", "FLANNEL_IPMASQ=1"),
            (
                "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.1.1/24,10.5.2.1/24",
                "more than one IPv4 subnet",
            ),
        ] {
            let problem = SubnetEnv::parse(text).unwrap_err();
            assert!(problem.contains(key), "{problem}");
        }
    }
}
