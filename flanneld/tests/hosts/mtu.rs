//! The largest packet: that of the interface to the other nodes, or less if the configuration says so.

use std::time::Duration;

use hostnet::{Netlink, Route};

use super::flannel::Flanneld;
use super::lab::{Host, Lab, inside, within};
use super::traffic::answers;

const SOON: Duration = Duration::from_secs(2);

/// Sets the MTU of a host's interface to the others.
fn set(host: &Host, mtu: u32) {
    inside(host.ns.path(), async || {
        let netlink = Netlink::connect().unwrap();
        let eth0 = netlink.link_by_name("eth0").await.unwrap().unwrap().index;
        netlink.set_mtu(eth0, mtu).await.unwrap();
    });
}

/// The MTU of the device, of the route into it, and of subnet.env.
fn told(host: &Host, daemon: &Flanneld) -> [Option<u32>; 3] {
    let (device, route) = inside(host.ns.path(), async || {
        let netlink = Netlink::connect().unwrap();
        let device = netlink.link_by_name("flannel0").await.unwrap().unwrap();
        let routes = netlink.routes().await.unwrap();
        let into = |route: &&Route| route.oif == Some(device.index) && route.dst.prefix() == 16;
        (device.mtu, routes.iter().find(into).and_then(|route| route.mtu))
    });
    [Some(device), route, Some(daemon.subnet().1)]
}

#[test]
fn the_interfaces_mtu_is_followed_while_running() {
    let (lab, daemons, [a, b]) = Lab::pair();
    let (host, daemon) = (&lab.hosts[0], &daemons[0]);
    assert_eq!(told(host, daemon), [Some(1472); 3]);
    for mtu in [1400, 1450] {
        set(host, mtu);
        let all = [Some(mtu - 28); 3];
        let took = within(SOON, "the MTU is followed", || told(host, daemon) == all);
        println!("an MTU of {mtu} is followed after {took:?}");
        assert!(daemon.log().contains("the interface to the other nodes is another one now, or has changed"));
        assert!(answers(&a, &b));
    }
}

#[test]
fn the_configuration_sets_a_lower_one() {
    let lab = Lab::with_hosts(1);
    for (backend, mtu) in [(r#"{"MTU":1400}"#, 1372), (r#"{"Type":"udp","MTU":9000}"#, 1472)] {
        let config = format!(r#"{{"Network":"10.5.0.0/16","Backend":{backend}}}"#);
        lab.put("/coreos.com/network/config", config);
        let daemon = Flanneld::start(&lab, 0, &[]);
        assert_eq!(told(&lab.hosts[0], &daemon), [Some(mtu); 3], "{backend}");
    }
}
