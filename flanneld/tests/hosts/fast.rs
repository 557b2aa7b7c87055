//! The kernel's fast path: what it carries, and that it carries nothing that flanneld would not.

use std::fs;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use hostnet::program::Hook;
use hostnet::{Netlink, Route, sysctl};
use nix::sys::signal::Signal;

use super::flannel::Flanneld;
use super::lab::{Lab, Pod, inside, within};
use super::series::Series;
use super::traffic::{answers, dial, echo};
use super::wire::{Capture, in_clear, is_tunnel, udp};

const OFF: &[&str] = &["--fast-path=off"];
/// On hosts that are joined by veths it has to be asked for.
pub const ON: &[&str] = &["--fast-path=on"];
/// Packets are carried by flanneld itself, and by the kernel.
pub const BOTH: [&[&str]; 2] = [&[], ON];
pub const OUT: &str = r#"flannel_fast_packets_total{direction="out"}"#;
pub const IN: &str = r#"flannel_fast_packets_total{direction="in"}"#;
const SOON: Duration = Duration::from_secs(2);
/// Bytes there and back.
const MEGABYTES: usize = 4_000_000;
/// Packets that may go by way of flanneld where all could go by the fast path: the first ones, of which the next hop is not known yet.
const FIRST: u64 = 10;

/// Starts it with the fast path, if the flags don't say otherwise.
fn start(lab: &Lab, host: usize, flags: &[&str]) -> Flanneld {
    Flanneld::start(lab, host, &[ON, flags].concat())
}

/// Two hosts with these flags, and a pod on each.
fn pair(flags: [&[&str]; 2]) -> (Lab, [Flanneld; 2], [Pod; 2]) {
    let lab = Lab::with_hosts(3);
    let daemons = [0, 1].map(|n| start(&lab, n, flags[n]));
    let pods = [0, 1].map(|n| lab.pod(n, &daemons[n]));
    for daemon in &daemons {
        daemon.wait_for("flannel_leases", 2);
    }
    within(Duration::from_secs(5), "the pods talk", || answers(&pods[0], &pods[1]));
    (lab, daemons, pods)
}

