//! The encrypted mode with both families: pods talk over both, and between the hosts there is nothing but what is sealed. It is the kernel's
//! WireGuard where it has one, and else ours.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use hostnet::Netlink;
use hostnet::netns::run_in;
use hostnet::sysctl;
use hostnet::wireguard::{Change, Device, KEY_LEN, Peer};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recv, sendto, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::dual::{answers6, carries_megabytes, in_clear, lease, network};
use super::flannel::Flanneld;
use super::lab::{Lab, Pod, SUBNETS, inside, within};
use super::traffic::{answers, dial};
use super::wire::{self, Capture};

const SOON: Duration = Duration::from_secs(2);
/// A bridge has IPv6 only once the kernel has noticed that its first port has a carrier, which it looks for once a second.
const AT_FIRST: Duration = Duration::from_secs(5);
/// Of a WireGuard device the kernel tells no changes: they are found at the next whole look (`--iptables-resync`). A handshake that was lost is
/// made again after 5 s.
const WHOLE_LOOK: Duration = Duration::from_secs(20);
/// Our handshakes are stamped 27 s later than the kernel's (the leap seconds are counted in): a peer takes the kernel's for repetitions until
/// then, or until it asks by itself, 15 s after the last answer.
const OTHER_CLOCK: Duration = Duration::from_secs(60);
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// How their addresses begin.
const MULTICAST: u8 = 0xff;

/// Two hosts with a pod each, whose packets travel in this mode of the backend.
fn pair(mode: &str) -> (Lab, [Flanneld; 2], [Pod; 2]) {
    pair_by(mode, ["auto"; 2])
}

/// The same, with the kernel's WireGuard or ours on each host.
fn pair_by(mode: &str, whose: [&str; 2]) -> (Lab, [Flanneld; 2], [Pod; 2]) {
    let lab = Lab::with_ipv6(3);
    let backend = format!(r#"wireguard","Mode":"{mode}"#);
    lab.put("/coreos.com/network/config", network(&backend));
    let daemons = [0, 1].map(|n| Flanneld::start(&lab, n, &[&format!("--wireguard={}", whose[n])]));
    let pods = [0, 1].map(|n| lab.pod(n, &daemons[n]));
    let [a, b] = &pods;
    let took = within(WHOLE_LOOK, "the pods talk", || answers(a, b) && answers6(a, b));
    println!("{mode}: the pods talk after {took:?}");
    (lab, daemons, pods)
}

/// Whether an echo request comes back.
fn pings(from: &Pod, to: impl Into<IpAddr>) -> bool {
    let to = to.into();
    let (family, protocol, request, reply) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8, 0),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, 129),
    };
    let fd = run_in(from.ns.path(), || {
        sysctl::set("net/ipv4/ping_group_range", "0\t0").unwrap();
        socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol).unwrap()
    })
    .unwrap();
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(1)).unwrap();
    let at = SockaddrStorage::from(SocketAddr::new(to, 0));
    let (mut question, mut answer) = (vec![request, 0, 0, 0, 0, 0, 0, 1], vec![0; 2000]);
    question.resize(1000, 7);
    sendto(fd.as_raw_fd(), &question, &at, MsgFlags::empty()).unwrap();
    let Ok(length) = recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty()) else { return false };
    answer[0] == reply && answer[8..length] == question[8..]
}

