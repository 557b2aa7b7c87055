//! What an ADD will do, decided before anything is touched: configuration and subnet.env become [`Settings`], and with the reserved addresses
//! a [`Plan`]. Both are plain values; the only place that acts on them is [`crate::apply`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::config::{Config, Delegate, Ipam, PortMapping};
use crate::error::Error;
use crate::ipam::gateway;
use crate::record::Record;
use crate::request::Attachment;
use crate::result::Route;
use crate::subnet_env::{SubnetEnv, family};

/// IPv6 does not work below this MTU (RFC 8200, section 5).
const MIN_MTU_IPV6: u32 = 1280;

/// The network on this node: the same for all its containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where addresses come from, network address and length; IPv4 first.
    pub subnets: Vec<IpNetwork>,
    /// The bridge.
    pub bridge: String,
    /// Of bridge and veth; the kernel's default if none is said.
    pub mtu: Option<u32>,
    /// Does the bridge carry the gateways' addresses?
    pub is_gateway: bool,
    /// May a packet leave the bridge by the port it came from?
    pub hairpin: bool,
    /// The whole overlay, all nodes' pods.
    pub networks: Vec<IpNetwork>,
    /// The containers' routes, each with its gateway.
    pub routes: Vec<Route>,
    /// See [`Record::masquerade_outside`].
    pub masquerade_outside: Vec<IpNetwork>,
}

/// Everything that one ADD makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The bridge, its MTU, and its addresses.
    pub bridge: Bridge,
    /// The container's interface on both sides.
    pub veth: Veth,
    /// The container's addresses.
    pub addresses: Vec<IpNetwork>,
    /// The container's routes.
    pub routes: Vec<Route>,
    /// Settings under /proc/sys that the node needs, in order.
    pub sysctls: Vec<(String, &'static str)>,
    /// What is remembered.
    pub record: Record,
}

/// See [`Plan::bridge`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Bridge {
    pub name: String,
    pub mtu: Option<u32>,
    pub addresses: Vec<IpNetwork>,
    /// Addresses in here that are not `addresses` are of a lease that this node had before: they go.
    pub overlay: Vec<IpNetwork>,
}

/// See [`Plan::veth`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Veth {
    pub host: String,
    pub container: String,
    pub mtu: Option<u32>,
    pub hairpin: bool,
}

/// Configuration and subnet.env, brought together by flannel's rules.
pub fn settings(config: &Config, env: &SubnetEnv) -> Result<Settings, Error> {
    let delegate = &config.delegate;
    let mtu = delegate.mtu.or(env.mtu.filter(|mtu| *mtu > 0));
    if let Some(mtu) = mtu.filter(|mtu| *mtu < MIN_MTU_IPV6 && env.subnets.iter().any(IpNetwork::is_ipv6)) {
        return Err(Error::config(
            "delegate.mtu",
            format!("{mtu} is below {MIN_MTU_IPV6}, which IPv6 needs"),
        ));
    }
    let subnets: Vec<IpNetwork> = env
        .subnets
        .iter()
        .filter_map(|subnet| IpNetwork::new(subnet.network(), subnet.prefix()).ok())
        .collect();
    let ip_masq = delegate.ip_masq.unwrap_or(env.ip_masq != Some(true));
    Ok(Settings {
        bridge: delegate.bridge.clone(),
        mtu,
        is_gateway: delegate.is_gateway.unwrap_or(true) || delegate.is_default_gateway,
        hairpin: delegate.hairpin,
        routes: routes(delegate, &config.ipam, env, &subnets)?,
        masquerade_outside: if ip_masq { env.networks.clone() } else { Vec::new() },
        networks: env.networks.clone(),
        subnets,
    })
}

