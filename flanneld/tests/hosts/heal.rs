//! Somebody takes away what flanneld needs: it is back within two seconds, and nothing leaves in clear meanwhile.

use std::time::{Duration, Instant};

use hostnet::neighbour::Table;
use hostnet::netns::run_in;
use hostnet::nft::{self, Family};
use hostnet::{Kind, Netlink, Route};

use super::flannel::Flanneld;
use super::lab::{Host, Lab, inside, within};
use super::traffic::answers;
use super::wire::{Capture, in_clear};

const SOON: Duration = Duration::from_secs(2);
const TABLE: &str = "flannel-ipv4";

/// What `nft list` says of the table; nothing if it is not there.
fn rules(host: &Host) -> String {
    let mut list = std::process::Command::new("nft");
    list.args(["list", "table", "ip", TABLE]);
    String::from_utf8(run_in(host.ns.path(), || list.output().unwrap()).unwrap().stdout).unwrap()
}

#[test]
fn rules_that_are_taken_away_are_back_soon() {
    let (lab, daemons, _pods) = Lab::pair();
    let host = &lab.hosts[0];
    let right = rules(host);
    assert!(right.contains("masquerade") && right.contains("hook forward"), "{right}");
    for (n, damage) in [
        "delete table ip flannel-ipv4",
        "flush table ip flannel-ipv4",
        "flush ruleset",
        "flush chain ip flannel-ipv4 forward",
        "insert rule ip flannel-ipv4 forward drop",
    ]
    .iter()
    .enumerate()
    {
        run_in(host.ns.path(), || nft::apply(damage)).unwrap().unwrap();
        assert_ne!(rules(host), right);
        let took = within(SOON, damage, || rules(host) == right);
        println!("{damage}: mended after {took:?}");
        daemons[0].wait_for("flannel_rules_mended_total", n as u64 + 1);
    }
    // What others do with their own tables is no reason to write.
    for _ in 0..20 {
        run_in(host.ns.path(), || {
            nft::apply("table ip other {\n chain c { accept; }\n}\ndelete table ip other\n")
        })
        .unwrap()
        .unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(daemons[0].metric("flannel_rules_mended_total"), 5);
    assert!(run_in(host.ns.path(), || nft::has_table(Family::Ip, TABLE)).unwrap().unwrap());
}

/// One way to break the device or its routes.
async fn take_away(what: &str, netlink: &Netlink) {
    let device = netlink.link_by_name("flannel0").await.unwrap().unwrap().index;
    let network = "10.5.0.0/16".parse().unwrap();
    match what {
        "device" => netlink.delete_link(device).await.unwrap(),
        "link up" => netlink.set_up(device, false).await.unwrap(),
        "route" => {
            netlink.delete_route(&Route { oif: Some(device), ..Route::to(network) }).await.unwrap();
        }
        "address" => {
            for address in netlink.addresses(Some(device)).await.unwrap() {
                netlink.delete_address(device, address.net).await.unwrap();
            }
        }
        "mtu" => netlink.set_mtu(device, 576).await.unwrap(),
        _ => unreachable!("{what}"),
    }
}

/// Whether device and routes are as they should be.
async fn is_right(netlink: &Netlink) -> bool {
    let Some(link) = netlink.link_by_name("flannel0").await.unwrap() else { return false };
    let routes = netlink.routes().await.unwrap();
    let to_network = |kind| routes.iter().any(|r| r.dst.to_string() == "10.5.0.0/16" && r.kind == kind);
    let addresses = netlink.addresses(Some(link.index)).await.unwrap();
    link.up
        && link.mtu == 1472
        && addresses.iter().filter(|a| a.net.is_ipv4()).count() == 1
        && to_network(Kind::Unicast)
        && to_network(Kind::Unreachable)
}

/// Go flannel would fail here: without its device it spins for ever and says that it is ready.
#[test]
fn device_and_routes_that_are_taken_away_are_back_soon() {
    let (lab, _daemons, [a, b]) = Lab::pair();
    let host = &lab.hosts[0];
    assert!(inside(host.ns.path(), async || is_right(&Netlink::connect().unwrap()).await));
    let clear = Capture::wire(&lab, 0, in_clear);
    for what in ["device", "link up", "route", "address", "mtu"] {
        inside(host.ns.path(), async || take_away(what, &Netlink::connect().unwrap()).await);
        let start = Instant::now();
        within(SOON, what, || {
            // Pods go on talking while it is away.
            let talks = answers(&a, &b);
            talks && inside(host.ns.path(), async || is_right(&Netlink::connect().unwrap()).await)
        });
        println!("{what} taken away: pods talk again after {:?}", start.elapsed());
    }
    assert_eq!(clear.stop().kept.len(), 0, "in clear");
}

const VXLAN: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;
const HOST_GW: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#;

/// All that the vxlan and host-gw backends have in the kernel: routes into the network, and the device with its address and entries.
async fn kernel_state(netlink: &Netlink) -> Vec<String> {
    let inside: ipnetwork::IpNetwork = "10.5.0.0/16".parse().unwrap();
    let mut state: Vec<String> = Vec::new();
    let device = netlink.link_by_name("flannel.1").await.unwrap();
    for route in netlink.routes().await.unwrap() {
        let ours = route.table == 254 && inside.contains(route.dst.ip()) && route.src.is_none();
        // The device's number changes when it is made anew.
        let into_device = route.oif.is_some() && route.oif == device.as_ref().map(|device| device.index);
        if ours && route.dst.prefix() <= 24 {
            state.push(format!("{} via {:?} {:?} {into_device}", route.dst, route.gateway, route.kind));
        }
    }
    if let Some(device) = device {
        state.push(format!("{} {} {}", device.mac_text(), device.mtu, device.up));
        for address in netlink.addresses(Some(device.index)).await.unwrap() {
            state.extend(address.net.is_ipv4().then(|| address.net.to_string()));
        }
        for table in [Table::Neighbours, Table::Forwarding] {
            let entries = netlink.neighbours(device.index, table).await.unwrap();
            state.extend(
                entries.iter().filter(|n| n.permanent).map(|n| format!("{table:?} {} {:?}", n.ip, n.mac)),
            );
        }
    }
    state.sort();
    state
}

/// One way to break what the kernel has of a backend.
async fn break_kernel(what: &str, netlink: &Netlink) {
    let device = async || netlink.link_by_name("flannel.1").await.unwrap().unwrap().index;
    let entries = async |table| netlink.neighbours(device().await, table).await.unwrap();
    match what {
        "device" => netlink.delete_link(device().await).await.unwrap(),
        "link up" => netlink.set_up(device().await, false).await.unwrap(),
        "mtu" => netlink.set_mtu(device().await, 576).await.unwrap(),
        "hardware address" => netlink.set_mac(device().await, [2, 1, 1, 1, 1, 1]).await.unwrap(),
        "address" => {
            for address in netlink.addresses(Some(device().await)).await.unwrap() {
                netlink.delete_address(address.index, address.net).await.unwrap();
            }
        }
        "neighbour" | "forwarding entry" => {
            let table = if what == "neighbour" { Table::Neighbours } else { Table::Forwarding };
            for entry in entries(table).await.iter().filter(|entry| entry.permanent) {
                netlink.delete_neighbour(entry).await.unwrap();
            }
        }
        "routes" => {
            let inside: ipnetwork::IpNetwork = "10.5.0.0/16".parse().unwrap();
            for route in netlink.routes().await.unwrap() {
                if route.table == 254 && inside.contains(route.dst.ip()) && route.gateway.is_some() {
                    netlink.delete_route(&route).await.unwrap();
                }
            }
        }
        "refusing route" => {
            let to = Route::to("10.5.0.0/16".parse().unwrap());
            netlink
                .delete_route(&Route { kind: Kind::Unreachable, metric: Some(u32::MAX), ..to })
                .await
                .unwrap();
        }
        _ => unreachable!("{what}"),
    }
}

fn kernel_heals(config: &str, ways: &[&str]) {
    let lab = Lab::with_hosts(2);
    lab.put("/coreos.com/network/config", config);
    let daemons = [0, 1].map(|n| Flanneld::start(&lab, n, &[]));
    let [a, b] = [0, 1].map(|n| lab.pod(n, &daemons[n]));
    within(Duration::from_secs(5), "the pods talk", || answers(&a, &b));
    let host = &lab.hosts[0];
    let state = || inside(host.ns.path(), async || kernel_state(&Netlink::connect().unwrap()).await);
    let right = state();
    for what in ways {
        inside(host.ns.path(), async || break_kernel(what, &Netlink::connect().unwrap()).await);
        assert_ne!(state(), right, "{what} is taken away");
        let took = within(SOON, what, || state() == right);
        assert!(within(SOON, what, || answers(&a, &b)) < SOON);
        println!("{what} taken away: all is as before after {took:?}");
    }
}

/// Go flannel would fail here: it makes the device anew with another hardware address, tells nobody, and restores no entry (issues 869, 877).
#[test]
fn what_is_taken_away_of_vxlan_is_back_soon() {
    kernel_heals(
        VXLAN,
        &[
            "device",
            "link up",
            "mtu",
            "hardware address",
            "address",
            "neighbour",
            "forwarding entry",
            "routes",
            "refusing route",
        ],
    );
}

#[test]
fn what_is_taken_away_of_host_gw_is_back_soon() {
    kernel_heals(HOST_GW, &["routes", "refusing route"]);
}
