//! What happens when something fails, is damaged, is full, is left behind, or happens at the same time.

#![allow(clippy::unwrap_used)] // tests

mod common;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::{Node, address, namespace, netlink, pings};
use hostnet::Route;
use serde_json::{Value, json};

fn text(error: &Value) -> &str {
    error["msg"].as_str().unwrap()
}

type Damage = fn(&Node, &common::Pod);

#[test]
fn check_sees_every_kind_of_damage() {
    let node = Node::new("10.5.1.1/24");
    let damages: [(&str, Damage); 7] = [
        ("does not have this address", |_, pod| pod.delete_address()),
        ("the route to 0.0.0.0/0", |_, pod| pod.delete_default_route()),
        ("eth0: it is down", |_, pod| pod.set_down()),
        ("the container has no such interface", |_, pod| pod.delete_interface()),
        ("is not plugged into cni0", |node, pod| node.unplug(pod)),
        ("its reservation is gone", |node, pod| node.remove_reservation(pod)),
        ("table inet cni-cbr0", |node, _| node.drop_rules()),
    ];
    for (index, (message, damage)) in damages.into_iter().enumerate() {
        let name = format!("pod{index}");
        let pod = node.pod(&name);
        node.check(&name, &pod.ns, &pod.result).unwrap();
        damage(&node, &pod);
        let error = node.check(&name, &pod.ns, &pod.result).unwrap_err();
        assert_eq!(error["code"], 102, "{error}");
        assert!(text(&error).contains(message), "{message}: {error}");
        node.del(&name, Some(pod.ns.path())).unwrap();
    }
    assert_eq!(node.leftovers(), [""; 0]);
}

#[test]
fn check_of_a_stranger() {
    let node = Node::new("10.5.1.1/24");
    let pod = node.pod("pod");
    assert_eq!(node.check("stranger", &pod.ns, &pod.result).unwrap_err()["code"], 3);
    assert_eq!(node.check("pod", &pod.ns, &Value::Null).unwrap_err()["code"], 7);
}

#[test]
fn a_failed_add_leaves_nothing() {
    let node = Node::new("10.5.1.1/24");
    let pod = namespace("pod");
    // The last step inside of the container fails: its name is taken there.
    netlink(pod.path(), async |netlink| netlink.add_bridge("eth0").await.unwrap());
    let error = node.run(
        "ADD",
        "pod",
        Some(pod.path()),
        &node.with_ports(&json!([{ "hostPort": 31080, "containerPort": 80 }])),
    );
    let error = error.unwrap_err();
    assert_eq!(error["code"], 103, "{error}");
    assert!(text(&error).contains("the interface eth0 is in the way"), "{error}");
    assert_eq!(node.leftovers(), [""; 0]);
    assert_eq!(node.rules(), "");
    let links = netlink(pod.path(), async |netlink| netlink.links().await.unwrap());
    assert_eq!(links.into_iter().map(|link| link.name).collect::<Vec<_>>(), ["lo", "eth0"]);
}

#[test]
fn no_namespace_no_traces() {
    let node = Node::new("10.5.1.1/24");
    let file = node.dir.path().join("not-a-namespace");
    std::fs::write(&file, "").unwrap();
    for path in [file.as_path(), "/run/netns/cni-that-never-was".as_ref()] {
        let error = node.run("ADD", "pod", Some(path), &node.config).unwrap_err();
        assert_eq!(error["code"], 104, "{error}");
        assert_eq!(node.leftovers(), [""; 0]);
        node.del("pod", Some(path)).unwrap();
    }
    let error = node.run("ADD", "pod", Some(node.ns.path()), &node.config).unwrap_err();
    assert_eq!(error["code"], 4, "{error}");
}

#[test]
fn a_bridge_that_is_none() {
    let mut node = Node::new("10.5.1.1/24");
    node.config["delegate"]["bridge"] = "lo".into();
    let error = node.add("pod", &namespace("pod")).unwrap_err();
    assert!(text(&error).contains("it is no bridge"), "{error}");
    assert_eq!(node.leftovers(), [""; 0]);
}

#[test]
fn a_second_add_is_refused_and_the_first_lives_on() {
    let node = Node::new("10.5.1.1/24");
    let pod = node.pod("pod");
    assert_eq!(node.add("pod", &pod.ns).unwrap_err()["code"], 103);
    assert!(pings(&pod.ns, "10.5.1.1"));
    node.check("pod", &pod.ns, &pod.result).unwrap();
}

