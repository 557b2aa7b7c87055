//! The way between two hosts is narrower than their interfaces: a router says so, or nobody does, or somebody lies.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use flanneld::datapath::checksum;
use hostnet::netns::run_in;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, setsockopt, socket,
};

use super::flannel::Flanneld;
use super::lab::{Lab, Pod, within};
use super::traffic::{dial, echo};
use super::wire::{Capture, PORT, udp};

/// How the switch cuts.
const NARROW: u32 = 1300;
const INNER: usize = 1272;
/// Of a black hole.
const HOLE: usize = 1400;
/// From the first packet on, connections over a black hole work.
const START: Duration = Duration::from_secs(5);
const FOUND: Duration = Duration::from_secs(5);
const PEERS: &str = "flannel_path_mtu_narrow_peers";

mod option {
    use nix::{setsockopt_impl, sockopt_impl};
    sockopt_impl!(MtuDiscover, SetOnly, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::c_int);
}

/// Two hosts with a router between them, on which a link of so many bytes begins.
fn routed(mtu: u32) -> (Lab, [Flanneld; 2], [Pod; 2]) {
    let lab = Lab::with_hosts(3);
    let far = Ipv4Addr::new(198, 18, 52, 2);
    lab.put_behind_router(1, far);
    for ip in [lab.hosts[0].ip, far] {
        lab.narrow(ip, mtu);
    }
    start(lab)
}

/// Two hosts on a switch that drops what is longer than so many bytes, and says nothing.
pub fn black_hole(most: usize) -> (Lab, [Flanneld; 2], [Pod; 2]) {
    let lab = Lab::with_hosts(3);
    lab.drop_between(&format!("meta length > {most}"));
    start(lab)
}

fn start(lab: Lab) -> (Lab, [Flanneld; 2], [Pod; 2]) {
    for host in &lab.hosts[..2] {
        as_a_card(host.ns.path());
    }
    let daemons = [0, 1].map(|n| Flanneld::start(&lab, n, &[]));
    let pods = [0, 1].map(|n| lab.pod(n, &daemons[n]));
    for daemon in &daemons {
        daemon.wait_for("flannel_leases", 2);
    }
    (lab, daemons, pods)
}

/// A veth hands datagrams over that are still to be cut; a switch would take them for one long packet.
fn as_a_card(ns: &Path) {
    let args = ["link", "set", "eth0", "gso_max_segs", "1"];
    let status = run_in(ns, || Command::new("ip").args(args).status().unwrap()).unwrap();
    assert!(status.success(), "ip {args:?}");
}

/// Outer packets in fragments, on a host's interface.
fn outer_fragments(lab: &Lab, host: usize) -> Capture {
    let fragment = |ip: &[u8]| ip[12] == 198 && u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0;
    Capture::start(lab.hosts[host].ns.path(), "eth0", fragment)
}

/// Sends megabytes there and back over one connection; after how long the first ones were back, and all.
fn transfer(from: &Pod, to: &Pod, port: u16, megabytes: usize) -> (Duration, Duration) {
    echo(to, port);
    let begin = Instant::now();
    let mut stream = dial(from.ns.path(), to.ip, port).unwrap();
    let sent: Vec<u8> = (0..megabytes << 20).map(|i| (i % 251) as u8).collect();
    let (mut out, all) = (stream.try_clone().unwrap(), sent.clone());
    let writer = std::thread::spawn(move || out.write_all(&all).unwrap());
    let mut back = vec![0; sent.len()];
    stream.read_exact(&mut back[..100_000]).unwrap();
    let started = begin.elapsed();
    stream.read_exact(&mut back[100_000..]).unwrap();
    writer.join().unwrap();
    assert!(back == sent, "what came back is not what was sent");
    (started, begin.elapsed())
}

