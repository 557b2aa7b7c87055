//! What a backend wants in the kernel's tables, and how it gets there: by difference, over what is wanted and what is found,
//! so that what a dead predecessor or another backend left behind goes too.

use std::net::IpAddr;

use anyhow::{Context, Result};
use hostnet::neighbour::{Neighbour, Table};
use hostnet::route::MAIN;
use hostnet::{Kind, Netlink, Route};
use ipnetwork::{IpNetwork, Ipv4Network};

/// How the names of flannel's devices begin, whatever the backend.
const DEVICES: &str = "flannel";
/// Behind all other routes: where there is no better one, packets to pods are refused and do not leave in clear.
const REFUSE_METRIC: u32 = 4_294_967_295;

/// What should be there.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Routes of the main table.
    pub routes: Vec<Route>,
    /// Entries of the backend's device.
    pub neighbours: Vec<Neighbour>,
}

/// The route that refuses what no lease covers.
pub fn refuse(network: Ipv4Network) -> Route {
    let to = Route::to(IpNetwork::V4(network));
    Route { kind: Kind::Unreachable, metric: Some(REFUSE_METRIC), ..to }
}

/// The route that drops what is sent to the own subnet while no interface has it: without a word, and before the network's other routes.
pub fn blackhole(subnet: Ipv4Network) -> Route {
    Route { kind: Kind::Blackhole, metric: Some(REFUSE_METRIC), ..Route::to(IpNetwork::V4(subnet)) }
}

/// Whose entries are ours to remove.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    /// The whole network.
    pub network: Ipv4Network,
    /// The interface to the other nodes.
    pub underlay: u32,
    /// The backend's own device, if it has one.
    pub device: Option<u32>,
}

/// Brings the kernel's tables into the wanted state. One entry that is refused does not keep the others away.
pub async fn sync(netlink: &Netlink, scope: Scope, desired: &Desired) -> Result<()> {
    let mut outcome = Ok(());
    let mut note = |done: hostnet::Result<()>| {
        if let Err(error) = done
            && outcome.is_ok()
        {
            outcome = Err(error);
        }
    };
    if let Some(device) = scope.device {
        // Who is where comes first: a route without it would swallow packets.
        for table in [Table::Forwarding, Table::Neighbours] {
            let there = netlink.neighbours(device, table).await?;
            let wanted: Vec<_> = desired.neighbours.iter().filter(|n| n.table == table).collect();
            for stale in there.iter().filter(|n| n.permanent && !wanted.contains(n)) {
                note(netlink.delete_neighbour(stale).await);
            }
            for missing in wanted.iter().filter(|n| !there.contains(n)) {
                note(netlink.replace_neighbour(missing).await);
            }
        }
    }
    let devices: Vec<u32> =
        netlink.links().await?.iter().filter(|l| l.name.starts_with(DEVICES)).map(|l| l.index).collect();
    let there = netlink.routes().await?;
    for stale in
        there.iter().filter(|r| ours(r, scope, &devices) && !desired.routes.iter().any(|w| same(w, r)))
    {
        note(netlink.delete_route(stale).await);
    }
    for missing in desired.routes.iter().filter(|w| !there.iter().any(|r| same(w, r))) {
        note(netlink.replace_route(missing).await);
    }
    outcome.context("the kernel's routes are not as they should be")
}

/// A route of a backend, or the one that drops: into one of flannel's devices, or into the network by way of another node.
fn ours(route: &Route, scope: Scope, devices: &[u32]) -> bool {
    let inside = matches!(route.dst, IpNetwork::V4(dst) if dst.is_subnet_of(scope.network));
    let into_device = |oif| scope.device == Some(oif) || (inside && devices.contains(&oif));
    let drops = inside && route.kind == Kind::Blackhole && route.metric == Some(REFUSE_METRIC);
    let via_node = inside && route.gateway.is_some() && route.oif == Some(scope.underlay);
    let leads = route.kind == Kind::Unicast && (via_node || route.oif.is_some_and(into_device));
    route.table == MAIN && route.dst.is_ipv4() && (leads || drops)
}

fn same(wanted: &Route, there: &Route) -> bool {
    let metric = |route: &Route| route.metric.unwrap_or(0);
    let way = |route: &Route| (route.gateway, route.oif, route.onlink, route.mtu);
    wanted.dst == there.dst
        && wanted.kind == there.kind
        && metric(wanted) == metric(there)
        && there.table == MAIN
        && (wanted.kind != Kind::Unicast || way(wanted) == way(there))
}

/// Gives a device this address and takes away others of IPv4.
pub async fn set_address(netlink: &Netlink, device: u32, ip: std::net::Ipv4Addr) -> Result<()> {
    let wanted = IpNetwork::from(IpAddr::V4(ip));
    for address in netlink.addresses(Some(device)).await? {
        if address.net.is_ipv4() && address.net != wanted {
            netlink.delete_address(device, address.net).await?;
        }
    }
    Ok(netlink.add_address(device, wanted).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_backends_routes_are_removed() {
        let scope = Scope { network: "10.5.0.0/16".parse().unwrap(), underlay: 2, device: Some(7) };
        let to = |dst: &str| Route::to(dst.parse().unwrap());
        let via = |dst: &str, oif| Route { gateway: Some([192, 0, 2, 1].into()), oif: Some(oif), ..to(dst) };
        let on = |dst: &str, oif| Route { oif: Some(oif), ..to(dst) };
        let table = [
            (via("10.5.3.0/24", 2), true, "a host-gw route"),
            (via("10.5.3.0/24", 3), false, "by another interface"),
            (via("0.0.0.0/0", 2), false, "the default route"),
            (via("10.0.0.0/8", 2), false, "wider than the network"),
            (on("10.5.3.0/24", 4), false, "the bridge's"),
            (on("10.5.3.0/24", 8), true, "another backend's device"),
            (on("10.6.3.0/24", 8), false, "another network's device"),
            (on("10.6.0.0/16", 7), true, "the own device's, of an earlier network"),
            (Route { table: 100, ..via("10.5.3.0/24", 2) }, false, "another table"),
            (refuse(scope.network), false, "the refusing one"),
            (blackhole("10.5.7.0/24".parse().unwrap()), true, "of an earlier lease"),
            (blackhole("10.6.7.0/24".parse().unwrap()), false, "of another network"),
            (Route { kind: Kind::Blackhole, ..to("10.5.7.0/24") }, false, "somebody else's blackhole"),
        ];
        for (route, expected, what) in table {
            assert_eq!(ours(&route, scope, &[7, 8]), expected, "{what}");
        }
    }

    #[test]
    fn routes_are_the_same_if_they_lead_the_same_way() {
        let route = Route { oif: Some(3), mtu: Some(1472), ..Route::to("10.5.0.0/16".parse().unwrap()) };
        assert!(same(&route, &Route { src: Some([10, 5, 1, 0].into()), ..route.clone() }));
        assert!(!same(&route, &Route { mtu: None, ..route.clone() }));
        assert!(!same(&route, &Route { onlink: true, ..route.clone() }));
        let refuse = refuse("10.5.0.0/16".parse().unwrap());
        assert!(same(&refuse, &Route { oif: Some(1), ..refuse.clone() }));
        assert!(!same(&refuse, &route));
    }
}
