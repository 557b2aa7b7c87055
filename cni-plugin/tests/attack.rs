//! What a pod, or somebody who can write into a state directory, may try: it must not work. Each test also shows that the attempt is a real
//! one, by letting it succeed where nothing stands in its way.

#![allow(clippy::unwrap_used)] // tests

mod common;

use std::net::{Ipv6Addr, SocketAddrV6, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Node, address, namespace, netlink, seen_as, serve};
use hostnet::netns::{Named, run_in};
use hostnet::{Route, nft, sysctl};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, setsockopt, socket,
    sockopt,
};
use serde_json::json;

const PORT: u16 = 34_711;

fn set(namespace: &Path, name: &str, value: &str) {
    run_in(namespace, || sysctl::set(name, value)).unwrap().unwrap();
}

fn get(namespace: &Path, name: &str) -> String {
    run_in(namespace, || sysctl::get(name)).unwrap().unwrap()
}

/// Lets a pod send packets for 127.0.0.0/8 to the node, as one with a raw socket can.
fn aim_at_loopback(pod: &Named) {
    set(pod.path(), "net/ipv4/conf/eth0/route_localnet", "1");
    let route = Route { gateway: "10.5.1.1".parse().ok(), ..Route::to("127.0.0.0/8".parse().unwrap()) };
    netlink(pod.path(), async |netlink| netlink.replace_route(&route).await.unwrap());
}

fn reaches(from: &Named, port: u16) -> bool {
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    run_in(from.path(), || TcpStream::connect_timeout(&address, Duration::from_millis(700))).unwrap().is_ok()
}

/// CVE-2020-8558: what listens on the node's loopback trusts that only the node can reach it.
#[test]
fn the_nodes_loopback_is_out_of_reach() {
    let node = Node::new("10.5.1.1/24");
    let (pod, evil) = (namespace("pod"), namespace("evil"));
    let ports = node.with_ports(&json!([{ "hostPort": 31080, "containerPort": 80 }]));
    node.run("ADD", "pod", Some(pod.path()), &ports).unwrap();
    node.add("evil", &evil).unwrap();
    aim_at_loopback(&evil);
    let secret = run_in(node.ns.path(), || TcpListener::bind(("127.0.0.1", PORT)).unwrap()).unwrap();
    assert!(!reaches(&evil, PORT));

    let setting = "net/ipv4/conf/cni0/route_localnet";
    assert_eq!(get(node.ns.path(), setting), "1", "the host port is there at 127.0.0.1 too");
    node.run("DEL", "pod", Some(pod.path()), &ports).unwrap();
    assert_eq!(get(node.ns.path(), setting), "0", "nobody needs it any more");
    assert!(!reaches(&evil, PORT));
    set(node.ns.path(), setting, "1");
    run_in(node.ns.path(), || nft::apply("delete table inet cni-cbr0")).unwrap().unwrap();
    assert!(reaches(&evil, PORT), "the attempt is a real one");
    drop(secret);
}

/// An advertisement of a router with a lifetime of half an hour, to all nodes of the link; the kernel fills in the checksum.
fn advertise_a_router(from: &Named) {
    const ADVERTISEMENT: [u8; 16] = [134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    let index = netlink(from.path(), async |n| n.link_by_name("eth0").await.unwrap().unwrap().index);
    let send = || {
        let raw = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::IcmpV6)
            .unwrap();
        setsockopt(&raw, sockopt::Ipv6MulticastHops, &255).unwrap();
        let all_nodes = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0, 0, index);
        sendto(raw.as_raw_fd(), &ADVERTISEMENT, &SockaddrIn6::from(all_nodes), MsgFlags::empty())
    };
    // Until duplicate address detection is over, there is no address to send from.
    let started = Instant::now();
    while run_in(from.path(), send).unwrap().is_err() {
        assert!(started.elapsed() < Duration::from_secs(5), "no link-local address");
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_millis(100));
}

fn has_ipv6_default_route(namespace: &Path) -> bool {
    let routes = netlink(namespace, async |netlink| netlink.routes().await.unwrap());
    routes.iter().any(|route| route.dst.is_ipv6() && route.dst.prefix() == 0 && route.gateway.is_some())
}

/// CVE-2020-10749: a pod that says it is an IPv6 router would get the node's and its neighbours' traffic.
#[test]
fn no_pod_becomes_a_router() {
    let node = Node::new("10.5.1.1/24");
    let (pod, evil) = (namespace("pod"), namespace("evil"));
    node.add("pod", &pod).unwrap();
    node.add("evil", &evil).unwrap();
    advertise_a_router(&evil);
    assert!(!has_ipv6_default_route(node.ns.path()), "of the node");
    assert!(!has_ipv6_default_route(pod.path()), "of the neighbour");
    set(node.ns.path(), "net/ipv6/conf/cni0/accept_ra", "1");
    set(pod.path(), "net/ipv6/conf/eth0/accept_ra", "1");
    advertise_a_router(&evil);
    assert!(has_ipv6_default_route(node.ns.path()), "the attempt is a real one");
    assert!(has_ipv6_default_route(pod.path()), "the attempt is a real one");
}

/// CVE-2019-9946: a pod that asks for a Service's port as its host port would get the Service's clients.
#[test]
fn a_host_port_does_not_shadow_a_service() {
    let node = Node::new("10.5.1.1/24");
    let (server, evil, outside) = (namespace("server"), namespace("evil"), node.outside());
    let result = node.add("server", &server).unwrap();
    serve(&server, "0.0.0.0", 80); // Nobody answers in the other pod.
    let ports = node.with_ports(&json!([{ "hostPort": 31080, "containerPort": 80 }]));
    node.run("ADD", "evil", Some(evil.path()), &ports).unwrap();
    assert!(
        seen_as(outside.path(), "192.0.2.1:31080").is_err(),
        "without the Service the host port is reached"
    );
    let service = format!(
        "table ip services {{\nchain prerouting {{\ntype nat hook prerouting priority dstnat\ntcp dport 31080 dnat to {}:80\n}}\n}}\n",
        address(&result)
    );
    run_in(node.ns.path(), || nft::apply(&service)).unwrap().unwrap();
    assert_eq!(seen_as(outside.path(), "192.0.2.1:31080").unwrap(), "192.0.2.2");
}

#[test]
fn planted_links_lead_nowhere() {
    let node = Node::new("10.5.1.1/24");
    let victim = node.dir.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    let planted = ["networks/cbr0/.new", "flannel/.attachments/cbr0/.new", "networks/cbr0/10.5.1.2"];
    for name in planted {
        let path = node.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
    }
    let pod = namespace("pod");
    node.add("pod", &pod).unwrap();
    node.del("pod", Some(pod.path())).unwrap();
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");

    for name in ["networks/cbr0/last_reserved_ip.0", "networks/cbr0/lock"] {
        let path = node.dir.path().join(name);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        let error = node.add("pod", &pod).unwrap_err();
        assert_eq!(error["code"], 5, "{error}");
        assert!(error["msg"].as_str().unwrap().contains(path.to_str().unwrap()), "{error}");
        std::fs::remove_file(&path).unwrap();
        node.add("pod", &pod).unwrap();
        node.del("pod", Some(pod.path())).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
}
