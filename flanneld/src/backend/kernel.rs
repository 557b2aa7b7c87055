//! What a backend wants in the kernel's tables, and how it gets there: by difference, over what is wanted and what is found,
//! so that what a dead predecessor or another backend left behind goes too.

use std::collections::HashSet;
use std::net::IpAddr;

use anyhow::{Context, Result};
use hostnet::neighbour::{Neighbour, Table};
use hostnet::route::MAIN;
use hostnet::{Kind, Netlink, Route};
use ipnetwork::IpNetwork;

use crate::family::{Dual, Family, host};
use crate::owner::DEVICES;

/// Behind all other routes: where there is no better one, packets to pods are refused and do not leave in clear.
const REFUSE_METRIC: u32 = 4_294_967_295;

/// What should be there.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Routes of the main table.
    pub routes: Vec<Route>,
    /// Entries of the backend's devices.
    pub neighbours: Vec<Neighbour>,
}

impl Desired {
    /// What no lease covers is refused, and nothing else is there.
    pub fn refusing(networks: &Dual<IpNetwork>) -> Desired {
        Desired {
            routes: networks.values().map(|network| refuse(*network)).collect(),
            neighbours: Vec::new(),
        }
    }
}

/// The route that refuses what no lease covers.
pub fn refuse(network: IpNetwork) -> Route {
    Route { kind: Kind::Unreachable, metric: Some(REFUSE_METRIC), ..Route::to(network) }
}

/// The route that drops what is sent to the own subnet while no interface has it: without a word, and before the network's other routes.
pub fn blackhole(subnet: IpNetwork) -> Route {
    Route { kind: Kind::Blackhole, metric: Some(REFUSE_METRIC), ..Route::to(subnet) }
}

/// The routes of these networks into a device that carries packets of so many bytes.
pub fn into_device(device: u32, mtu: u32, networks: &Dual<IpNetwork>) -> impl Iterator<Item = Route> {
    networks.values().map(move |network| Route { oif: Some(device), mtu: Some(mtu), ..Route::to(*network) })
}

/// Whose entries are ours to remove.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    /// The whole network of each family.
    pub networks: Dual<IpNetwork>,
    /// The interface to the other nodes.
    pub underlay: u32,
    /// The backend's own device for packets of each family, if it has one.
    pub devices: Dual<u32>,
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
    for device in scope.devices.values() {
        // Who is where comes first: a route without it would swallow packets.
        for table in [Table::Forwarding, Table::Neighbours] {
            let there = netlink.neighbours(*device, table).await?;
            let of_table = desired.neighbours.iter().filter(|n| n.index == *device && n.table == table);
            // There may be thousands of each.
            let (found, wanted): (HashSet<_>, HashSet<_>) = (there.iter().collect(), of_table.collect());
            for stale in there.iter().filter(|n| n.permanent && !wanted.contains(n)) {
                note(netlink.delete_neighbour(stale).await);
            }
            for missing in wanted.difference(&found) {
                note(netlink.replace_neighbour(missing).await);
            }
        }
    }
    let devices: Vec<u32> =
        netlink.links().await?.iter().filter(|l| l.name.starts_with(DEVICES)).map(|l| l.index).collect();
    let there = netlink.routes().await?;
    let wanted: HashSet<_> = desired.routes.iter().map(meaning).collect();
    let found: HashSet<_> = there.iter().filter(|route| route.table == MAIN).map(meaning).collect();
    for stale in there.iter().filter(|r| ours(r, scope, &devices) && !wanted.contains(&meaning(r))) {
        note(netlink.delete_route(stale).await);
    }
    for missing in desired.routes.iter().filter(|route| !found.contains(&meaning(route))) {
        note(netlink.replace_route(missing).await);
    }
    outcome.context("the kernel's routes are not as they should be")
}

