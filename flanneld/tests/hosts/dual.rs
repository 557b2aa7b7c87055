//! Dual stack: each node has a subnet of each family, and pods of two hosts talk over both.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use hostnet::netns::run_in;
use hostnet::{Kind, Netlink, nft, sysctl};
use ipnetwork::IpNetwork;
use nix::sys::signal::Signal;

use super::flannel::Flanneld;
use super::lab::{Host, Lab, Pod, inside, within};
use super::traffic::{answers, dial};
use super::wire::{Capture, udp};

const CONFIG: &str = "/coreos.com/network/config";
const SOON: Duration = Duration::from_secs(2);
/// A bridge has IPv6 only once the kernel has noticed that its first port has a carrier, which it looks for once a second.
const AT_FIRST: Duration = Duration::from_secs(5);
/// Of the outer packet: IPv6, UDP.
const OUTER: usize = 48;

pub fn network(backend: &str) -> String {
    format!(
        r#"{{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{{"Type":"{backend}"}}}}"#
    )
}

/// Two hosts that carry each other's packets of both families, with a pod each.
fn pair(backend: &str) -> (Lab, [Flanneld; 2], [Pod; 2]) {
    let lab = Lab::with_ipv6(3);
    lab.put(CONFIG, network(backend));
    let daemons = [0, 1].map(|n| Flanneld::start(&lab, n, &[]));
    let pods = [0, 1].map(|n| lab.pod(n, &daemons[n]));
    let [a, b] = &pods;
    let took = within(AT_FIRST, "the pods talk", || answers(a, b) && answers6(a, b));
    println!("{backend}: the pods talk after {took:?}");
    (lab, daemons, pods)
}

/// Whether a pod's answer to one datagram comes over IPv6, within a moment.
pub fn answers6(from: &Pod, to: &Pod) -> bool {
    let (server, client) = (server(to), server(from));
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    }
    let mut bytes = [0; 8];
    let asked = client.send_to(b"question", server.local_addr().unwrap()).is_ok();
    let Ok((length, asker)) = server.recv_from(&mut bytes) else { return false };
    asked && server.send_to(&bytes[..length], asker).is_ok() && client.recv(&mut bytes).is_ok()
}

fn server(pod: &Pod) -> UdpSocket {
    udp(pod.ns.path(), (pod.ip6.unwrap(), 0))
}

/// Whether a packet on the hosts' network is a pod's, in clear.
pub fn in_clear(ip: &[u8]) -> bool {
    ip[8..14] == [0xfc, 0, 0, 0, 0, 0] || ip[24..30] == [0xfc, 0, 0, 0, 0, 0]
}

/// Sends back megabytes over TCP.
pub fn carries_megabytes(from: &Pod, to: &Pod, address: impl Into<IpAddr>) {
    let address = SocketAddr::new(address.into(), 80);
    let listener = run_in(to.ns.path(), || TcpListener::bind(address)).unwrap().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut back = stream.try_clone().unwrap();
        let _ = std::io::copy(&mut stream, &mut back);
    });
    let mut stream = dial(from.ns.path(), address.ip(), 80).unwrap();
    let sent: Vec<u8> = (0..2_000_000_u32).map(|i| (i % 251) as u8).collect();
    let (mut out, all) = (stream.try_clone().unwrap(), sent.clone());
    let writer = std::thread::spawn(move || out.write_all(&all).unwrap());
    let mut back = vec![0; sent.len()];
    stream.read_exact(&mut back).unwrap();
    writer.join().unwrap();
    assert!(back == sent, "what came back is not what was sent");
}

/// What a server sees as the sender of a question, whose answer must come back.
fn seen_by(server: &UdpSocket, client: &UdpSocket) -> IpAddr {
    for socket in [server, client] {
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }
    let mut bytes = [0; 16];
    client.send_to(b"question", server.local_addr().unwrap()).unwrap();
    let (length, from) = server.recv_from(&mut bytes).unwrap();
    server.send_to(&bytes[..length], from).unwrap();
    assert_eq!(client.recv(&mut bytes).unwrap(), length, "the answer");
    from.ip()
}

