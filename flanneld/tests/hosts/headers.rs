//! What of an inner packet's header shows outside, and what comes home of the outer one: TTL, DSCP and ECN.

use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use hostnet::netns::run_in;
use hostnet::{nft, sysctl};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::fast::{BOTH, IN, ON, OUT};
use super::lab::{Lab, Pod, within};
use super::traffic::answers;
use super::wire::{Capture, is_tunnel, udp};

/// Expedited forwarding, and ECT(0).
const EF: u8 = 0xb8;
const EF_ECT: u8 = EF | 2;
const EF_CE: u8 = EF | 3;
const PATIENCE: Duration = Duration::from_secs(5);

/// A UDP socket of a pod with a class of service.
fn classed(pod: &Pod, tos: u8) -> UdpSocket {
    let socket = udp(pod.ns.path(), (pod.ip, 0));
    setsockopt(&socket, sockopt::Ipv4Tos, &i32::from(tos)).unwrap();
    socket
}

/// Sends datagrams of a class; the classes in which they went over the wire, and in which they arrived. A capture may see many in one.
fn sent(lab: &Lab, from: &Pod, to: (&Pod, SocketAddrV4), tos: u8) -> (Vec<u8>, Vec<u8>) {
    let outside =
        Capture::start(lab.hosts[0].ns.path(), "eth0", |ip| is_tunnel(ip) && ip.ends_with(b"classed"));
    let inside = Capture::start(to.0.ns.path(), "eth0", |ip| ip[9] == 17 && ip.ends_with(b"classed"));
    let socket = classed(from, tos);
    for _ in 0..10 {
        socket.send_to(b"classed", to.1).unwrap();
    }
    let classes = |kept: Vec<Vec<u8>>| {
        let mut all: Vec<u8> = kept.into_iter().map(|ip| ip[1]).collect();
        all.dedup();
        all
    };
    let inside = inside.stop().kept;
    (classes(outside.stop().kept), classes(inside))
}

#[test]
fn dscp_and_ecn_show_outside_and_marks_come_home() {
    BOTH.iter().for_each(|flags| marks(flags));
}

fn marks(flags: &[&str]) {
    let (lab, daemons, [a, b]) = Lab::pair_with(flags);
    within(PATIENCE, "the pods talk", || answers(&a, &b));
    let _sink = udp(b.ns.path(), (b.ip, 9));
    let to = (&b, SocketAddrV4::new(b.ip, 9));
    for tos in [0, EF, EF_ECT, EF | 1] {
        assert_eq!(sent(&lab, &a, to, tos), (vec![tos], vec![tos]), "{tos:#x}");
    }
    // A switch on the way has met congestion.
    run_in(lab.switch(), || {
        nft::apply("table bridge congested { chain pass { type filter hook forward priority 0; udp dport 8285 ip ecn set ce; }; }")
    })
    .unwrap()
    .unwrap();
    assert_eq!(sent(&lab, &a, to, EF_ECT), (vec![EF_ECT], vec![EF_CE]), "the mark comes home");
    let before = daemons[1].dropped("in", "Congestion");
    assert_eq!(sent(&lab, &a, to, EF), (vec![EF], vec![]), "and is no use to who does not understand it");
    assert!(daemons[1].dropped("in", "Congestion") >= before + 10);
    let by_kernel = (daemons[0].metric(OUT) >= 50, daemons[1].metric(IN) >= 40);
    assert_eq!(by_kernel, (flags == ON, flags == ON));
}

#[test]
fn classes_in_one_burst_stay_apart() {
    BOTH.iter().for_each(|flags| burst(flags));
}