/// Packets that flanneld itself carried, in both directions.
fn by_flanneld(daemon: &Flanneld) -> u64 {
    let all =
        ["in", "out"].map(|way| daemon.metric(&format!(r#"flannel_packets_total{{direction="{way}"}}"#)));
    all.iter().sum::<u64>() - daemon.metric(IN) - daemon.metric(OUT)
}

fn feature(daemon: &Flanneld, name: &str) -> u64 {
    daemon.metric(&format!(r#"flannel_datapath_feature{{feature="{name}"}}"#))
}

/// Megabytes from pod to pod and back, all of them right.
fn megabytes(a: &Pod, b: &Pod, port: u16) {
    echo(b, port);
    let mut stream = dial(a.ns.path(), b.ip, port).unwrap();
    let sent: Vec<u8> = (0..MEGABYTES).map(|i| (i % 251) as u8).collect();
    let (mut out, all) = (stream.try_clone().unwrap(), sent.clone());
    let writer = std::thread::spawn(move || out.write_all(&all).unwrap());
    let mut back = vec![0; sent.len()];
    stream.read_exact(&mut back).unwrap();
    writer.join().unwrap();
    assert!(back == sent, "what came back is not what was sent");
}

#[test]
fn the_kernel_carries_both_ways() {
    let (lab, daemons, [a, b]) = pair([&[], &[]]);
    let before = daemons.each_ref().map(by_flanneld);
    // Somebody who looks on changes nothing: the kernel copies a packet for whoever captures it.
    let looking = Capture::start(lab.hosts[1].ns.path(), "flannel0", |ip| ip[9] == 6);
    megabytes(&a, &b, 80);
    for (daemon, before) in daemons.iter().zip(before) {
        assert_eq!((feature(daemon, "FastOut"), feature(daemon, "FastIn")), (1, 1));
        let (out, into) = (daemon.metric(OUT), daemon.metric(IN));
        let flanneld = by_flanneld(daemon) - before;
        println!("by the kernel {out} out and {into} in, by flanneld {flanneld}");
        // Acknowledgements are fewer than packets, but many.
        assert!(out > 300 && into > 300 && out + into > 5000);
        assert!(flanneld <= FIRST, "{flanneld} packets went by way of flanneld");
        assert_eq!(daemon.dropped("in", "Sender") + daemon.dropped("in", "Destination"), 0);
    }
    assert!(looking.stop().kept.len() > 300, "what comes in is seen on flannel0, as without the fast path");
}

/// What a kernel sends is left unfinished, checksums and all, where there is no card on the way: flanneld does the rest.
#[test]
fn a_peer_without_it_takes_what_the_kernel_sends() {
    let (_lab, daemons, [a, b]) = pair([&[], OFF]);
    megabytes(&a, &b, 80);
    megabytes(&b, &a, 81);
    assert!(daemons[0].metric(OUT) > 1000 && daemons[0].metric(IN) > 1000);
    assert_eq!((daemons[1].metric(OUT), daemons[1].metric(IN)), (0, 0));
    assert_eq!((feature(&daemons[1], "FastOut"), feature(&daemons[1], "FastIn")), (0, 0));
    for reason in ["Length", "Truncated", "Offload", "Send"] {
        assert_eq!(daemons[1].dropped("in", reason), 0, "{reason}");
    }
}

/// A lease as Go flannel writes it names no features: nothing goes there that only a kernel could have sent.
#[test]
fn a_go_flannel_gets_nothing_from_the_kernel() {
    let (lab, daemons, [a, _b]) = pair([&[], &[]]);
    lab.lease("10.5.200.0-24", lab.hosts[2].ip, 600);
    daemons[0].wait_for("flannel_leases", 3);
    let peer = udp(lab.hosts[2].ns.path(), (lab.hosts[2].ip, super::wire::PORT));
    peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let before = (daemons[0].metric(OUT), by_flanneld(&daemons[0]));
    let (socket, mut packet) = (udp(a.ns.path(), (a.ip, 0)), [0; 2000]);
    for _ in 0..20 {
        socket.send_to(b"hello", (Ipv4Addr::new(10, 5, 200, 2), 9)).unwrap();
        let (length, _) = peer.recv_from(&mut packet).unwrap();
        let pseudo = flanneld::datapath::checksum::pseudo(&packet[12..20], 17, length - 20);
        let sum = flanneld::datapath::checksum::sum(&packet[20..length]);
        assert_eq!(flanneld::datapath::checksum::add(pseudo, sum), 0xffff, "its checksum is finished");
    }
    assert_eq!(daemons[0].metric(OUT), before.0);
    assert_eq!(by_flanneld(&daemons[0]), before.1 + 20);
}

/// The way to a peer is narrower than the interface: what is too long for it is flanneld's to send.
#[test]
fn what_is_too_long_for_the_way_goes_by_flanneld() {
    let (lab, daemons, [a, b]) = pair([&[], &[]]);
    inside(lab.hosts[0].ns.path(), async || {
        // Else a forwarding kernel goes by what it learned of the way alone, and not by what a route says.
        sysctl::set("net/ipv4/ip_forward_use_pmtu", "1").unwrap();
        let netlink = Netlink::connect().unwrap();
        let oif = Some(netlink.link_by_name("eth0").await.unwrap().unwrap().index);
        let to = format!("{}/32", lab.hosts[1].ip).parse().unwrap();
        netlink.replace_route(&Route { oif, mtu: Some(1300), ..Route::to(to) }).await.unwrap();
    });
    let (socket, server) = (udp(a.ns.path(), (a.ip, 0)), udp(b.ns.path(), (b.ip, 0)));
    server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut room = [0; 2000];
    for (length, fast) in [(1000, 1), (1272 - 28, 1), (1273 - 28, 0), (1472 - 28, 0)] {
        let before = daemons[0].metric(OUT);
        socket.send_to(&vec![7; length], server.local_addr().unwrap()).unwrap();
        assert_eq!(server.recv(&mut room).unwrap(), length, "it arrives");
        assert_eq!(daemons[0].metric(OUT) - before, fast, "{length} bytes");
    }
}

/// Whether there is a program of ours at the three places of a host: the device, the interface, and its driver.
fn attached(lab: &Lab, host: usize) -> [bool; 3] {
    inside(lab.hosts[host].ns.path(), async || {
        let netlink = Netlink::connect().unwrap();
        let link = async |name: &str| Some(netlink.link_by_name(name).await.unwrap()?.index);
        let (Some(eth0), Some(device)) = (link("eth0").await, link("flannel0").await) else {
            return [false; 3];
        };
        [
            netlink.classifier(device, Hook::Egress).await.unwrap().is_some(),
            netlink.classifier(eth0, Hook::Ingress).await.unwrap().is_some(),
            netlink.driver_program(eth0).await.unwrap().is_some(),
        ]
    })
}

#[test]
fn killed_the_kernel_goes_on_until_the_leases_end_and_leaks_nothing() {
    const TTL: u64 = 10;
    let (lab, mut daemons, [a, b]) = pair([&["--subnet-lease-ttl=10"], &[]]);
    let clear = Capture::wire(&lab, 0, in_clear);
    daemons[0].end(Signal::SIGKILL);
    let died = Instant::now();
    // Renewed after half of its life at the latest, and not trusted for its last tenth: some seconds are left in any case.
    while died.elapsed() < Duration::from_secs(2) {
        assert!(answers(&a, &b), "without flanneld, after {:?}", died.elapsed());
    }
    let socket = udp(a.ns.path(), (a.ip, 0));
    let sends = || {
        let sent = Capture::wire(&lab, 0, {
            let host = lab.hosts[0].ip;
            move |ip| is_tunnel(ip) && ip[12..16] == host.octets()
        });
        for _ in 0..20 {
            let _ = socket.send_to(b"for a lease that may be over", (b.ip, 9));
        }
        !sent.stop().kept.is_empty()
    };
    within(Duration::from_secs(TTL), "the lease ends", || !sends());
    println!("without flanneld the kernel carried packets for {:?} of a lease of {TTL} s", died.elapsed());
    assert!(died.elapsed() < Duration::from_secs(TTL), "no longer than the lease");
    assert!(!sends() && !answers(&a, &b));
    assert_eq!(attached(&lab, 0), [true; 3]);
    let clear = clear.stop();
    assert!(clear.frames > 0 && clear.kept.is_empty(), "in clear: {:02x?}", clear.kept.first());

    daemons[0] = start(&lab, 0, &[]);
    within(Duration::from_secs(5), "the pods talk again", || answers(&a, &b));
}

/// Go flannel would fail here: without its daemon it carries nothing.
#[test]
fn a_restart_loses_no_packet() {
    let (lab, mut daemons, [a, b]) = pair([&[], &[]]);
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let series = [Series::udp(&a, &b), Series::udp(&b, &a), Series::tcp(&a, &b)];
        std::thread::sleep(Duration::from_millis(300));
        daemons[0].end(signal);
        std::thread::sleep(Duration::from_millis(500));
        daemons[0] = start(&lab, 0, &[]);
        daemons[0].wait_for("flannel_leases", 2);
        std::thread::sleep(Duration::from_millis(300));
        let outcomes = series.map(Series::stop);
        println!("{signal} and started again: {outcomes:?}");
        assert_eq!(outcomes.each_ref().map(|outcome| outcome.lost), [0; 3], "{signal}");
    }
    assert!(daemons[0].metric(OUT) > 100, "the new one's programs carry");
    within(Duration::from_secs(5), "it answers", || answers(&a, &b));
}

#[test]
fn switched_off_or_with_another_backend_nothing_of_it_stays() {
    let (lab, mut daemons, [a, b]) = pair([&[], &[]]);
    assert_eq!(attached(&lab, 0), [true; 3]);
    daemons[0].end(Signal::SIGTERM);
    assert_eq!(attached(&lab, 0), [true; 3], "a successor may go on");
    daemons[0] = start(&lab, 0, OFF);
    assert_eq!(attached(&lab, 0), [false; 3]);
    within(Duration::from_secs(5), "the pods talk", || answers(&a, &b));
    assert_eq!(daemons[0].metric(OUT), 0);

    daemons[1].end(Signal::SIGTERM);
    assert_eq!(attached(&lab, 1), [true; 3]);
    lab.put("/coreos.com/network/config", r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#);
    daemons[1] = start(&lab, 1, &[]);
    assert_eq!(attached(&lab, 1), [false; 3]);
}

/// Takes one part of the fast path away.
async fn take_away(what: &str, netlink: &Netlink) {
    let link = async |name: &str| netlink.link_by_name(name).await.unwrap().unwrap().index;
    match what {
        "the classifier of the interface" => {
            netlink.delete_classifier(link("eth0").await, Hook::Ingress).await.unwrap();
        }
        "the classifier of the device" => {
            netlink.delete_classifier(link("flannel0").await, Hook::Egress).await.unwrap();
        }
        "the program in the driver" => netlink.delete_driver_program(link("eth0").await).await.unwrap(),
        "the device" => netlink.delete_link(link("flannel0").await).await.unwrap(),
        _ => unreachable!("{what}"),
    }
}

/// Somebody takes a part of it away: it is back soon, and so are packets, on a host that is strict about where they come from.
#[test]
fn what_is_taken_away_is_put_back_soon() {
    // It is seen when it happens, not at the next whole look.
    let (lab, _daemons, [a, b]) = pair([&["--iptables-resync=600"], &[]]);
    inside(lab.hosts[0].ns.path(), async || sysctl::set("net/ipv4/conf/eth0/rp_filter", "1").unwrap());
    let clear = Capture::wire(&lab, 0, in_clear);
    for what in [
        "the classifier of the interface",
        "the classifier of the device",
        "the program in the driver",
        "the device",
    ] {
        inside(lab.hosts[0].ns.path(), async || take_away(what, &Netlink::connect().unwrap()).await);
        let start = Instant::now();
        let talk = within(SOON, what, || answers(&a, &b));
        within(SOON, what, || attached(&lab, 0) == [true; 3]);
        println!(
            "{what} taken away: pods talk again after {talk:?}, all is back after {:?}",
            start.elapsed()
        );
        assert!(answers(&a, &b));
    }
    assert_eq!(clear.stop().kept.len(), 0, "in clear");
}

/// The interface's driver takes no program (a bridge has none): what goes out is the kernel's all the same.
#[test]
fn without_a_program_in_the_driver_flanneld_takes_packets_in() {
    let lab = Lab::with_hosts(3);
    inside(lab.hosts[0].ns.path(), async || {
        let netlink = Netlink::connect().unwrap();
        netlink.add_bridge("ext0").await.unwrap();
        let link = async |name: &str| netlink.link_by_name(name).await.unwrap().unwrap().index;
        let (eth0, ext0) = (link("eth0").await, link("ext0").await);
        let address = format!("{}/24", lab.hosts[0].ip).parse().unwrap();
        netlink.delete_address(eth0, address).await.unwrap();
        netlink.set_master(eth0, ext0).await.unwrap();
        netlink.set_up(ext0, true).await.unwrap();
        netlink.add_address(ext0, address).await.unwrap();
    });
    let flags: [&[&str]; 2] = [&["--iface=ext0"], &[]];
    let daemons = [0, 1].map(|n| start(&lab, n, flags[n]));
    let [a, b] = [0, 1].map(|n| lab.pod(n, &daemons[n]));
    for daemon in &daemons {
        daemon.wait_for("flannel_leases", 2);
    }
    within(Duration::from_secs(5), "the pods talk", || answers(&a, &b));
    megabytes(&a, &b, 80);
    assert_eq!((feature(&daemons[0], "FastOut"), feature(&daemons[0], "FastIn")), (1, 0));
    assert!(daemons[0].metric(OUT) > 1000);
    assert_eq!(daemons[0].metric(IN), 0);
    assert!(daemons[0].log().contains("what comes in does not take the fast path"));
}

/// Without the capability that loading programs asks for, all goes by way of flanneld, and it says so.
#[test]
fn without_the_capability_flanneld_carries_all() {
    let lab = Lab::with_hosts(2);
    let daemons = [Flanneld::start_without(&lab, 0, &["sys_admin", "bpf"]), start(&lab, 1, &[])];
    let [a, b] = [0, 1].map(|n| lab.pod(n, &daemons[n]));
    for daemon in &daemons {
        daemon.wait_for("flannel_leases", 2);
    }
    within(Duration::from_secs(5), "the pods talk", || answers(&a, &b));
    megabytes(&a, &b, 80);
    let log = daemons[0].log();
    assert!(log.contains("no fast path in the kernel"), "{log}");
    assert_eq!((feature(&daemons[0], "FastOut"), feature(&daemons[0], "FastIn")), (0, 0));
    assert_eq!(daemons[0].metric(OUT), 0);
    assert!(daemons[1].metric(OUT) > 0);
}

/// Over a veth streams are slower by it, so there it is used only if it is asked for.
#[test]
fn over_a_veth_it_is_used_only_if_it_is_wanted() {
    let lab = Lab::with_hosts(1);
    let daemon = Flanneld::start(&lab, 0, &[]);
    assert!(daemon.log().contains("no fast path in the kernel over a veth"), "{}", daemon.log());
    assert_eq!((feature(&daemon, "FastOut"), feature(&daemon, "FastIn")), (0, 0));
}

/// The objects that flanneld and the benchmark bear are what their sources compile to; `make bpf` brings them up to date. Needs clang.
#[test]
fn the_compiled_programs_are_those_of_the_source() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/bpf");
    let built = tempfile::tempdir().unwrap();
    let out = format!("OUT={}", built.path().display());
    let status = std::process::Command::new("make").args(["-s", "-C", folder, &out]).status().unwrap();
    assert!(status.success(), "clang is missing, or a source is wrong");
    for object in ["fastpath.o", "card.o"] {
        let same =
            fs::read(built.path().join(object)).unwrap() == fs::read(format!("{folder}/{object}")).unwrap();
        assert!(same, "the source of {object} is newer than it: run `make bpf` and commit both");
    }
}
