//! ADD, CHECK and DEL with real namespaces: what a pod can reach, and what is left afterwards.

#![allow(clippy::unwrap_used)] // tests

mod common;

use std::time::Instant;

use hostnet::netns::run_in;
use hostnet::sysctl;

use common::{Node, address, linked, namespace, netlink, pings, seen_as, serve};
use serde_json::json;

#[test]
fn two_containers_reach_each_other_and_the_gateway() {
    let node = Node::new("10.5.1.1/24");
    let (one, two) = (namespace("one"), namespace("two"));
    let started = Instant::now();
    let result = node.add("one", &one).unwrap();
    println!("ADD with a new bridge: {:?}", started.elapsed());
    let started = Instant::now();
    let second = node.add("two", &two).unwrap();
    println!("ADD: {:?}", started.elapsed());

    assert_eq!(result["ips"], json!([{ "address": "10.5.1.2/24", "gateway": "10.5.1.1", "interface": 2 }]));
    assert_eq!(result["interfaces"][2]["name"], "eth0");
    assert_eq!(result["interfaces"][2]["mtu"], 1400);
    assert_eq!(result["interfaces"][0]["name"], "cni0");
    assert!(pings(&one, "10.5.1.1"), "the gateway");
    assert!(pings(&one, &address(&second)), "the neighbour");
    assert!(pings(&two, &address(&result)), "and back");
    node.check("one", &one, &result).unwrap();
    node.check("two", &two, &second).unwrap();

    let started = Instant::now();
    node.del("one", Some(one.path())).unwrap();
    println!("DEL: {:?}", started.elapsed());
    assert!(!pings(&two, &address(&result)));
    node.del("two", Some(two.path())).unwrap();
    assert_eq!(node.leftovers(), [""; 0]);
}

#[test]
fn del_is_idempotent_and_needs_nothing() {
    let node = Node::new("10.5.1.1/24");
    let pod = namespace("pod");
    node.add("pod", &pod).unwrap();
    let path = pod.path().to_owned();
    std::fs::remove_file(node.dir.path().join("subnet.env")).unwrap();
    drop(pod);
    for _ in 0..3 {
        node.del("pod", Some(&path)).unwrap();
    }
    node.del("pod", None).unwrap();
    node.del("never-added", None).unwrap();
    assert_eq!(node.leftovers(), [""; 0]);
    assert_eq!(node.rules(), "");
}

#[test]
fn what_leaves_the_network_is_masqueraded() {
    let node = Node::new("10.5.1.1/24");
    let (pod, outside) = (namespace("pod"), node.outside());
    let result = node.add("pod", &pod).unwrap();
    serve(&outside, "0.0.0.0", 4711);
    assert_eq!(seen_as(pod.path(), "192.0.2.2:4711").unwrap(), "192.0.2.1");
    // Inside of the network the pod keeps its address.
    serve(&pod, "0.0.0.0", 4711);
    let other = namespace("other");
    let second = node.add("other", &other).unwrap();
    assert_eq!(seen_as(other.path(), &format!("{}:4711", address(&result))).unwrap(), address(&second));
}

#[test]
fn flanneld_masquerades_if_it_says_so() {
    let node = Node::new("10.5.1.1/24");
    node.subnet_env(
        "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.1.1/24\nFLANNEL_MTU=1400\nFLANNEL_IPMASQ=true\n",
    );
    let pods = [namespace("one"), namespace("two"), namespace("three"), namespace("four")];
    for (index, pod) in pods.iter().enumerate() {
        let started = Instant::now();
        node.add(&format!("pod{index}"), pod).unwrap();
        println!("ADD without rules: {:?}", started.elapsed());
    }
    assert_eq!(node.rules(), "");
}

