//! Two networks on two hosts: a flanneld each, with a prefix, a subnet file, and a port or VNI of its own. None touches what is another's.

use std::time::{Duration, Instant};

use hostnet::Netlink;
use hostnet::netns::run_in;
use hostnet::nft::{self, Family};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::flannel::{Flanneld, prefix};
use super::lab::{Lab, Pod, inside, within};
use super::series::Series;
use super::traffic::answers;

const UDP: [&str; 2] =
    [r#"{"Network":"10.5.0.0/16"}"#, r#"{"Network":"10.6.0.0/16","Backend":{"Type":"udp","Port":8286}}"#];
const VXLAN: [&str; 2] = [
    r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#,
    r#"{"Network":"10.6.0.0/16","Backend":{"Type":"vxlan","VNI":2}}"#,
];
const WIREGUARD: [&str; 2] = [
    r#"{"Network":"10.5.0.0/16","Backend":{"Type":"wireguard"}}"#,
    r#"{"Network":"10.6.0.0/16","Backend":{"Type":"wireguard","ListenPort":51830}}"#,
];
const HOST_GW: [&str; 2] = [
    r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#,
    r#"{"Network":"10.6.0.0/16","Backend":{"Type":"host-gw"}}"#,
];
const SOON: Duration = Duration::from_secs(2);

/// Two hosts in two networks, with a pod of each network on each.
struct Scene {
    lab: Lab,
    /// By network, then by host.
    daemons: [[Flanneld; 2]; 2],
    pods: [[Pod; 2]; 2],
    flags: &'static [&'static str],
}

impl Scene {
    fn new(configs: [&str; 2], flags: &'static [&'static str]) -> Scene {
        let lab = Lab::with_hosts(2);
        for (network, config) in configs.iter().enumerate() {
            configure(&lab, network, config);
        }
        let daemons = [0, 1].map(|network| [0, 1].map(|host| start(&lab, host, network, flags)));
        let pods = [0, 1].map(|network: usize| [0, 1].map(|host| lab.pod(host, &daemons[network][host])));
        for [a, b] in &pods {
            within(Duration::from_secs(5), "the pods talk", || answers(a, b) && answers(b, a));
        }
        Scene { lab, daemons, pods, flags }
    }

    /// A pod of the first network and one of the second.
    fn strangers(&self) -> impl Iterator<Item = (&Pod, &Pod)> {
        self.pods[0].iter().flat_map(|one| self.pods[1].iter().map(move |other| (one, other)))
    }

    /// Ends a network's flanneld on the first host and starts it again.
    fn restart(&mut self, network: u8, signal: Signal) {
        let daemon = &mut self.daemons[usize::from(network)][0];
        daemon.end(signal);
        *daemon = start(&self.lab, 0, network, self.flags);
    }

    /// What `flanneld status` says of the first host's.
    fn status(&self, network: usize) -> Value {
        let (done, text) = self.daemons[network][0].look(&["status", "-o", "json"]);
        assert!(done, "{text}");
        serde_json::from_str(&text).unwrap()
    }
}

fn configure(lab: &Lab, network: usize, config: &str) {
    lab.put(&format!("{}/config", prefix(u8::try_from(network).unwrap())), config);
}

fn start(lab: &Lab, host: usize, network: u8, flags: &[&str]) -> Flanneld {
    let daemon = Flanneld::spawn_in(lab, host, network, flags);
    daemon.wait_ready();
    daemon
}

/// flannel's tables of IPv4 on the first host, with their labels.
fn tables(lab: &Lab) -> Vec<nft::Table> {
    let mut tables = run_in(lab.hosts[0].ns.path(), || nft::tables(Family::Ip).unwrap()).unwrap();
    tables.retain(|table| table.name.starts_with("flannel"));
    tables.sort_by(|one, other| one.name.cmp(&other.name));
    tables
}

/// flannel's devices on the first host, with their labels.
fn devices(lab: &Lab) -> Vec<(String, Option<String>)> {
    let links = inside(lab.hosts[0].ns.path(), async || Netlink::connect().unwrap().links().await.unwrap());
    let mut devices: Vec<_> = links.into_iter().map(|link| (link.name, link.alias)).collect();
    devices.retain(|(name, _)| name.starts_with("flannel"));
    devices.sort();
    devices
}

fn delete_device(lab: &Lab, name: &str) {
    inside(lab.hosts[0].ns.path(), async || {
        let netlink = Netlink::connect().unwrap();
        let device = netlink.link_by_name(name).await.unwrap().unwrap();
        netlink.delete_link(device.index).await.unwrap();
    });
}