fn burst(flags: &[&str]) {
    let (lab, _daemons, [a, b]) = Lab::pair_with(flags);
    within(PATIENCE, "the pods talk", || answers(&a, &b));
    let sink = udp(b.ns.path(), (b.ip, 9));
    sink.set_read_timeout(Some(PATIENCE)).unwrap();
    let sockets = [EF_ECT, 0, EF].map(|tos| (classed(&a, tos), tos));
    let outside =
        Capture::start(lab.hosts[0].ns.path(), "eth0", |ip| is_tunnel(ip) && ip.ends_with(b"classed"));
    let inside = Capture::start(b.ns.path(), "eth0", |ip| ip[9] == 17 && ip.ends_with(b"classed"));
    for _ in 0..20 {
        for (socket, _) in &sockets {
            socket.send_to(b"classed", (b.ip, 9)).unwrap();
        }
    }
    let mut buffer = [0; 100];
    for _ in 0..60 {
        assert_eq!(sink.recv(&mut buffer).unwrap(), 7);
    }
    let (outside, inside) = (outside.stop().kept, inside.stop().kept);
    assert!(!outside.is_empty() && outside.iter().all(|ip| ip[1] == ip[29]), "outside as inside");
    let class = |ip: &Vec<u8>| {
        let port = u16::from_be_bytes([ip[20], ip[21]]);
        sockets.iter().find(|(socket, _)| socket.local_addr().unwrap().port() == port).unwrap().1
    };
    assert!(!inside.is_empty() && inside.iter().all(|ip| ip[1] == class(ip)), "each flow has its own");
}

/// A Go flannel takes the outer header off and forgets it, and with it a mark.
#[test]
fn ecn_is_not_offered_where_marks_would_get_lost() {
    let (lab, daemons, [a, b]) = Lab::pair();
    lab.lease("10.5.200.0-24", lab.hosts[2].ip, 600);
    daemons[0].wait_for("flannel_leases", 3);
    let (outside, _) = sent(&lab, &a, (&b, "10.5.200.2:9".parse().unwrap()), EF_ECT);
    assert_eq!(outside, [EF]);
    let _sink = udp(b.ns.path(), (b.ip, 9));
    let (outside, _) = sent(&lab, &a, (&b, SocketAddrV4::new(b.ip, 9)), EF_ECT);
    assert_eq!(outside, [EF_ECT], "beside a peer where it is");
}

/// Go flannel's figure: each flanneld is a hop, and a packet whose last one is used up goes no further.
#[test]
fn a_crossing_costs_two_hops() {
    BOTH.iter().for_each(|flags| crossing(flags));
}

fn crossing(flags: &[&str]) {
    let (lab, daemons, [a, b]) = Lab::pair_with(flags);
    within(PATIENCE, "the pods talk", || answers(&a, &b));
    let (host, tunnel) = (lab.hosts[0].ns.path(), daemons[1].subnet().0.network());
    let replies = Capture::start(host, "flannel0", |ip| ip[9] == 1 && ip[20] == 0);
    let fd = run_in(host, || {
        sysctl::set("net/ipv4/ping_group_range", "0\t0").unwrap();
        socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp).unwrap()
    })
    .unwrap();
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(5)).unwrap();
    let to = SockaddrIn::from(SocketAddrV4::new(tunnel, 0));
    let mut answer = [0; 100];
    sendto(fd.as_raw_fd(), &[8, 0, 0, 0, 0, 0, 0, 1, b'x'], &to, MsgFlags::empty()).unwrap();
    assert_eq!(recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty()).unwrap(), 9);
    let kept = replies.stop().kept;
    assert!(!kept.is_empty() && kept.iter().all(|ip| ip[8] == 62), "ttl=62");

    for (ttl, reason, n) in [(1, "out", 0), (2, "in", 1)] {
        let before = daemons[n].dropped(reason, "Ttl");
        let socket = udp(host, (daemons[0].subnet().0.network(), 0));
        socket.set_ttl(ttl).unwrap();
        let at_pod = Capture::start(b.ns.path(), "eth0", |ip| ip.ends_with(b"last hop"));
        socket.send_to(b"last hop", (b.ip, 9)).unwrap();
        within(PATIENCE, "it is dropped", || daemons[n].dropped(reason, "Ttl") > before);
        assert_eq!(at_pod.stop().kept.len(), 0, "a TTL of {ttl}");
    }
}
