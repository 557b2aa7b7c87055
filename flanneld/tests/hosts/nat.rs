//! Whose address packets bear: as with flannel's iptables rules, whatever carries them.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use hostnet::netns::run_in;
use nix::sys::socket::{setsockopt, sockopt};

use super::flannel::Flanneld;
use super::lab::{Lab, Pod};
use super::wire::{Capture, udp};

const VXLAN: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;
const PATIENCE: Duration = Duration::from_secs(5);

/// What a server sees as the sender of a question, whose answer must come back.
fn seen_by(server: &UdpSocket, client: &UdpSocket) -> IpAddr {
    for socket in [server, client] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let mut buffer = [0; 16];
    client.send_to(b"question", server.local_addr().unwrap()).unwrap();
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    server.send_to(&buffer[..length], from).unwrap();
    assert_eq!(client.recv(&mut buffer).unwrap(), length, "the answer");
    from.ip()
}

fn server(pod: &Pod) -> UdpSocket {
    udp(pod.ns.path(), (pod.ip, 0))
}

/// `outer` is how many bytes the backend puts before a packet. Go flannel's nftables rules would fail here: a packet from a host to another host's pod keeps the host's address, and a mark of more than
/// one bit is not seen.
fn addresses_are_as_by_iptables(config: &str, outer: usize) {
    let lab = Lab::with_hosts(3);
    lab.put("/coreos.com/network/config", config);
    let daemons = [0, 1].map(|host| Flanneld::start(&lab, host, &[]));
    let pods = [0, 1].map(|host| lab.pod(host, &daemons[host]));
    for daemon in &daemons {
        daemon.wait_for("flannel_leases", 2);
    }
    let (host, stranger) = (&lab.hosts[0], &lab.hosts[2]);
    let tunnel = daemons[0].subnet().0.network();
    let from_host = || udp(host.ns.path(), SocketAddr::new(host.ip.into(), 0));
    let outside = udp(stranger.ns.path(), (stranger.ip, 0));

    assert_eq!(seen_by(&server(&pods[1]), &server(&pods[0])), pods[0].ip, "pod to pod of another host");
    assert_eq!(seen_by(&outside, &server(&pods[0])), host.ip, "pod to the world outside");
    assert_eq!(seen_by(&server(&pods[1]), &from_host()), tunnel, "host to pod of another host");
    assert_eq!(seen_by(&server(&pods[0]), &from_host()), host.ip, "host to its own pod");

    // Who marks a packet so masquerades it himself. With this source no other host would take it, so it is looked at where it leaves.
    let to = pods[1].ip;
    let leaving =
        Capture::wire(&lab, 0, move |ip| ip.len() > outer + 20 && ip[outer + 16..outer + 20] == to.octets());
    let marked = from_host();
    setsockopt(&marked, sockopt::Mark, &0x14000).unwrap();
    marked.send_to(b"question", (to, 9)).unwrap();
    let left = leaving.stop().kept;
    let sources: Vec<_> = left.iter().map(|ip| &ip[outer + 12..outer + 16]).collect();
    assert_eq!(sources, [host.ip.octets()], "marked");
}

#[test]
fn addresses_are_as_by_iptables_over_udp() {
    addresses_are_as_by_iptables(super::lab::NETWORK, 20 + 8);
}

#[test]
fn addresses_are_as_by_iptables_over_vxlan() {
    // VXLAN's own header, and an Ethernet header.
    addresses_are_as_by_iptables(VXLAN, 20 + 8 + 8 + 14);
}

#[test]
fn source_ports_are_by_chance_unless_that_is_switched_off() {
    let lab = Lab::with_hosts(1);
    for (flags, chance) in [(&[][..], true), (&["--ip-masq-fully-random-disable"], false)] {
        let mut daemon = Flanneld::start(&lab, 0, flags);
        let mut list = std::process::Command::new("nft");
        list.args(["list", "chain", "ip", "flannel-ipv4", "postrtg"]);
        let rules = run_in(lab.hosts[0].ns.path(), || list.output().unwrap()).unwrap();
        let rules = String::from_utf8(rules.stdout).unwrap();
        assert_eq!(rules.matches("masquerade").count(), 2, "{rules}");
        assert_eq!(rules.matches("fully-random").count(), if chance { 2 } else { 0 }, "{rules}");
        daemon.end(nix::sys::signal::Signal::SIGTERM);
    }
}