#[test]
fn a_host_port_leads_to_the_container_from_everywhere() {
    let node = Node::new("10.5.1.1/24");
    let (pod, other, outside) = (namespace("pod"), namespace("other"), node.outside());
    let config = node.with_ports(&json!([
        { "HostPort": 31080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": "" }, // containerd's spelling
        { "hostPort": 31081, "containerPort": 80, "protocol": "TCP", "hostIP": "127.0.0.1" },
        { "hostPort": 0, "containerPort": 9000, "protocol": "UDP" },
    ]));
    node.run("ADD", "pod", Some(pod.path()), &config).unwrap();
    node.add("other", &other).unwrap();
    serve(&pod, "0.0.0.0", 80);
    assert_eq!(seen_as(outside.path(), "192.0.2.1:31080").unwrap(), "192.0.2.2", "from outside");
    assert_eq!(seen_as(node.ns.path(), "127.0.0.1:31080").unwrap(), "10.5.1.1", "from the node's loopback");
    assert_eq!(seen_as(node.ns.path(), "192.0.2.1:31080").unwrap(), "192.0.2.1", "from the node");
    assert_eq!(seen_as(other.path(), "192.0.2.1:31080").unwrap(), "10.5.1.1", "from the neighbour");
    assert_eq!(seen_as(pod.path(), "192.0.2.1:31080").unwrap(), "10.5.1.1", "from itself");
    assert_eq!(seen_as(node.ns.path(), "127.0.0.1:31081").unwrap(), "10.5.1.1", "at one address");
    assert!(seen_as(outside.path(), "192.0.2.1:31081").is_err(), "at one address only");

    let error = node.run("ADD", "late", Some(namespace("late").path()), &config).unwrap_err();
    assert_eq!(error["code"], 103, "{error}");
    assert!(error["msg"].as_str().unwrap().contains("host port 31080/tcp"), "{error}");
    node.run("DEL", "pod", Some(pod.path()), &config).unwrap();
    assert!(!node.rules().contains("31080"));
    assert!(seen_as(outside.path(), "192.0.2.1:31080").is_err());
    assert!(node.rules().contains("other/eth0"), "the neighbour's rules stay");
}

/// A node with subnets of both families, where nobody else masquerades.
fn dual_stack() -> Node {
    let node = Node::new("10.5.1.1/24");
    node.subnet_env(
        "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.1.1/24\nFLANNEL_IPV6_NETWORK=fd00:5::/48\n\
         FLANNEL_IPV6_SUBNET=fd00:5:0:1::1/64\nFLANNEL_MTU=1400\nFLANNEL_IPMASQ=false\n",
    );
    node
}

#[test]
fn ipv6_leaves_masqueraded_and_comes_by_host_ports() {
    let node = dual_stack();
    let (pod, other, outside) = (namespace("pod"), namespace("other"), node.outside());
    let ports = node.with_ports(&json!([{ "hostPort": 31080, "containerPort": 80, "protocol": "tcp" }]));
    node.run("ADD", "pod", Some(pod.path()), &ports).unwrap();
    node.add("other", &other).unwrap();
    serve(&pod, "::", 80);
    serve(&outside, "::", 4711);
    serve(&other, "::", 4711);
    assert_eq!(seen_as(pod.path(), "[2001:db8::2]:4711").unwrap(), "2001:db8::1", "to the world outside");
    assert_eq!(seen_as(pod.path(), "[fd00:5:0:1::3]:4711").unwrap(), "fd00:5:0:1::2", "to the neighbour");
    let port = |from: &std::path::Path| seen_as(from, "[2001:db8::1]:31080").unwrap();
    assert_eq!(port(outside.path()), "2001:db8::2", "from outside");
    assert_eq!(port(node.ns.path()), "2001:db8::1", "from the node");
    assert_eq!(port(other.path()), "fd00:5:0:1::1", "from the neighbour");
    assert_eq!(port(pod.path()), "fd00:5:0:1::1", "from itself");
    node.run("DEL", "pod", Some(pod.path()), &ports).unwrap();
    assert!(seen_as(outside.path(), "[2001:db8::1]:31080").is_err());
    node.del("other", Some(other.path())).unwrap();
    assert_eq!(node.leftovers(), [""; 0]);
}

/// Runtimes switch IPv6 off in a new namespace, and some hosts by default. A link-local address that a hairpin's echo makes a duplicate
/// would be out of use for ever.
#[test]
fn ipv6_is_switched_on_where_it_was_off() {
    let node = dual_stack();
    let (one, two) = (namespace("one"), namespace("two"));
    for ns in [node.ns.path(), one.path(), two.path()] {
        for name in ["all", "default"] {
            run_in(ns, || sysctl::set(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1")).unwrap().unwrap();
        }
    }
    let result = node.add("one", &one).unwrap();
    node.add("two", &two).unwrap();
    assert!(pings(&two, "fd00:5:0:1::2"), "at once");
    node.check("one", &one, &result).unwrap();
    for setting in ["disable_ipv6", "accept_dad", "accept_ra"] {
        let value = run_in(one.path(), || sysctl::get(&format!("net/ipv6/conf/eth0/{setting}")));
        assert_eq!(value.unwrap().unwrap(), "0", "{setting}");
    }
    node.del("one", Some(one.path())).unwrap();
    assert!(!pings(&two, "fd00:5:0:1::2"));
}

#[test]
fn both_families() {
    let node = dual_stack();
    let (one, two) = (namespace("one"), namespace("two"));
    let result = node.add("one", &one).unwrap();
    node.add("two", &two).unwrap();
    assert_eq!(result["ips"][1]["address"], "fd00:5:0:1::2/64");
    assert!(pings(&two, "fd00:5:0:1::1"), "the gateway");
    assert!(pings(&two, "fd00:5:0:1::2"), "the neighbour");
    node.check("one", &one, &result).unwrap();
}

#[test]
fn a_former_leases_gateway_leaves_the_bridge() {
    let node = Node::new("10.5.1.1/24");
    node.add("old", &namespace("old")).unwrap();
    node.subnet_env(
        "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.2.1/24\nFLANNEL_MTU=1400\nFLANNEL_IPMASQ=true\n",
    );
    let new = namespace("new");
    node.add("new", &new).unwrap();
    assert!(pings(&new, "10.5.2.1"));
    let addresses = netlink(node.ns.path(), async |netlink| netlink.addresses(None).await.unwrap());
    assert!(!addresses.iter().any(|address| address.net.to_string() == "10.5.1.1/24"), "{addresses:?}");
}

/// The kernel deletes an IPv4 address's secondaries with it.
#[test]
fn a_former_gateway_of_the_same_subnet_takes_nothing_along() {
    let node = Node::new("10.5.1.1/24");
    netlink(node.ns.path(), async |netlink| {
        netlink.add_bridge("cni0").await.unwrap();
        let index = netlink.link_by_name("cni0").await.unwrap().unwrap().index;
        for text in ["10.5.1.9/24", "10.5.1.1/24"] {
            netlink.add_address(index, text.parse().unwrap()).await.unwrap();
        }
    });
    let pod = namespace("pod");
    node.add("pod", &pod).unwrap();
    assert!(pings(&pod, "10.5.1.1"));
}

#[test]
fn loopback_under_its_own_name() {
    let node = Node::new("10.5.1.1/24");
    let pod = namespace("pod");
    let program = linked(node.dir.path(), "loopback");
    let config = json!({ "cniVersion": "0.3.1", "name": "cni-loopback", "type": "loopback" });
    let run = |verb: &str| node.run_as(&program, verb, ("pod", "lo"), Some(pod.path()), &config);
    let result = run("ADD").unwrap();
    assert_eq!(result["interfaces"][0]["name"], "lo");
    assert_eq!(result["ips"][0], json!({ "version": "4", "address": "127.0.0.1/8", "interface": 0 }));
    assert!(pings(&pod, "127.0.0.1"));
    run("DEL").unwrap();
    run("DEL").unwrap();
    assert!(!pings(&pod, "127.0.0.1"));
}