/// What travels on a host's wire while pods talk: the ports of datagrams over IPv4 and over IPv6, of each that were seen.
fn ports_between(lab: &Lab, [a, b]: &[Pod; 2]) -> [Vec<u16>; 2] {
    let eth0 = (lab.hosts[0].ns.path(), "eth0");
    // etcd is asked over the same wire, and neighbours and groups are asked for.
    let captures = [
        Capture::start(eth0.0, eth0.1, |ip| ip[9] != TCP || wire::in_clear(ip)),
        Capture::start6(eth0.0, eth0.1, |ip| ip[6] != ICMPV6 && ip[24] != MULTICAST || in_clear(ip)),
    ];
    assert!(pings(a, b.ip) && pings(b, a.ip), "IPv4");
    assert!(pings(a, b.ip6.unwrap()) && pings(b, a.ip6.unwrap()), "IPv6");
    carries_megabytes(a, b, b.ip);
    carries_megabytes(b, a, a.ip6.unwrap());
    let [v4, v6] = captures.map(|capture| capture.stop().kept);
    let mut ports = [Vec::new(), Vec::new()];
    for (ip, header, protocol, of) in
        v4.iter().map(|ip| (ip, 20, ip[9], 0)).chain(v6.iter().map(|ip| (ip, 40, ip[6], 1)))
    {
        assert_eq!(protocol, UDP, "{ip:02x?}");
        let [source, destination] =
            [0, 2].map(|at| u16::from_be_bytes([ip[header + at], ip[header + at + 1]]));
        assert_eq!(source, destination);
        ports[of].push(source);
    }
    println!("{} datagrams over IPv4, {} over IPv6", ports[0].len(), ports[1].len());
    for family in &mut ports {
        family.sort_unstable();
        family.dedup();
    }
    ports
}