/// Go flannel would fail here: its second rules take the place of the first ones, and pods of both networks reach each other.
#[test]
fn pods_of_a_network_talk_and_those_of_the_other_one_are_not_reached() {
    for (configs, names) in [
        (UDP, ["flannel0", "flannel1"]),
        (VXLAN, ["flannel.1", "flannel.2"]),
        (WIREGUARD, ["flannel-wg", "flannel-wg1"]),
        (HOST_GW, ["", ""]),
    ] {
        let scene = Scene::new(configs, &[]);
        for (one, other) in scene.strangers() {
            within(SOON, "they are kept apart", || !answers(one, other) && !answers(other, one));
        }
        for [a, b] in &scene.pods {
            assert!(answers(a, b) && answers(b, a), "{configs:?}");
        }
        let labels = [0, 1].map(|network: usize| {
            let file = scene.daemons[network][0].file.display();
            Some(format!("flanneld:{file} 10.{}.0.0/16", 5 + network))
        });
        let named = ["flannel-ipv4", "flannel-ipv4-1"].map(str::to_owned).into_iter().zip(labels.clone());
        let expected: Vec<_> = named.map(|(name, comment)| nft::Table { name, comment }).collect();
        assert_eq!(tables(&scene.lab), expected);
        if configs != HOST_GW {
            let expected: Vec<_> = names.map(str::to_owned).into_iter().zip(labels).collect();
            assert_eq!(devices(&scene.lab), expected);
            for (network, name) in names.iter().enumerate() {
                assert_eq!(scene.status(network)["network"]["device"], *name, "{}", scene.status(network));
            }
        }
    }
}

/// What is not asked for is not done: then the host passes packets on from one network to the other, as with Go flannel.
#[test]
fn without_forward_rules_networks_are_not_kept_apart() {
    let scene = Scene::new(UDP, &["--iptables-forward-rules=false"]);
    for (one, other) in scene.strangers() {
        within(SOON, "the host passes it on", || answers(one, other));
    }
}

/// Whether the kernel's programs carry what goes out and what comes in, of the first host's networks.
fn fast(scene: &Scene) -> [[u64; 2]; 2] {
    let feature = |network: usize, name| {
        scene.daemons[network][0].metric(&format!(r#"flannel_datapath_feature{{feature="{name}"}}"#))
    };
    [0, 1].map(|network| ["FastOut", "FastIn"].map(|name| feature(network, name)))
}

/// While pods of one network talk, all happens to the other's flanneld on one of the hosts that may happen.
fn one_leaves_the_other_alone(configs: [&str; 2], flags: &'static [&'static str], names: [&str; 2]) -> Scene {
    let mut scene = Scene::new(configs, flags);
    for network in [0, 1] {
        let index = usize::from(network);
        let [a, b] = &scene.pods[1 - index];
        let series = [Series::udp(a, b), Series::udp(b, a)];
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            scene.restart(network, signal);
            let [a, b] = &scene.pods[index];
            within(SOON, "the network's own pods talk again", || answers(a, b));
        }
        // Until it only looks after what is there.
        std::thread::sleep(SOON);
        let right = devices(&scene.lab);
        delete_device(&scene.lab, names[index]);
        let start = Instant::now();
        let [a, b] = &scene.pods[index];
        within(SOON, "the device is there again", || devices(&scene.lab) == right && answers(a, b));
        println!("{}: mended after {:?}", names[index], start.elapsed());
        for outcome in series.map(Series::stop) {
            println!("the network beside {}: {outcome:?}", names[index]);
            assert_eq!(outcome.lost, 0, "{configs:?} {flags:?}");
        }
        assert_eq!(tables(&scene.lab).len(), 2);
        for (one, other) in scene.strangers() {
            within(SOON, "they are kept apart", || !answers(one, other) && !answers(other, one));
        }
    }
    scene
}

#[test]
fn a_restart_of_one_costs_the_other_no_packet() {
    let scene = one_leaves_the_other_alone(UDP, &[], ["flannel0", "flannel1"]);
    assert_eq!(fast(&scene), [[0, 0], [0, 0]]);
}

/// The interface has room for one network's programs: what comes in for the other one goes by way of its flanneld.
#[test]
fn a_restart_of_one_costs_the_other_no_packet_on_the_fast_path() {
    let scene = one_leaves_the_other_alone(UDP, &["--fast-path=on"], ["flannel0", "flannel1"]);
    assert_eq!(fast(&scene), [[1, 1], [1, 0]]);
}