#[test]
fn a_full_subnet_says_so() {
    let node = Node::new("10.5.1.1/29");
    let pods: Vec<_> = (0..5).map(|index| node.pod(&format!("pod{index}"))).collect();
    let late = namespace("late");
    let error = node.add("late", &late).unwrap_err();
    assert_eq!(error["code"], 101, "{error}");
    assert!(text(&error).contains("no address left in 10.5.1.0/29 of network cbr0 (5 reserved"), "{error}");
    node.del("pod3", Some(pods[3].ns.path())).unwrap();
    assert_eq!(address(&node.add("late", &late).unwrap()), address(&pods[3].result));
}

#[test]
fn gc_removes_what_is_not_valid() {
    let node = Node::new("10.5.1.1/24");
    let (kept, stale) = (node.pod("kept"), node.pod("stale"));
    let mut config = node.config.clone();
    config["cni.dev/valid-attachments"] = json!([{ "containerID": "kept", "ifname": "eth0" }]);
    node.run("GC", "", None, &config).unwrap();
    node.check("kept", &kept.ns, &kept.result).unwrap();
    assert!(pings(&kept.ns, "10.5.1.1"));
    assert!(!pings(&stale.ns, "10.5.1.1"));
    let left = node.leftovers();
    assert_eq!(left.len(), 3, "interface, reservation and record of the kept one: {left:?}");
    assert!(!node.rules().contains("stale"));
}

#[test]
fn a_killed_add_is_cleaned_up_by_del() {
    let node = Node::new("10.5.1.1/24");
    let pod = namespace("pod");
    let config = node.with_ports(&json!([{ "hostPort": 31080, "containerPort": 80 }]));
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_flannel"));
    for milliseconds in 0..30 {
        let mut child = node.start(program, "ADD", ("pod", "eth0"), Some(pod.path()), &config);
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        node.run("DEL", "pod", Some(pod.path()), &config).unwrap();
        assert_eq!(node.leftovers(), [""; 0], "killed after {milliseconds} ms");
        assert_eq!(node.rules(), "", "killed after {milliseconds} ms");
    }
    node.run("ADD", "pod", Some(pod.path()), &config).unwrap();
}

#[test]
fn what_a_reboot_ended_holds_nothing() {
    let node = Node::new("10.5.1.1/29");
    let config = node.with_ports(&json!([{ "hostPort": 31080, "containerPort": 80 }]));
    for index in 0..5 {
        let config = if index == 0 { &config } else { &node.config };
        node.run("ADD", &format!("pod{index}"), Some(namespace("pod").path()), config).unwrap();
    }
    for index in [0, 1] {
        let path = node.dir.path().join(format!("flannel/.attachments/cbr0/pod{index}:eth0"));
        let mut record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        record["boot"] = "another".into();
        std::fs::write(&path, record.to_string()).unwrap();
    }
    // Neither the host port nor the addresses of the two are taken any more; those of the other three are.
    node.run("ADD", "new0", Some(namespace("new").path()), &config).unwrap();
    node.add("new1", &namespace("new")).unwrap();
    assert!(!node.rules().contains("pod0/eth0"));
    assert_eq!(node.add("new2", &namespace("new")).unwrap_err()["code"], 101);
}