/// The user's routes, one to each part of the overlay, and the default routes.
fn routes(
    delegate: &Delegate,
    ipam: &Ipam,
    env: &SubnetEnv,
    subnets: &[IpNetwork],
) -> Result<Vec<Route>, Error> {
    let mut wanted = ipam.routes.clone();
    wanted.extend(env.networks.iter().map(|network| Route { dst: *network, gw: None }));
    if delegate.is_default_gateway {
        wanted.extend(subnets.iter().map(|subnet| Route { dst: default_route(subnet), gw: None }));
    }
    let mut routes: Vec<Route> = Vec::new();
    for (index, Route { dst, gw }) in wanted.into_iter().enumerate() {
        let dst = IpNetwork::new(dst.network(), dst.prefix()).unwrap_or(dst);
        let same_family = |subnet: &&IpNetwork| family(subnet) == family(&dst);
        let Some(subnet) = subnets.iter().find(same_family) else {
            // The overlay may have a family that this node has no subnet of; the user's own route must work.
            if index < ipam.routes.len() {
                return Err(Error::config(
                    format!("ipam.routes[{index}].dst"),
                    format!("{dst}: this node has no subnet of that family"),
                ));
            }
            continue;
        };
        if let Some(gw) = gw.filter(|gw| !subnet.contains(*gw)) {
            return Err(Error::config(
                format!("ipam.routes[{index}].gw"),
                format!("{gw} is not in the node's subnet {subnet}"),
            ));
        }
        if !routes.iter().any(|route| route.dst == dst) {
            routes.push(Route { dst, gw: gw.or(Some(gateway(subnet))) });
        }
    }
    Ok(routes)
}

fn default_route(subnet: &IpNetwork) -> IpNetwork {
    let any =
        if subnet.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    IpNetwork::new(any, 0).unwrap_or(*subnet)
}

/// What to make for one attachment that has these addresses.
pub fn plan(settings: &Settings, owner: &Attachment, addresses: &[IpNetwork], ports: &[PortMapping]) -> Plan {
    let host = host_interface(owner);
    let gateways =
        settings.subnets.iter().filter_map(|subnet| IpNetwork::new(gateway(subnet), subnet.prefix()).ok());
    Plan {
        bridge: Bridge {
            name: settings.bridge.clone(),
            mtu: settings.mtu,
            addresses: if settings.is_gateway { gateways.collect() } else { Vec::new() },
            overlay: if settings.is_gateway { settings.networks.clone() } else { Vec::new() },
        },
        veth: Veth {
            host: host.clone(),
            container: owner.interface.clone(),
            mtu: settings.mtu,
            hairpin: settings.hairpin,
        },
        addresses: addresses.to_vec(),
        routes: settings.routes.clone(),
        sysctls: sysctls(settings, ports),
        record: Record {
            boot: String::new(), // put in when it is written
            container: owner.container.clone(),
            interface: owner.interface.clone(),
            host_interface: host,
            bridge: settings.bridge.clone(),
            addresses: addresses.to_vec(),
            masquerade_outside: settings.masquerade_outside.clone(),
            port_mappings: ports.to_vec(),
        },
    }
}

fn sysctls(settings: &Settings, ports: &[PortMapping]) -> Vec<(String, &'static str)> {
    let has = |version| settings.subnets.iter().any(|subnet| family(subnet) == version);
    let mut sysctls = Vec::new();
    if settings.is_gateway && has(4) {
        sysctls.push(("net/ipv4/ip_forward".to_owned(), "1"));
    }
    if settings.is_gateway && has(6) {
        sysctls.push(("net/ipv6/conf/all/forwarding".to_owned(), "1"));
    }
    if !ports.is_empty() && has(4) {
        // A host port that is asked for at 127.0.0.1 leaves the node with that source until it is masqueraded.
        sysctls.push((format!("net/ipv4/conf/{}/route_localnet", settings.bridge), "1"));
    }
    sysctls
}

