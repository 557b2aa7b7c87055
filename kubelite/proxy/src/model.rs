//! What the proxy needs to know of services and endpoint slices: one entry per service port, endpoints chosen. Pure.
//!
//! The rules are those of the API (Service.spec, KEP-1669 for endpoints that terminate, KEP-2086 for the internal traffic policy).
//! IPv4 only.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnetwork::Ipv4Network;
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// The label that says whose a slice is.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// The default of `sessionAffinityConfig`, in seconds: three hours.
const AFFINITY_SECONDS: i32 = 10_800;

/// Where a packet can go.
pub type Target = (Ipv4Addr, u16);

/// One port of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// `namespace/service/protocol/port`, in what nftables takes as a name.
    pub id: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
    /// The service's own port.
    pub port: u16,
    /// Where pods reach it.
    pub cluster_ips: Vec<Ipv4Addr>,
    /// `externalIPs` and the addresses of a load balancer.
    pub external: Vec<External>,
    /// The port on all nodes.
    pub node_port: Option<u16>,
    /// Who may use the load balancer's addresses; none: everybody.
    pub source_ranges: Vec<Ipv4Network>,
    /// For how many seconds a client stays with its endpoint.
    pub affinity: Option<i32>,
    /// For clients in the cluster.
    pub internal: BTreeSet<Target>,
    /// For clients outside of the cluster.
    pub outside: Outside,
}

/// An address that clients outside of the cluster use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct External {
    /// The address.
    pub ip: Ipv4Addr,
    /// Whether it is a load balancer's, for which `loadBalancerSourceRanges` count.
    pub balancer: bool,
}

/// Where clients outside of the cluster get to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outside {
    /// To any endpoint, masqueraded.
    Cluster(BTreeSet<Target>),
    /// To endpoints of this node with the client's address kept; clients of this node itself get to any (the second).
    Local(BTreeSet<Target>, BTreeSet<Target>),
}

/// The ports of a service as this node serves them; none for a headless one or an alias.
pub fn ports(service: &Service, slices: &[Arc<EndpointSlice>], node: &str) -> Vec<Port> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let cluster_ips: Vec<Ipv4Addr> =
        spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).filter_map(|ip| ip.parse().ok()).collect();
    if cluster_ips.is_empty() || spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let cluster_ips: Vec<Ipv4Addr> = cluster_ips.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    let local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
        config.and_then(|client| client.timeout_seconds).unwrap_or(AFFINITY_SECONDS)
    });
    let ranges =
        spec.load_balancer_source_ranges.iter().flatten().filter_map(|range| range.trim().parse().ok());
    let (external, ranges) = (external(service), ranges.collect::<Vec<_>>());
    let port = |port: &ServicePort| {
        let protocol = protocol(port.protocol.as_deref())?;
        let any = || chosen(slices, port, protocol, None);
        let here = || chosen(slices, port, protocol, Some(node));
        Some(Port {
            id: format!(
                "{}/{}/{protocol}/{}",
                service.metadata.namespace.as_deref().unwrap_or_default(),
                service.metadata.name.as_deref().unwrap_or_default(),
                port.port
            ),
            protocol,
            port: number(port.port)?,
            cluster_ips: cluster_ips.clone(),
            external: external.clone(),
            node_port: port.node_port.and_then(number),
            source_ranges: ranges.clone(),
            affinity,
            internal: if local(&spec.internal_traffic_policy) { here() } else { any() },
            outside: if local(&spec.external_traffic_policy) {
                Outside::Local(here(), any())
            } else {
                Outside::Cluster(any())
            },
        })
    };
    spec.ports.iter().flatten().filter_map(port).collect()
}

fn external(service: &Service) -> Vec<External> {
    let own = service.spec.iter().flat_map(|spec| spec.external_ips.iter().flatten());
    let own = own.filter_map(|ip| Some(External { ip: ip.parse().ok()?, balancer: false }));
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.into_iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    // With ipMode Proxy the balancer sends to the nodes itself (KEP-1860).
    let direct = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    let balancer =
        direct.filter_map(|i| Some(External { ip: i.ip.as_deref()?.parse().ok()?, balancer: true }));
    own.chain(balancer).collect()
}

