//! Somebody takes away what flanneld needs: it is back within two seconds, and nothing leaves in clear meanwhile.

use std::time::{Duration, Instant};

use hostnet::netns::run_in;
use hostnet::nft::{self, Family};
use hostnet::{Kind, Netlink, Route};

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