/// The host's end of the pair: the same name for the same attachment, so that DEL finds it with nothing else to go by. FNV-1a is fixed for
/// ever, which the standard library's hasher is not.
pub fn host_interface(owner: &Attachment) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in owner.container.bytes().chain([0]).chain(owner.interface.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    format!("veth{:011x}", hash >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Field;
    use serde_json::{Value, json};

    const ENV: &str =
        "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.1.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n";

    fn config(delegate: &Value, ipam: &Value) -> Config {
        let root = json!({ "name": "cbr0", "delegate": delegate, "ipam": ipam });
        Config::parse(&Field::root(root)).unwrap()
    }

    fn decide(delegate: &Value, ipam: &Value, env: &str) -> Settings {
        settings(&config(delegate, ipam), &SubnetEnv::parse(env).unwrap()).unwrap()
    }

    fn routes_of(settings: &Settings) -> Vec<String> {
        settings.routes.iter().map(|route| format!("{} via {}", route.dst, route.gw.unwrap())).collect()
    }

    fn owner() -> Attachment {
        Attachment { container: "one".into(), interface: "eth0".into() }
    }

    #[test]
    fn the_default_is_flannels() {
        let settings = decide(&json!({}), &json!({}), ENV);
        assert_eq!((settings.bridge.as_str(), settings.mtu, settings.is_gateway), ("cni0", Some(1472), true));
        assert_eq!(routes_of(&settings), ["10.5.0.0/16 via 10.5.1.1"]);
        assert_eq!(settings.subnets, ["10.5.1.0/24".parse().unwrap()]);
        assert!(settings.masquerade_outside.is_empty(), "flanneld does it");
    }

    #[test]
    fn who_masquerades() {
        let quiet = ENV.replace("IPMASQ=true", "IPMASQ=false");
        let masquerades =
            |delegate: &Value, env: &str| !decide(delegate, &json!({}), env).masquerade_outside.is_empty();
        assert!(masquerades(&json!({}), &quiet), "someone has to");
        assert!(!masquerades(&json!({ "ipMasq": false }), &quiet), "unless told not to");
        assert!(masquerades(&json!({ "ipMasq": true }), ENV), "or told to");
    }

    #[test]
    fn the_default_route_and_the_users_own() {
        let routes = json!([{ "dst": "192.0.2.0/24" }, { "dst": "10.5.0.0/16", "gw": "10.5.1.9" }]);
        let settings = decide(&json!({ "isDefaultGateway": true }), &json!({ "routes": routes }), ENV);
        let expected = ["192.0.2.0/24 via 10.5.1.1", "10.5.0.0/16 via 10.5.1.9", "0.0.0.0/0 via 10.5.1.1"];
        assert_eq!(routes_of(&settings), expected);
    }

    #[test]
    fn every_family_has_its_gateway() {
        let env = format!("{ENV}FLANNEL_IPV6_NETWORK=fd00:5::/48\nFLANNEL_IPV6_SUBNET=fd00:5:0:1::1/64\n");
        let settings = decide(&json!({ "isDefaultGateway": true }), &json!({}), &env);
        let addresses = ["10.5.1.2/24".parse().unwrap(), "fd00:5:0:1::2/64".parse().unwrap()];
        let plan = plan(&settings, &owner(), &addresses, &[]);
        assert_eq!(
            plan.bridge.addresses,
            ["10.5.1.1/24".parse().unwrap(), "fd00:5:0:1::1/64".parse().unwrap()]
        );
        let forwarding = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];
        assert_eq!(plan.sysctls.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), forwarding);
        assert!(routes_of(&settings).contains(&"::/0 via fd00:5:0:1::1".to_owned()));
    }

    #[test]
    fn a_bridge_that_is_no_gateway_has_no_address() {
        let settings = decide(&json!({ "isGateway": false, "mtu": 1300 }), &json!({}), ENV);
        let plan = plan(&settings, &owner(), &[], &[]);
        assert!(plan.bridge.addresses.is_empty() && plan.sysctls.is_empty());
        assert_eq!((plan.bridge.mtu, plan.veth.mtu), (Some(1300), Some(1300)));
    }

    #[test]
    fn ipv6_needs_its_mtu() {
        let env = format!("{ENV}FLANNEL_IPV6_NETWORK=fd00:5::/48\nFLANNEL_IPV6_SUBNET=fd00:5:0:1::1/64\n");
        let error = settings(&config(&json!({ "mtu": 1279 }), &json!({})), &SubnetEnv::parse(&env).unwrap())
            .unwrap_err();
        assert!(error.to_string().contains("delegate.mtu: 1279 is below 1280"), "{error}");
    }

    #[test]
    fn host_names_fit_and_differ() {
        let other = Attachment { interface: "eth1".into(), ..owner() };
        let shifted = Attachment { container: "onee".into(), interface: "th0".into() };
        let names = [owner(), other, shifted].map(|owner| host_interface(&owner));
        assert!(names.iter().all(|name| name.len() == crate::request::MAX_IFNAME), "{names:?}");
        assert!(names[0] != names[1] && names[0] != names[2]);
    }
}