/// The lease of a host as it stands in etcd: key and value.
pub fn lease(lab: &Lab, host: &Host) -> (String, String) {
    let listed = lab.leases();
    let own = format!(r#""PublicIP":"{}""#, host.ip);
    listed.into_iter().find(|(_, value)| value.contains(&own)).expect("no lease")
}

fn both_families_cross(backend: &str) -> (Lab, [Flanneld; 2], [Pod; 2]) {
    let (lab, daemons, pods) = pair(backend);
    let [a, b] = &pods;
    let clear = (backend == "vxlan").then(|| Capture::start6(lab.hosts[0].ns.path(), "eth0", in_clear));
    carries_megabytes(a, b, b.ip);
    carries_megabytes(a, b, b.ip6.unwrap());
    if let Some(clear) = clear {
        let clear = clear.stop();
        assert!(clear.frames > 0 && clear.kept.is_empty(), "in clear: {:02x?}", clear.kept.first());
    }
    let (host, stranger) = (&lab.hosts[0], &lab.hosts[2]);
    let outside = udp(stranger.ns.path(), (stranger.ip6(), 0));
    assert_eq!(seen_by(&server(b), &server(a)), a.ip6.unwrap(), "pod to pod of another host");
    assert_eq!(seen_by(&outside, &server(a)), host.ip6(), "pod to the world outside");
    (lab, daemons, pods)
}

#[test]
fn vxlan_carries_both_families_each_by_its_device() {
    let (lab, daemons, [a, b]) = both_families_cross("vxlan");
    let (host, peer) = (&lab.hosts[0], &lab.hosts[1]);
    let (key, value) = lease(&lab, host);
    let (v4, v6) = (daemons[0].subnet().0, daemons[0].subnet6().unwrap());
    assert_eq!(key, format!("{}-24&{}-64", v4.network(), v6.network()));
    let begin = format!(
        r#"{{"PublicIP":"{}","PublicIPv6":"{}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":""#,
        host.ip,
        host.ip6()
    );
    assert!(value.starts_with(&begin), "{value}");
    assert!(value.contains(r#","BackendV6Data":{"VNI":1,"VtepMAC":""#), "{value}");

    // Of full packets none is a fragment: the outer header of IPv6 is reckoned with. Go flannel's would be two each.
    assert_eq!(daemons[0].subnet().1, 1430);
    let outer = Capture::start6(host.ns.path(), "eth0", |ip| ip[6] == 17 || ip[6] == 44);
    let (server, client) = (server(&b), server(&a));
    server.set_read_timeout(Some(SOON)).unwrap();
    let (whole, mut back) = (vec![7; 1430 - OUTER], vec![0; 2000]);
    for _ in 0..20 {
        client.send_to(&whole, server.local_addr().unwrap()).unwrap();
        assert_eq!(server.recv(&mut back).unwrap(), whole.len());
    }
    let outer = outer.stop().kept;
    let full = outer.iter().filter(|ip| ip.len() == 1500 && ip[6] == 17);
    assert_eq!(full.clone().count(), 20);
    let between = [host.ip6().octets(), peer.ip6().octets()].concat();
    assert!(full.into_iter().all(|ip| ip[8..40] == between && ip[42..44] == 8472_u16.to_be_bytes()));
    assert!(outer.iter().all(|ip| ip[6] != 44), "a fragment");
}

#[test]
fn host_gw_carries_both_families() {
    let (lab, daemons, [a, b]) = both_families_cross("host-gw");
    assert_eq!(daemons[0].subnet().1, 1500);
    let plain = Capture::start6(lab.hosts[0].ns.path(), "eth0", in_clear);
    assert!(answers6(&a, &b));
    assert!(plain.stop().kept.len() >= 2, "they travel as they are");
    assert!(lease(&lab, &lab.hosts[0]).1.contains(r#","BackendType":"host-gw","Holder":"#));
}

/// One way to break what IPv6 needs.
async fn take_away(what: &str, netlink: &Netlink) {
    let device = netlink.link_by_name("flannel-v6.1").await.unwrap().unwrap().index;
    match what {
        "device" => netlink.delete_link(device).await.unwrap(),
        "link up" => netlink.set_up(device, false).await.unwrap(),
        "routes" => {
            let routes = netlink.routes().await.unwrap();
            let network: IpNetwork = "fc00::/48".parse().unwrap();
            let ours = |r: &&hostnet::Route| r.oif == Some(device) && !r.by_kernel && r.gateway.is_some();
            for route in
                routes.iter().filter(|r| ours(r) || (r.dst == network && r.kind == Kind::Unreachable))
            {
                netlink.delete_route(route).await.unwrap();
            }
        }
        "address" => {
            for address in netlink.addresses(Some(device)).await.unwrap() {
                netlink.delete_address(device, address.net).await.unwrap();
            }
        }
        "entries" => {
            for table in [hostnet::neighbour::Table::Forwarding, hostnet::neighbour::Table::Neighbours] {
                for entry in netlink.neighbours(device, table).await.unwrap() {
                    netlink.delete_neighbour(&entry).await.unwrap();
                }
            }
        }
        "rules" => nft::apply("delete table ip6 flannel-ipv6").unwrap(),
        _ => unreachable!("{what}"),
    }
}

/// Whether device, routes and rules are as they should be.
async fn is_right(netlink: &Netlink, mac: &[u8]) -> bool {
    let Some(link) = netlink.link_by_name("flannel-v6.1").await.unwrap() else { return false };
    let routes = netlink.routes().await.unwrap();
    let refusal = |r: &hostnet::Route| r.dst.to_string() == "fc00::/48" && r.kind == Kind::Unreachable;
    let to_peer = |r: &hostnet::Route| r.oif == Some(link.index) && r.onlink && r.dst.prefix() == 64;
    let addresses = netlink.addresses(Some(link.index)).await.unwrap();
    let global = |a: &&hostnet::Address| a.net.is_ipv6() && a.net.prefix() == 128;
    link.up
        && (link.mtu, link.mac.as_slice()) == (1430, mac)
        && addresses.iter().filter(global).count() == 1
        && routes.iter().any(refusal)
        && routes.iter().any(to_peer)
        && nft::has_table(nft::Family::Ip6, "flannel-ipv6").unwrap()
}

#[test]
fn what_ipv6_needs_is_back_soon_when_it_is_taken_away() {
    let (lab, _daemons, [a, b]) = pair("vxlan");
    let host = &lab.hosts[0];
    let mac = inside(host.ns.path(), async || {
        Netlink::connect().unwrap().link_by_name("flannel-v6.1").await.unwrap().unwrap().mac
    });
    let right = || inside(host.ns.path(), async || is_right(&Netlink::connect().unwrap(), &mac).await);
    assert!(right());
    let clear = Capture::start6(host.ns.path(), "eth0", in_clear);
    for what in ["device", "link up", "routes", "address", "entries", "rules"] {
        inside(host.ns.path(), async || take_away(what, &Netlink::connect().unwrap()).await);
        let start = Instant::now();
        within(SOON, what, || right() && answers6(&a, &b));
        println!("{what} taken away: pods talk again after {:?}", start.elapsed());
    }
    assert_eq!(clear.stop().kept.len(), 0, "in clear");
}

#[test]
fn without_a_lease_packets_of_ipv6_are_refused_and_never_leave_in_clear() {
    let (lab, mut daemons, [a, b]) = pair("vxlan");
    let nobody: Ipv6Addr = "fc00:0:0:fffe::9".parse().unwrap();
    let host = &lab.hosts[0];
    let clear = Capture::start6(host.ns.path(), "eth0", in_clear);
    let refused = |what: &str| {
        let start = Instant::now();
        let error = dial(a.ns.path(), nobody, 80).expect_err(what);
        let kinds = [ErrorKind::NetworkUnreachable, ErrorKind::HostUnreachable];
        assert!(kinds.contains(&error.kind()), "{what}, after {:?}: {error}", start.elapsed());
    };
    refused("nobody has it");
    // The daemon is dead, and somebody takes the device away: no route is left but the one that refuses.
    daemons[0].end(Signal::SIGKILL);
    assert!(answers6(&a, &b), "the kernel goes on without the daemon");
    inside(host.ns.path(), async || take_away("device", &Netlink::connect().unwrap()).await);
    refused("the daemon is dead");
    let client = server(&a);
    for _ in 0..20 {
        let _ = client.send_to(b"secret of a pod", (b.ip6.unwrap(), 9));
    }
    daemons[0] = Flanneld::start(&lab, 0, &[]);
    within(SOON, "the pods talk again", || answers6(&a, &b));
    assert_eq!(clear.stop().kept.len(), 0, "in clear");
}

/// The store cannot refuse the second of two keys that have only their IPv6 subnet in common.
#[test]
fn nodes_that_start_at_once_get_an_ipv6_subnet_each() {
    for _ in 0..3 {
        let lab = Lab::with_ipv6(3);
        // Room for three of IPv6, and for many of IPv4.
        lab.put(CONFIG, network("vxlan").replace("fc00::/48", "fc00::/62"));
        let mut daemons = [0, 1, 2].map(|host| Flanneld::spawn(&lab, host, &[]));
        for daemon in &daemons {
            daemon.wait_ready();
        }
        let mut subnets: Vec<_> = daemons.iter().map(|daemon| daemon.subnet6().unwrap()).collect();
        subnets.sort();
        subnets.dedup();
        assert_eq!(subnets.len(), 3, "{subnets:?}");
        assert!(daemons.iter_mut().all(Flanneld::is_running));
        daemons[0].wait_for("flannel_leases", 3);
        assert_eq!(daemons[0].metric("flannel_bad_records"), 0);
    }
}

/// A host that forwards does not listen to routers, unless it is told to: it would lose its own default route.
#[test]
fn the_hosts_own_router_is_still_heard_and_the_tunnels_is_not() {
    let (lab, _daemons, _pods) = pair("vxlan");
    let get = |name: &str| run_in(lab.hosts[0].ns.path(), || sysctl::get(name)).unwrap().unwrap();
    assert_eq!(get("net/ipv6/conf/all/forwarding"), "1");
    assert_eq!(get("net/ipv6/conf/eth0/accept_ra"), "2");
    assert_eq!(get("net/ipv6/conf/flannel-v6.1/accept_ra"), "0");
}

/// A network that gets a second family keeps what it has of the first, and pods of a node that has not heard of it are reached as before.
#[test]
fn a_network_gets_its_second_family_node_by_node() {
    let lab = Lab::with_ipv6(2);
    lab.put(CONFIG, r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#);
    let mut daemons = [0, 1].map(|n| Flanneld::start(&lab, n, &[]));
    let v4 = [0, 1].map(|n: usize| daemons[n].subnet().0);
    let pods = [0, 1].map(|n| lab.pod(n, &daemons[n]));
    within(SOON, "the pods talk", || answers(&pods[0], &pods[1]));
    lab.put(CONFIG, network("vxlan"));
    for n in [0, 1] {
        daemons[n].end(Signal::SIGTERM);
        daemons[n] = Flanneld::start(&lab, n, &[]);
        within(SOON, "the pods talk", || answers(&pods[0], &pods[1]));
        assert_eq!(daemons[n].subnet().0, v4[n]);
    }
    assert!(daemons[0].subnet6() != daemons[1].subnet6() && daemons[0].subnet6().is_some());
    assert_eq!(lab.leases().len(), 2, "no record is left over: {:?}", lab.leases());
    // Back again.
    lab.put(CONFIG, r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#);
    daemons[0].end(Signal::SIGTERM);
    daemons[0] = Flanneld::start(&lab, 0, &[]);
    assert_eq!((daemons[0].subnet().0, daemons[0].subnet6()), (v4[0], None));
    let left = || {
        run_in(lab.hosts[0].ns.path(), || nft::has_table(nft::Family::Ip6, "flannel-ipv6")).unwrap().unwrap()
    };
    assert!(!left(), "the rules of a family that is gone are gone");
    within(SOON, "the pods talk", || answers(&pods[0], &pods[1]));
}

#[test]
fn what_cannot_be_is_said() {
    for (config, words) in [
        (network("udp"), "EnableIPv6: this Backend carries IPv4 only"),
        (network("vxlan").replace("fc00::/48", "fc00::/125"), "IPv6Network: it is smaller than a /124"),
        (
            network("vxlan").replace(r#""EnableIPv6""#, r#""EnableIPv4":false,"EnableIPv6""#),
            "leases in etcd need IPv4",
        ),
    ] {
        let lab = Lab::with_ipv6(1);
        lab.put(CONFIG, config.as_str());
        let mut daemon = Flanneld::spawn(&lab, 0, &[]);
        assert_eq!(daemon.wait(), Some(1), "{config}");
        assert!(daemon.log().contains(words), "{words}: {}", daemon.log());
    }
    let lab = Lab::with_hosts(1);
    lab.put(CONFIG, network("vxlan"));
    let mut daemon = Flanneld::spawn(&lab, 0, &["--iface=eth0"]);
    assert_eq!(daemon.wait(), Some(1));
    assert!(daemon.log().contains("as the flags say, with an IPv4 and an IPv6 address"), "{}", daemon.log());
}