/// A route of a backend, or the one that drops: into one of flannel's devices, or into the network by way of another node. What the kernel
/// makes of a device's own addresses is none.
fn ours(route: &Route, scope: Scope, devices: &[u32]) -> bool {
    let family = Family::of(route.dst.ip());
    let inside = scope.networks.get(family).is_some_and(|network| is_inside(route.dst, *network));
    let into_device =
        |oif| scope.devices.values().any(|own| *own == oif) || (inside && devices.contains(&oif));
    let drops = inside && route.kind == Kind::Blackhole && route.metric == Some(REFUSE_METRIC);
    let via_node = inside && route.gateway.is_some() && route.oif == Some(scope.underlay);
    let leads = route.kind == Kind::Unicast && (via_node || route.oif.is_some_and(into_device));
    route.table == MAIN && !route.by_kernel && (leads || drops)
}

fn is_inside(part: IpNetwork, whole: IpNetwork) -> bool {
    part.prefix() >= whole.prefix() && whole.contains(part.network())
}

/// What makes two routes of the main table the same: what they are for, and the way that they lead.
type Meaning = (IpNetwork, Kind, u32, Option<(Option<IpAddr>, Option<u32>, bool, Option<u32>)>);

fn meaning(route: &Route) -> Meaning {
    let way = (route.gateway, route.oif, route.onlink, route.mtu);
    (route.dst, route.kind, route.priority(), Some(way).filter(|_| route.kind == Kind::Unicast))
}

/// Gives a device this address and takes away others of its family.
pub async fn set_address(netlink: &Netlink, device: u32, ip: IpAddr) -> Result<()> {
    Ok(netlink.replace_address(device, host(ip)).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_backends_routes_are_removed() {
        let networks = Dual { v4: "10.5.0.0/16".parse().ok(), v6: "fc00::/48".parse().ok() };
        let scope = Scope { networks, underlay: 2, devices: Dual { v4: Some(7), v6: Some(9) } };
        let to = |dst: &str| Route::to(dst.parse().unwrap());
        let gateway = |dst: &str| if dst.contains(':') { "fd00::1" } else { "192.0.2.1" }.parse().ok();
        let via = |dst: &str, oif| Route { gateway: gateway(dst), oif: Some(oif), ..to(dst) };
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
            (refuse(networks.v4.unwrap()), false, "the refusing one"),
            (blackhole("10.5.7.0/24".parse().unwrap()), true, "of an earlier lease"),
            (blackhole("fc00:0:0:7::/64".parse().unwrap()), true, "of an earlier lease"),
            (blackhole("10.6.7.0/24".parse().unwrap()), false, "of another network"),
            (Route { kind: Kind::Blackhole, ..to("10.5.7.0/24") }, false, "somebody else's blackhole"),
            (via("fc00:0:0:3::/64", 2), true, "a host-gw route of IPv6"),
            (via("::/0", 2), false, "the default route of IPv6"),
            (via("fc00::/32", 2), false, "wider than the network of IPv6"),
            (on("fc00:0:0:3::/64", 9), true, "into the device of IPv6"),
            (on("fc00:0:0:3::/64", 8), true, "another backend's device"),
            (Route { by_kernel: true, ..on("fe80::/64", 9) }, false, "of the device's link-local address"),
            (Route { by_kernel: true, ..on("fc00:0:0:1::/128", 9) }, false, "of the device's own address"),
        ];
        for (route, expected, what) in table {
            assert_eq!(ours(&route, scope, &[7, 8]), expected, "{what}");
        }
    }

    #[test]
    fn routes_are_the_same_if_they_lead_the_same_way() {
        let same = |wanted: &Route, there: &Route| meaning(wanted) == meaning(there);
        let route = Route { oif: Some(3), mtu: Some(1472), ..Route::to("10.5.0.0/16".parse().unwrap()) };
        assert!(same(&route, &Route { src: Some([10, 5, 1, 0].into()), ..route.clone() }));
        assert!(!same(&route, &Route { mtu: None, ..route.clone() }));
        assert!(!same(&route, &Route { onlink: true, ..route.clone() }));
        let refuse = refuse("10.5.0.0/16".parse().unwrap());
        assert!(same(&refuse, &Route { oif: Some(1), ..refuse.clone() }));
        assert!(!same(&refuse, &route));
        let v6 = Route { oif: Some(3), ..Route::to("fc00:0:0:3::/64".parse().unwrap()) };
        assert!(same(&v6, &Route { metric: Some(1024), ..v6.clone() }), "the kernel's own metric");
    }
}