/// The endpoints that get traffic: those that are ready, or, if none is, those that still serve while they terminate.
fn chosen(
    slices: &[Arc<EndpointSlice>],
    wanted: &ServicePort,
    protocol: &str,
    node: Option<&str>,
) -> BTreeSet<Target> {
    let (mut ready, mut leaving) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        let port = slice.ports.iter().flatten().find(|port| {
            port.name.as_deref().unwrap_or_default() == wanted.name.as_deref().unwrap_or_default()
                && self::protocol(port.protocol.as_deref()) == Some(protocol)
        });
        let Some(port) = port.and_then(|port| number(port.port?)) else { continue };
        for endpoint in
            slice.endpoints.iter().flatten().filter(|e| node.is_none() || e.node_name.as_deref() == node)
        {
            let target = endpoint.addresses.first().and_then(|ip| ip.parse::<IpAddr>().ok());
            let Some(IpAddr::V4(ip)) = target else { continue };
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            if conditions.ready != Some(false) {
                ready.insert((ip, port));
            } else if conditions.serving == Some(true) && conditions.terminating == Some(true) {
                leaving.insert((ip, port));
            }
        }
    }
    if ready.is_empty() { leaving } else { ready }
}

fn protocol(name: Option<&str>) -> Option<&'static str> {
    match name.unwrap_or("TCP") {
        "TCP" => Some("tcp"),
        "UDP" => Some("udp"),
        "SCTP" => Some("sctp"),
        _ => None,
    }
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(spec: Value) -> Service {
        let mut spec = spec;
        spec["ports"] = json!([{ "name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080 }]);
        let spec = spec.as_object_mut().map(|map| {
            map.entry("clusterIP").or_insert(json!("10.43.0.9"));
            map.clone()
        });
        serde_json::from_value(json!({ "metadata": {"name": "web", "namespace": "shop"}, "spec": spec }))
            .unwrap()
    }

    fn slice(endpoints: &[(&str, &str, Value)]) -> Arc<EndpointSlice> {
        let endpoint = |(ip, node, conditions): &(&str, &str, Value)| json!({ "addresses": [ip], "nodeName": node, "conditions": conditions });
        let slice = serde_json::from_value(json!({
            "addressType": "IPv4", "ports": [{ "name": "http", "port": 8080 }],
            "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        }))
        .unwrap();
        Arc::new(slice)
    }

    fn ips(targets: &BTreeSet<Target>) -> Vec<String> {
        targets.iter().map(|(ip, port)| format!("{ip}:{port}")).collect()
    }

    #[test]
    fn ready_endpoints_serve_and_leaving_ones_only_where_there_is_none() {
        let (ready, not) = (json!({"ready": true}), json!({"ready": false}));
        let leaving = json!({"ready": false, "serving": true, "terminating": true});
        let all =
            slice(&[("10.42.1.2", "a", ready), ("10.42.2.2", "b", leaving.clone()), ("10.42.2.3", "b", not)]);
        let of = |spec, slices: &[Arc<EndpointSlice>]| ports(&service(spec), slices, "b").remove(0);
        let port = of(json!({}), std::slice::from_ref(&all));
        assert_eq!(port.id, "shop/web/tcp/80");
        assert_eq!(ips(&port.internal), ["10.42.1.2:8080"]);
        let local = of(json!({"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"}), &[all]);
        assert_eq!(ips(&local.internal), ["10.42.2.2:8080"]);
        let Outside::Local(here, any) = local.outside else { panic!("not local") };
        assert_eq!((ips(&here), ips(&any)), (vec!["10.42.2.2:8080".into()], vec!["10.42.1.2:8080".into()]));
        assert!(of(json!({}), &[]).internal.is_empty());
    }

    #[test]
    fn headless_services_and_aliases_have_no_rules() {
        for spec in [json!({"clusterIP": "None"}), json!({"type": "ExternalName", "externalName": "x.test"})]
        {
            assert!(ports(&service(spec), &[], "a").is_empty());
        }
    }

    #[test]
    fn what_is_reached_from_outside() {
        let mut web = service(
            json!({ "type": "LoadBalancer", "externalIPs": ["192.0.2.5"], "sessionAffinity": "ClientIP",
            "loadBalancerSourceRanges": ["192.0.2.0/24", "nonsense"] }),
        );
        web.status = serde_json::from_value(json!({ "loadBalancer": { "ingress": [
            {"ip": "192.0.2.6", "ipMode": "VIP"}, {"ip": "192.0.2.7", "ipMode": "Proxy"}, {"hostname": "x"}] } }))
        .unwrap();
        let port = ports(&web, &[], "a").remove(0);
        let seen: Vec<_> = port.external.iter().map(|e| (e.ip.to_string(), e.balancer)).collect();
        assert_eq!(seen, [("192.0.2.5".to_string(), false), ("192.0.2.6".to_string(), true)]);
        assert_eq!((port.node_port, port.affinity, port.source_ranges.len()), (Some(30080), Some(10_800), 1));
    }
}