#[test]
fn a_restart_of_one_costs_the_other_no_packet_with_vxlan() {
    one_leaves_the_other_alone(VXLAN, &[], ["flannel.1", "flannel.2"]);
}

#[test]
fn a_restart_of_one_costs_the_other_no_packet_with_wireguard() {
    one_leaves_the_other_alone(WIREGUARD, &[], ["flannel-wg", "flannel-wg1"]);
}

/// Who would have what the first network has is told so and ends; the first one goes on, and what it has is safe while it is dead, too.
#[test]
fn what_another_network_has_is_refused() {
    for (first, second, words) in [
        (
            UDP[0],
            r#"{"Network":"10.6.0.0/16"}"#,
            "Each of its networks needs a port of its own (Port of its Backend)",
        ),
        (
            WIREGUARD[0],
            r#"{"Network":"10.6.0.0/16","Backend":{"Type":"wireguard"}}"#,
            "Each of its networks needs a port of its own (ListenPort of its Backend)",
        ),
        (
            VXLAN[0],
            r#"{"Network":"10.6.0.0/16","Backend":{"Type":"vxlan"}}"#,
            "flannel.1 is the device of another flanneld on this host",
        ),
        (
            HOST_GW[0],
            r#"{"Network":"10.5.128.0/17","Backend":{"Type":"host-gw"}}"#,
            "the network 10.5.128.0/17 overlaps 10.5.0.0/16, which another flanneld on this host carries",
        ),
        (
            UDP[0],
            r#"{"Network":"10.0.0.0/8","Backend":{"Type":"udp","Port":8286}}"#,
            "the network 10.0.0.0/8 overlaps 10.5.0.0/16, which another flanneld on this host carries",
        ),
    ] {
        let lab = Lab::with_hosts(2);
        for (network, config) in [first, second].iter().enumerate() {
            configure(&lab, network, config);
        }
        let mut daemons = [0, 1].map(|host| start(&lab, host, 0, &[]));
        let [a, b] = [0, 1].map(|host: usize| lab.pod(host, &daemons[host]));
        within(Duration::from_secs(5), "the pods talk", || answers(&a, &b));
        let has = (devices(&lab), tables(&lab));
        let refused = || {
            let mut late = Flanneld::spawn_in(&lab, 0, 1, &[]);
            within(Duration::from_secs(10), "it ends", || !late.is_running());
            assert_eq!(late.wait(), Some(1));
            assert!(late.log().contains(words), "{}", late.log());
            assert_eq!((devices(&lab), tables(&lab)), has);
        };
        refused();
        assert!(answers(&a, &b) && daemons[0].is_running());
        // A port is nobody's while its owner is dead.
        if !words.contains("port") {
            daemons[0].end(Signal::SIGKILL);
            refused();
        }
    }
}

/// An earlier version, and Go flannel, wrote no labels: their device and table are taken over, and no second ones are made.
#[test]
fn what_bears_no_label_is_taken_over() {
    for (config, device) in [(UDP[0], "flannel0"), (VXLAN[0], "flannel.1")] {
        let lab = Lab::with_hosts(2);
        configure(&lab, 0, config);
        let [mut daemon, peer] = [0, 1].map(|host| start(&lab, host, 0, &[]));
        let [a, b] = [(0, &daemon), (1, &peer)].map(|(host, daemon)| lab.pod(host, daemon));
        within(Duration::from_secs(5), "the pods talk", || answers(&a, &b));
        let (labelled, index) = ((devices(&lab), tables(&lab)), index(&lab, device));
        daemon.end(Signal::SIGKILL);
        inside(lab.hosts[0].ns.path(), async || {
            Netlink::connect().unwrap().set_alias(index, "").await.unwrap();
            let flannels =
                "delete table ip flannel-ipv4\ntable ip flannel-ipv4 { comment \"rules for flannel\"; }";
            nft::apply(flannels).unwrap();
        });
        assert_eq!(devices(&lab), [(device.to_owned(), None)]);
        let _daemon = start(&lab, 0, 0, &[]);
        within(SOON, "the pods talk", || answers(&a, &b));
        assert_eq!((devices(&lab), tables(&lab)), labelled);
        assert_eq!(self::index(&lab, device), index, "it is the same device");
    }
}

fn index(lab: &Lab, name: &str) -> u32 {
    let link = inside(lab.hosts[0].ns.path(), async || {
        Netlink::connect().unwrap().link_by_name(name).await.unwrap()
    });
    link.unwrap().index
}
