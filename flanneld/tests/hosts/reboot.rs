//! A host is started again: its kernel has nothing of flannel any more, /run is empty, the id of its boot is another one, and maybe its address.

use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use hostnet::netns::run_in;
use hostnet::{Netlink, nft};
use nix::sys::signal::Signal;

use super::flannel::Flanneld;
use super::lab::{Lab, NETWORK, Pod, inside, within};
use super::moving::{lease, readdress};
use super::traffic::answers;

const CONFIG: &str = "/coreos.com/network/config";
const BACKENDS: [&str; 3] = [
    NETWORK,
    r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#,
    r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#,
];
/// The first host's, and the one that it has later.
const OLD: Ipv4Addr = Ipv4Addr::new(198, 18, 50, 1);
const NEW: Ipv4Addr = Ipv4Addr::new(198, 18, 50, 101);
/// Three seconds of them the holder of the lease, which is dead, has time to answer.
const SOON: Duration = Duration::from_secs(5);

/// Two hosts with a pod each, and a third one.
fn pair(config: &str) -> (Lab, [Flanneld; 2], [Pod; 2]) {
    let lab = Lab::with_hosts(3);
    lab.put(CONFIG, config);
    let daemons = [0, 1].map(|host| Flanneld::start(&lab, host, &[]));
    let pods = [0, 1].map(|host| lab.pod(host, &daemons[host]));
    within(SOON, "the pods talk", || answers(&pods[0], &pods[1]));
    (lab, daemons, pods)
}

/// The first host is off: its flanneld, its pod, and all that its kernel had of them.
fn off(lab: &Lab, daemon: &mut Flanneld, pod: Pod) {
    daemon.end(Signal::SIGKILL);
    drop(pod);
    inside(lab.hosts[0].ns.path(), async || {
        let netlink = Netlink::connect().unwrap();
        for link in netlink.links().await.unwrap() {
            if link.name.starts_with("flannel") || link.name == "cni0" {
                netlink.delete_link(link.index).await.unwrap();
            }
        }
        for route in netlink.routes().await.unwrap() {
            if route.dst.to_string().starts_with("10.5.") {
                netlink.delete_route(&route).await.unwrap();
            }
        }
    });
    run_in(lab.hosts[0].ns.path(), || nft::apply("flush ruleset").unwrap()).unwrap();
    fs::remove_file(&daemon.file).unwrap();
}

/// The first host is on again, with a pod, under an address; all as before but for that.
fn on(lab: &Lab, peer: &Flanneld, other: &Pod, address: Ipv4Addr, what: &str) -> (Flanneld, Pod) {
    let leases = lab.leases().len();
    let start = Instant::now();
    let daemon = Flanneld::spawn_after_boot(lab, 0, &[]);
    daemon.wait_ready();
    let pod = lab.pod(0, &daemon);
    within(SOON.saturating_sub(start.elapsed()), what, || answers(&pod, other) && answers(other, &pod));
    println!("{what}: pods talk {:?} after the start", start.elapsed());
    assert_eq!(lab.leases().len(), leases, "no second lease");
    assert!(
        lease(lab, &daemon).starts_with(&format!(r#"{{"PublicIP":"{address}""#)),
        "{}",
        lease(lab, &daemon)
    );
    assert_eq!(peer.metric("flannel_leases"), 2);
    (daemon, pod)
}

fn keeps_its_subnet_as(address: Ipv4Addr) {
    for config in BACKENDS {
        let (lab, [mut daemon, peer], [a, b]) = pair(config);
        let subnet = daemon.subnet();
        off(&lab, &mut daemon, a);
        if address != OLD {
            readdress(&lab, 0, OLD, address);
        }
        let (daemon, _a) = on(&lab, &peer, &b, address, config);
        assert_eq!(daemon.subnet(), subnet);
    }
}

#[test]
fn a_host_that_is_started_again_keeps_its_subnet() {
    keeps_its_subnet_as(OLD);
}

/// Go flannel would fail here: another address is another node, whose subnet is another one; the old lease stays for a day.
#[test]
fn a_host_that_is_started_again_with_another_address_keeps_its_subnet() {
    keeps_its_subnet_as(NEW);
}

/// Another host has the old address now: it gets a subnet of its own, and nothing that is for the first host's pods.
#[test]
fn who_has_the_old_address_gets_nothing_of_the_host_that_had_it() {
    for config in BACKENDS {
        let (lab, [mut daemon, peer], [a, b]) = pair(config);
        let subnet = daemon.subnet();
        off(&lab, &mut daemon, a);
        readdress(&lab, 0, OLD, NEW);
        readdress(&lab, 2, lab.hosts[2].ip, OLD);
        let (daemon, a) = on(&lab, &peer, &b, NEW, config);
        let third = Flanneld::start(&lab, 2, &[]);
        let c = lab.pod(2, &third);
        assert_eq!(daemon.subnet(), subnet);
        assert_ne!(third.subnet(), subnet);
        for (from, to) in [(&a, &b), (&b, &a), (&a, &c), (&c, &a), (&b, &c), (&c, &b)] {
            within(SOON, config, || answers(from, to));
        }
        assert!(daemon.get("/readyz").unwrap().contains("is ready"));
        assert_eq!(lab.leases().len(), 3);
    }
}