#[test]
fn status_and_version() {
    let node = Node::new("10.5.1.1/24");
    node.run("STATUS", "", None, &node.config).unwrap();
    std::fs::remove_file(node.dir.path().join("subnet.env")).unwrap();
    assert_eq!(node.run("STATUS", "", None, &node.config).unwrap_err()["code"], 50);
    let error = node.add("pod", &namespace("pod")).unwrap_err();
    assert_eq!(error["code"], 11);
    assert!(
        text(&error).ends_with("no such file or directory. Check the flannel pod log for this node."),
        "{error}"
    );
    let versions = node.run("VERSION", "", None, &json!({ "cniVersion": "1.0.0" })).unwrap();
    assert_eq!(
        versions,
        json!({ "cniVersion": "1.0.0", "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] })
    );
}

#[test]
fn twenty_adds_at_once() {
    const PODS: usize = 20;
    let node = Node::new("10.5.1.1/24");
    let pods: Vec<_> = (0..PODS).map(|_| namespace("pod")).collect();
    let started = Instant::now();
    let results: Vec<Value> = std::thread::scope(|scope| {
        let add = |(index, pod)| {
            let node = &node;
            scope.spawn(move || node.add(&format!("pod{index}"), pod).unwrap())
        };
        let threads: Vec<_> = pods.iter().enumerate().map(add).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    println!("{PODS} ADDs at once: {:?}", started.elapsed());
    assert_eq!(results.iter().map(address).collect::<BTreeSet<_>>().len(), PODS);
    for pod in [&pods[0], &pods[PODS - 1]] {
        assert!(pings(pod, "10.5.1.1"));
    }
    for index in 0..PODS {
        assert!(node.rules().contains(&format!("pod{index}/eth0")));
    }
    std::thread::scope(|scope| {
        for (index, pod) in pods.iter().enumerate() {
            let node = &node;
            scope.spawn(move || node.del(&format!("pod{index}"), Some(pod.path())).unwrap());
        }
    });
    assert_eq!(node.leftovers(), [""; 0]);
    assert_eq!(node.rules(), "");
}

/// Another plugin gets what flannel would give it, and its answer comes back unchanged.
#[test]
fn another_plugin_is_delegated_to() {
    use std::os::unix::fs::PermissionsExt;
    let mut node = Node::new("10.5.1.1/24");
    node.config["delegate"] = json!({ "type": "recorder", "zeta": 1, "isDefaultGateway": true });
    let bin = node.dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let seen = node.dir.path().join("seen");
    let script = format!(
        "#!/bin/sh\necho $CNI_COMMAND >> {0}\ncat >> {0}\necho >> {0}\necho '{{\"ips\":  []}}'\n",
        seen.display()
    );
    std::fs::write(bin.join("recorder"), script).unwrap();
    std::fs::set_permissions(bin.join("recorder"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let pod = namespace("pod");
    assert_eq!(node.add("pod", &pod).unwrap(), json!({ "ips": [] }));
    let networks = node.dir.path().join("networks");
    let expected = format!(
        "ADD\n{{\"cniVersion\":\"1.1.0\",\"ipMasq\":true,\"ipam\":{{\"dataDir\":\"{}\",\"ranges\":[[{{\"subnet\":\"10.5.1.0/24\"}}]],\
         \"routes\":[{{\"dst\":\"10.5.0.0/16\"}}],\"type\":\"host-local\"}},\"isDefaultGateway\":true,\"mtu\":1400,\"name\":\"cbr0\",\
         \"type\":\"recorder\",\"zeta\":1}}\n",
        networks.display()
    );
    assert_eq!(std::fs::read_to_string(&seen).unwrap(), expected);
    node.subnet_env("");
    for _ in 0..2 {
        node.del("pod", Some(pod.path())).unwrap();
    }
    let again = expected.replace("ADD", "DEL");
    assert_eq!(
        std::fs::read_to_string(&seen).unwrap(),
        format!("{expected}{again}"),
        "once, with what ADD kept"
    );
    node.config["delegate"]["type"] = "missing".into();
    node.subnet_env("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.1.1/24\n");
    let error = node.add("pod", &pod).unwrap_err();
    assert!(text(&error).contains("failed to find plugin \"missing\" in path"), "{error}");
}

impl Node {
    fn pod(&self, name: &str) -> common::Pod {
        let ns = namespace(name);
        let result = self.add(name, &ns).unwrap();
        common::Pod { ns, result }
    }

    fn unplug(&self, pod: &common::Pod) {
        let host = pod.result["interfaces"][1]["name"].as_str().unwrap();
        netlink(self.ns.path(), async |netlink| {
            let link = netlink.link_by_name(host).await.unwrap().unwrap();
            netlink.set_master(link.index, 0).await.unwrap();
        });
    }

    fn remove_reservation(&self, pod: &common::Pod) {
        std::fs::remove_file(self.dir.path().join("networks/cbr0").join(address(&pod.result))).unwrap();
    }

    fn drop_rules(&self) {
        hostnet::netns::run_in(self.ns.path(), || hostnet::nft::apply("delete table inet cni-cbr0"))
            .unwrap()
            .unwrap();
    }
}

impl common::Pod {
    fn with_link(&self, work: impl AsyncFnOnce(&hostnet::Netlink, u32) + Send) {
        netlink(self.ns.path(), async |netlink| {
            let link = netlink.link_by_name("eth0").await.unwrap().unwrap();
            work(&netlink, link.index).await;
        });
    }

    fn delete_address(&self) {
        let net = self.result["ips"][0]["address"].as_str().unwrap().parse().unwrap();
        self.with_link(async |netlink, index| netlink.delete_address(index, net).await.unwrap());
    }

    fn delete_default_route(&self) {
        let route = Route::to("0.0.0.0/0".parse().unwrap());
        self.with_link(async |netlink, _| netlink.delete_route(&route).await.unwrap());
    }

    fn set_down(&self) {
        self.with_link(async |netlink, index| netlink.set_up(index, false).await.unwrap());
    }

    fn delete_interface(&self) {
        self.with_link(async |netlink, index| netlink.delete_link(index).await.unwrap());
    }
}