#[test]
fn each_family_is_sealed_by_a_device_of_its_own() {
    let (lab, daemons, pods) = pair("separate");
    assert_eq!(ports_between(&lab, &pods), [vec![51820], vec![51821]]);
    assert_eq!(daemons[0].subnet().1, 1420);
    let host = &lab.hosts[0];
    let value = lease(&lab, host).1;
    let (begin, rest) = value.split_once(r#""PublicKey":""#).unwrap();
    let key = rest.split_once('"').unwrap().0;
    let ips = format!(r#"{{"PublicIP":"{}","PublicIPv6":"{}","#, host.ip, host.ip6());
    assert_eq!(begin, format!(r#"{ips}"BackendType":"wireguard","BackendData":{{"#));
    let data = |port| format!(r#"{{"PublicKey":"{key}","Port":{port}}}"#);
    assert!(
        value.contains(&format!(r#""BackendData":{},"BackendV6Data":{},"#, data(51820), data(51821))),
        "{value}"
    );
    for daemon in &daemons {
        for reason in ["Forged", "Replayed", "Stranger", "Sender", "Destination", "Version"] {
            assert_eq!(daemon.dropped("in", reason), 0, "{reason}");
        }
    }
}

#[test]
fn one_device_seals_both_families_if_it_is_asked_to() {
    // The hosts' IPv4 addresses are no private ones.
    for (mode, expected) in
        [("auto", [vec![51820], vec![]]), ("ipv4", [vec![51820], vec![]]), ("ipv6", [vec![], vec![51820]])]
    {
        let (lab, _daemons, pods) = pair(mode);
        assert_eq!(ports_between(&lab, &pods), expected, "{mode}");
        inside(lab.hosts[0].ns.path(), async || {
            let links = Netlink::connect().unwrap().links().await.unwrap();
            let names: Vec<_> = links.iter().filter(|link| link.name.starts_with("flannel")).collect();
            assert_eq!(names.iter().map(|link| link.name.as_str()).collect::<Vec<_>>(), ["flannel-wg"]);
        });
    }
}

#[test]
fn ipv6_that_nobody_has_is_refused_and_a_device_that_is_taken_away_is_back() {
    let (lab, mut daemons, [a, b]) = pair("separate");
    let host = lab.hosts[0].ns.path();
    let clear = Capture::start6(host, "eth0", in_clear);
    let refused = || {
        let (start, nobody) = (Instant::now(), "fc00:0:0:fffe::9".parse::<IpAddr>().unwrap());
        let error = dial(a.ns.path(), nobody, 80).expect_err("nobody has it");
        let kinds = [ErrorKind::NetworkUnreachable, ErrorKind::HostUnreachable];
        assert!(kinds.contains(&error.kind()), "after {:?}: {error}", start.elapsed());
    };
    refused();
    inside(host, async || {
        let netlink = Netlink::connect().unwrap();
        let link = netlink.link_by_name("flannel-wg-v6").await.unwrap().unwrap();
        netlink.delete_link(link.index).await.unwrap();
    });
    within(SOON, "the pods talk again", || answers6(&a, &b) && answers(&a, &b));
    daemons[0].end(Signal::SIGKILL);
    for _ in 0..5 {
        answers6(&a, &b);
    }
    daemons[0] = Flanneld::start(&lab, 0, &[]);
    within(AT_FIRST, "the pods talk again", || answers6(&a, &b) && answers(&a, &b));
    refused();
    let clear = clear.stop();
    assert!(clear.frames > 0 && clear.kept.is_empty(), "in clear: {:02x?}", clear.kept.first());
}

/// The kernel's devices by themselves, and with ours on the other side.
#[test]
#[ignore = "needs a kernel with WireGuard"]
fn the_kernels_wireguard_talks_with_itself_and_with_ours() {
    for (mode, whose) in
        [("separate", ["kernel", "kernel"]), ("separate", ["kernel", "user"]), ("auto", ["user", "kernel"])]
    {
        let (lab, mut daemons, pods) = pair_by(mode, whose);
        let expected = if mode == "auto" { [vec![51820], vec![]] } else { [vec![51820], vec![51821]] };
        assert_eq!(ports_between(&lab, &pods), expected, "{whose:?}");
        let (well, text) = daemons[0].look(&["status"]);
        println!("{text}");
        assert!(well && text.contains("the kernel's own") == (whose[0] == "kernel"), "{text}");
        let kind = || {
            inside(lab.hosts[0].ns.path(), async || {
                let link = Netlink::connect().unwrap().link_by_name("flannel-wg").await.unwrap().unwrap();
                link.kind.unwrap()
            })
        };
        let [a, b] = &pods;
        // The other way round, over the device that is there, and back.
        for (flag, expected) in [("--wireguard=user", "tun"), ("--wireguard=auto", "wireguard")] {
            daemons[0].end(Signal::SIGTERM);
            daemons[0] = Flanneld::start(&lab, 0, &[flag]);
            assert_eq!(kind(), expected, "{flag}");
            let talk = || answers(a, b) && answers6(a, b) && answers6(b, a);
            println!(
                "{flag}: the pods talk again after {:?}",
                within(OTHER_CLOCK, "the pods talk again", talk)
            );
        }
    }
}

/// What somebody changes at a device of the kernel is mended, and a peer that is gone from the leases is gone from the device.
#[test]
#[ignore = "needs a kernel with WireGuard"]
fn the_kernels_wireguard_is_mended_and_follows_the_leases() {
    let (lab, mut daemons, [a, b]) = pair_by("separate", ["kernel", "kernel"]);
    let host = lab.hosts[0].ns.path();
    let device = || run_in(host, || hostnet::wireguard::read("flannel-wg")).unwrap().unwrap();
    let right = device();
    assert_eq!((right.port, right.peers.len()), (51820, 1));
    let key = *right.peers.keys().next().unwrap();
    for change in [
        Change::Remove(key),
        Change::Own { private: [8; KEY_LEN], port: 7 },
        Change::Set([9; KEY_LEN], Peer::default()),
        Change::Set(key, Peer { keepalive: 9, endpoint: None, ..Peer::default() }),
    ] {
        run_in(host, || hostnet::wireguard::change("flannel-wg", std::slice::from_ref(&change)))
            .unwrap()
            .unwrap();
        let shape = |it: &Device| {
            (
                it.private,
                it.port,
                it.peers.iter().map(|(key, peer)| (*key, peer.subnets.clone())).collect::<Vec<_>>(),
            )
        };
        within(WHOLE_LOOK, "it is mended", || shape(&device()) == shape(&right));
        within(WHOLE_LOOK, "the pods talk", || answers(&a, &b) && answers6(&a, &b));
        println!("mended: {change:?}");
    }
    // The daemon is dead: the kernel goes on.
    daemons[0].end(Signal::SIGKILL);
    assert!(answers(&a, &b) && answers6(&b, &a));
    daemons[0] = Flanneld::start(&lab, 0, &["--wireguard=kernel"]);
    assert!(answers(&a, &b), "and without a new handshake");
    let gone =
        lab.leases().into_iter().find(|(_, value)| value.contains(&lab.hosts[1].ip.to_string())).unwrap().0;
    daemons[1].end(Signal::SIGKILL);
    lab.etcd(async |mut client| client.delete(format!("{SUBNETS}{gone}"), None).await.unwrap());
    within(AT_FIRST, "its peer is gone", || device().peers.is_empty());
}