/// A UDP socket of a pod whose packets are all of one kind: to be fragmented (`IP_PMTUDISC_DONT`), or never (`PROBE`).
fn kind(pod: &Pod, discover: libc::c_int) -> UdpSocket {
    let socket = udp(pod.ns.path(), (pod.ip, 0));
    setsockopt(&socket, option::MtuDiscover, &discover).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// An ICMP message that tells the largest packet; which.
fn told_mtu(ip: &[u8]) -> Option<usize> {
    (ip[9] == 1 && ip[20..22] == [3, 4]).then(|| usize::from(u16::from_be_bytes([ip[26], ip[27]])))
}

#[test]
fn a_routers_word_is_handed_to_the_pods_and_nothing_is_fragmented_outside() {
    let (lab, daemons, [a, b]) = routed(NARROW);
    let outside = [0, 1].map(|n| outer_fragments(&lab, n));
    let (started, all) = transfer(&a, &b, 80, 4);
    println!("4 MB there and back over a router with {NARROW}: begun after {started:?}, done after {all:?}");
    assert!(started < START, "{started:?}");
    for daemon in &daemons {
        daemon.wait_for(PEERS, 1);
    }
    assert!(daemons[0].metric("flannel_path_mtu_told_total") > 0, "a router told");

    // What may not be fragmented is refused with the size that fits.
    let at_pod = Capture::start(a.ns.path(), "eth0", |ip| told_mtu(ip).is_some());
    let sink = udp(b.ns.path(), (b.ip, 53));
    sink.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let never = kind(&a, libc::IP_PMTUDISC_PROBE);
    never.send_to(&[7; 1400], (b.ip, 53)).unwrap();
    let mut buffer = [0; 2000];
    never.send_to(&[1; INNER - 28], (b.ip, 53)).unwrap();
    assert_eq!(
        sink.recv(&mut buffer).unwrap(),
        INNER - 28,
        "the largest that fits gets there, and not the other"
    );
    let told: Vec<_> = at_pod.stop().kept.iter().filter_map(|ip| told_mtu(ip)).collect();
    assert_eq!(told, [INNER]);
    assert!(daemons[0].dropped("out", "TooLong") > 0);

    // What may be is fragmented inside, and arrives whole.
    let may = kind(&a, libc::IP_PMTUDISC_DONT);
    let question: Vec<u8> = (0..1400).map(|n| n as u8).collect();
    may.send_to(&question, (b.ip, 53)).unwrap();
    let length = sink.recv(&mut buffer).unwrap();
    assert_eq!(buffer[..length], question);
    assert!(daemons[0].metric(r#"flannel_fragmented_total{direction="out"}"#) > 0);

    // A new connection is told at once, both ways.
    let opened = |ip: &[u8]| ip[9] == 6 && ip[33] & 2 != 0;
    let (at_a, at_b) =
        (Capture::start(a.ns.path(), "eth0", opened), Capture::start(b.ns.path(), "eth0", opened));
    transfer(&a, &b, 81, 1);
    for (capture, from) in [(at_a, b.ip), (at_b, a.ip)] {
        let kept = capture.stop().kept;
        let syn = kept.iter().find(|ip| ip[12..16] == from.octets()).unwrap();
        assert_eq!((syn[40], usize::from(u16::from_be_bytes([syn[42], syn[43]]))), (2, INNER - 40));
    }
    for capture in outside {
        assert_eq!(capture.stop().kept.len(), 0, "outer fragments");
    }
}

/// Go flannel would fail here: nothing tells its pods that their packets get lost, and the connection hangs.
#[test]
fn a_black_hole_is_found_and_ten_megabytes_get_through() {
    let (lab, daemons, [a, b]) = black_hole(HOLE);
    let outside = [0, 1].map(|n| outer_fragments(&lab, n));
    let (started, all) = transfer(&a, &b, 80, 10);
    println!("10 MB there and back over a black hole: begun after {started:?}, done after {all:?}");
    assert!(started < START, "{started:?}");
    for daemon in &daemons {
        daemon.wait_for(PEERS, 1);
    }
    let (started, _) = transfer(&a, &b, 81, 1);
    assert!(started < Duration::from_secs(1), "the next connection has nothing to find out: {started:?}");
    assert_eq!(daemons[0].metric("flannel_path_mtu_told_total"), 0, "nobody told");
    let asked = daemons[0].metric("flannel_path_mtu_questions_total");
    assert!((2..60).contains(&asked), "{asked} questions");
    assert!(daemons[0].log().contains("the way to a peer is narrower than the interface"));
    for capture in outside {
        assert_eq!(capture.stop().kept.len(), 0, "outer fragments");
    }
}

#[test]
fn a_wide_way_is_asked_about_and_nothing_changes() {
    let (_lab, daemons, [a, b]) = Lab::pair();
    transfer(&a, &b, 80, 4);
    std::thread::sleep(Duration::from_secs(2));
    for daemon in &daemons {
        // As a rule it is one; on a machine that is busy for a quarter of a second the ladder follows.
        let asked = daemon.metric("flannel_path_mtu_questions_total");
        println!("{asked} questions");
        assert!((1..60).contains(&asked));
        assert_eq!((daemon.metric(PEERS), daemon.dropped("out", "TooLong")), (0, 0));
    }
}

/// "Fragmentation needed", as a router would say it of a datagram from one host to another.
fn forged(from: Ipv4Addr, to: Ipv4Addr, mtu: u16) -> Vec<u8> {
    let mut bytes = vec![3, 4, 0, 0, 0, 0];
    bytes.extend(mtu.to_be_bytes());
    bytes.extend([0x45, 0, 5, 0xdc, 0, 0, 0x40, 0, 60, 17, 0, 0]);
    bytes.extend([from.octets(), to.octets()].concat());
    bytes.extend([PORT.to_be_bytes(), PORT.to_be_bytes(), [5, 0xc8], [0, 0]].concat());
    let sum = checksum::of(&bytes).to_be_bytes();
    bytes[2..4].copy_from_slice(&sum);
    bytes
}

#[test]
fn a_lie_is_found_out_and_one_about_nobody_is_ignored() {
    let (lab, daemons, [a, b]) = Lab::pair();
    let victim = &daemons[0];
    transfer(&a, &b, 80, 1);
    let send = |to: Ipv4Addr, mtu| {
        run_in(lab.hosts[2].ns.path(), || {
            let icmp = SockProtocol::Icmp;
            let fd = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, icmp).unwrap();
            let at = SockaddrIn::from(std::net::SocketAddrV4::new(lab.hosts[0].ip, 0));
            let message = forged(lab.hosts[0].ip, to, mtu);
            sendto(fd.as_raw_fd(), &message, &at, MsgFlags::empty()).unwrap();
        })
        .unwrap();
    };
    // To the stranger nothing was ever sent. Nor is anybody believed right after an answer has shown the way to be wide.
    send(lab.hosts[2].ip, 576);
    send(lab.hosts[1].ip, 576);
    victim.wait_for("flannel_path_mtu_ignored_total", 2);
    std::thread::sleep(Duration::from_secs(11));
    send(lab.hosts[1].ip, 68);
    victim.wait_for("flannel_path_mtu_told_total", 1);
    let took = within(FOUND, "the lie is found out", || {
        victim.metric(PEERS) == 0 && victim.log().contains("takes what")
    });
    println!("a lie lasted for {took:?}");
    let (started, _) = transfer(&a, &b, 81, 1);
    assert!(started < Duration::from_secs(1));
}
