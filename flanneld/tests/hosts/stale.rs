//! What a dead predecessor left in the kernel: it goes when the next one starts, and what is still right stays untouched.

use std::time::Duration;

use hostnet::Netlink;
use nix::sys::signal::Signal;

use super::flannel::Flanneld;
use super::lab::{Lab, SUBNETS, inside, within};

const CONFIG: &str = "/coreos.com/network/config";
const GONE: &str = "10.5.201.0-24";
const STAYS: &str = "10.5.202.0-24";

/// Destinations of routes to other nodes, and how many permanent entries the VXLAN device has.
fn seen(lab: &Lab) -> (Vec<String>, usize) {
    inside(lab.hosts[0].ns.path(), async || {
        let netlink = Netlink::connect().unwrap();
        let routes = netlink.routes().await.unwrap();
        let via = routes.iter().filter(|route| route.gateway.is_some() && route.dst.prefix() == 24);
        let mut entries = 0;
        if let Some(device) = netlink.link_by_name("flannel.1").await.unwrap() {
            for table in [hostnet::neighbour::Table::Neighbours, hostnet::neighbour::Table::Forwarding] {
                let all = netlink.neighbours(device.index, table).await.unwrap();
                entries += all.iter().filter(|entry| entry.permanent).count();
            }
        }
        (via.map(|route| route.dst.to_string()).collect(), entries)
    })
}

fn leftovers_go(config: &str, backend: &str, entries_each: usize) {
    let lab = Lab::with_hosts(2);
    lab.put(CONFIG, config);
    for (n, key) in [GONE, STAYS].iter().enumerate() {
        let data = format!(r#"{{"VNI":1,"VtepMAC":"02:00:00:00:00:0{}"}}"#, n + 1);
        let value = format!(
            r#"{{"PublicIP":"198.18.50.1{n}","PublicIPv6":null,"BackendType":"{backend}","BackendData":{data}}}"#
        );
        lab.put(&format!("{SUBNETS}{key}"), value);
    }
    let mut daemon = Flanneld::start(&lab, 0, &[]);
    let both = ["10.5.201.0/24".to_owned(), "10.5.202.0/24".to_owned()];
    within(Duration::from_secs(2), "both routes are there", || {
        seen(&lab) == (both.to_vec(), 2 * entries_each)
    });
    daemon.end(Signal::SIGKILL);
    lab.etcd(async |mut client| client.delete(format!("{SUBNETS}{GONE}"), None).await.unwrap());
    assert_eq!(seen(&lab), (both.to_vec(), 2 * entries_each), "while it is dead all stays");
    let _daemon = Flanneld::start(&lab, 0, &[]);
    within(Duration::from_secs(2), "one is gone", || seen(&lab) == (both[1..].to_vec(), entries_each));
}

/// Go flannel would fail here: what a former run left is never removed (issue 2554).
#[test]
fn routes_of_a_dead_predecessor_go() {
    leftovers_go(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#, "host-gw", 0);
}

#[test]
fn routes_and_entries_of_a_dead_predecessor_go() {
    leftovers_go(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#, "vxlan", 2);
}
