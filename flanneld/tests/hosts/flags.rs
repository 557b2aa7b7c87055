//! Flags whose meaning is on the host: routes, and who is told that they are there.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use hostnet::{Kind, Netlink, Route};

use super::flannel::Flanneld;
use super::lab::{Host, Lab, inside, within};

/// Longer than a look, and than what is between two whole looks.
const SOON: Duration = Duration::from_secs(7);

#[test]
fn the_interface_is_found_by_name_pattern_and_way() {
    let lab = Lab::with_hosts(1);
    for flags in [
        &["--iface=eth7", "--iface=eth0"][..],
        &["-iface=eth7", "-iface-regex=^10\\.", "-iface-regex=^198\\.18\\.50\\."],
        &["--iface-regex=^eth[0-3]$"],
        &["--iface=eth7", "--iface-can-reach=198.18.50.254"],
    ] {
        let mut daemon = Flanneld::start(&lab, 0, flags);
        let log = daemon.log();
        let line = log.lines().rfind(|line| line.contains("using interface")).unwrap();
        assert!(line.contains("eth0") && line.contains("198.18.50.1"), "{flags:?}: {line}");
        daemon.end(nix::sys::signal::Signal::SIGTERM);
    }
}

#[test]
fn what_cannot_be_ends_it_with_code_1_and_a_reason() {
    let lab = Lab::with_hosts(1);
    for (flag, reason) in [
        ("--iface=eth7", "--iface=eth7; there are: eth0 198.18.50.1"),
        ("--iface-regex=^wl", "eth0 198.18.50.1"),
        ("--public-ip=192.0.2.1", "--public-ip"),
    ] {
        let mut daemon = Flanneld::spawn(&lab, 0, &[flag]);
        assert_eq!(daemon.wait(), Some(1), "{flag}");
        let log = daemon.log();
        assert!(log.lines().last().unwrap().contains(reason), "{log}");
    }
}

/// What `systemd` would hear.
#[test]
fn systemd_is_told_when_packets_are_carried() {
    let lab = Lab::with_hosts(1);
    let path = lab.dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_nonblocking(true).unwrap();
    let mut heard = [0; 16];
    assert!(manager.recv(&mut heard).is_err());
    let _daemon = Flanneld::spawn_with(&lab, 0, &[], &[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    let mut length = 0;
    within(Duration::from_secs(20), "systemd hears it", || {
        length = manager.recv(&mut heard).unwrap_or(0);
        length > 0
    });
    assert_eq!(&heard[..length], b"READY=1");
    assert!(lab.dir.path().join("0.env").exists(), "subnet.env is there before");
}

fn blackholes(host: &Host) -> Vec<Route> {
    let routes = inside(host.ns.path(), async || Netlink::connect().unwrap().routes().await.unwrap());
    routes.into_iter().filter(|route| route.kind == Kind::Blackhole).collect()
}

#[test]
fn a_blackhole_covers_the_own_subnet_and_comes_back() {
    let lab = Lab::with_hosts(1);
    let host = &lab.hosts[0];
    let mut daemon = Flanneld::start(&lab, 0, &["--ip-blackhole-route"]);
    let subnet = daemon.subnet().0;
    let there = || blackholes(host).iter().any(|route| route.dst == subnet.into());
    within(SOON, "the blackhole is there", there);
    for route in blackholes(host) {
        inside(host.ns.path(), async || Netlink::connect().unwrap().delete_route(&route).await.unwrap());
    }
    within(SOON, "the blackhole is back", there);
    daemon.end(nix::sys::signal::Signal::SIGTERM);
    let _daemon = Flanneld::start(&lab, 0, &[]);
    within(SOON, "without the flag it goes", || blackholes(host).is_empty());
}
