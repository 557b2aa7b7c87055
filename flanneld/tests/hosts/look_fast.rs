//! Looking into a flanneld whose packets the kernel carries by itself: they never pass flanneld, and are counted, shown and traced all the same.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::time::Duration;

use hostnet::netns::run_in;
use hostnet::nft;
use nix::sys::signal::Signal;

use super::fast::{BOTH, ON};
use super::flannel::Flanneld;
use super::lab::{Lab, Pod, within};
use super::look::{capture, end, status, the_way_is_known_to_be_wide, trace};
use super::traffic::{answers, dial, echo};

struct Scene {
    daemons: [Flanneld; 2],
    pods: [Pod; 2],
    /// Last, as it takes the others' files with it.
    lab: Lab,
}

impl Scene {
    fn new(flags: &[&str]) -> Scene {
        let (lab, daemons, pods) = Lab::pair_with(flags);
        within(Duration::from_secs(5), "the pods talk", || answers(&pods[0], &pods[1]));
        Scene { daemons, pods, lab }
    }
}

#[test]
fn the_status_counts_what_the_kernel_carries() {
    let Scene { daemons, pods: [a, b], lab } = Scene::new(ON);
    let (before, sent) = (status(&daemons[0]), 25);
    for _ in 0..sent {
        assert!(answers(&a, &b));
    }
    let now = status(&daemons[0]);
    let (before, after) = (before.peers[0].traffic.unwrap(), now.peers[0].traffic.unwrap());
    assert_eq!(now.peers[0].public_ips, [std::net::IpAddr::V4(lab.hosts[1].ip)]);
    // Datagrams of 8 bytes: 36 with their inner headers.
    assert_eq!(
        (after.out_packets - before.out_packets, after.out_bytes - before.out_bytes),
        (sent, sent * 36)
    );
    assert_eq!((after.in_packets - before.in_packets, after.in_bytes - before.in_bytes), (sent, sent * 36));
    assert!(now.path.features["FastOut"] && now.path.features["FastIn"]);
    let (_, text) = daemons[0].look(&["status"]);
    println!("{text}");
    assert!(text.contains("FastIn FastOut Join"), "{text}");
}

/// Outgoing packets have their outer headers there, incoming ones have lost them in the driver; both are shown, and what they are.
#[test]
fn a_capture_shows_both_directions() {
    let Scene { daemons, pods: [a, b], lab } = Scene::new(ON);
    echo(&b, 80);
    let (here, peer) = (lab.hosts[0].ip, lab.hosts[1].ip);
    let (one, said) = capture(&daemons[0], &["--pod", &b.ip.to_string(), "--port=80", "--proto=tcp"]);
    let file = lab.dir.path().join("trace.pcapng");
    let (two, heard) = capture(&daemons[0], &["-w", file.to_str().unwrap(), "--peer", &peer.to_string()]);
    let (other, silent) = capture(&daemons[0], &["--peer", &lab.hosts[2].ip.to_string()]);
    for _ in 0..5 {
        assert!(answers(&a, &b));
    }
    let mut stream = dial(a.ns.path(), b.ip, 80).unwrap();
    let sent = vec![7; 200_000];
    stream.write_all(&sent).unwrap();
    stream.read_exact(&mut vec![0; sent.len()]).unwrap();
    let (lines, last) = end(one, said);
    println!("{}", lines.lines().take(6).collect::<Vec<_>>().join("\n"));
    let syn =
        (format!(" out {here}.8285 > {peer}.8285 | {}.", a.ip), format!(" > {}.80: Flags [S], seq", b.ip));
    let answer = format!(" in  fast path from {peer} | {}.80 > {}.", b.ip, a.ip);
    assert!(lines.lines().any(|line| line.contains(&syn.0) && line.contains(&syn.1)), "{lines}");
    assert!(lines.lines().any(|line| line.contains(&answer) && line.contains("Flags [S.]")), "{lines}");
    assert!(!lines.contains("UDP, length"), "only what was chosen: {lines}");
    let bytes = |from: Ipv4Addr| {
        let of = lines.lines().filter_map(|line| line.split(" | ").nth(1));
        let lengths = of.filter(|inner| inner.starts_with(&format!("{from}.")));
        lengths
            .filter_map(|inner| inner.split("length ").nth(1)?.split(',').next()?.parse::<usize>().ok())
            .sum::<usize>()
    };
    assert!(bytes(a.ip) >= sent.len() && bytes(b.ip) >= sent.len(), "{} {}", bytes(a.ip), bytes(b.ip));
    assert!(last.contains("of them taken in by the fast path; 0 frames dropped"), "{last}");
    let (lines, _) = end(other, silent);
    assert_eq!(lines, "", "nothing is the stranger's");
    end(two, heard);
    let read = std::process::Command::new("tcpdump").args(["-nr", file.to_str().unwrap()]).output().unwrap();
    let text = String::from_utf8(read.stdout).unwrap();
    for words in [
        &syn.1,
        &format!("IP {}.80 > {}.", b.ip, a.ip),
        &format!("IP {here}.8285 > {peer}.8285: UDP"),
        "UDP, length 8",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn a_trace_goes_by_the_fast_path_too() {
    let scene = Scene::new(ON);
    let (pod, peer) = (scene.pods[1].ip, scene.lab.hosts[1].ip);
    let before = scene.daemons[0].metric(super::fast::OUT);
    trace(&scene.daemons[0], pod, None, &["ok   tunnel", "ok   bridge", "ok   pod", "ok   size"]);
    assert!(scene.daemons[0].metric(super::fast::OUT) >= before + 4, "the kernel carried its questions");
    let nobody = Ipv4Addr::from(u32::from(pod) + 40);
    trace(
        &scene.daemons[0],
        nobody,
        Some("pod"),
        &["ok   tunnel", &format!("there is no pod {nobody} on {peer}")],
    );
    trace(&scene.daemons[0], Ipv4Addr::new(10, 5, 0, 9), Some("lease"), &["no lease covers 10.5.0.9"]);
}

/// A flanneld that is dead is no reason for packets to die: its kernel carries them until the lease's end, and the trace says what is.
#[test]
fn a_dead_flanneld_whose_kernel_carries_on_is_passed() {
    let mut scene = Scene::new(ON);
    scene.daemons[1].end(Signal::SIGKILL);
    trace(&scene.daemons[0], scene.pods[1].ip, None, &["ok   tunnel", "ok   pod", "ok   size"]);
}

#[test]
fn a_filtered_port_and_a_black_hole_are_found() {
    let scene = Scene::new(ON);
    the_way_is_known_to_be_wide();
    scene.lab.drop_between("ip protocol udp ip length > 1400");
    let words = ["ok   pod", "1472 bytes vanish and nobody tells, 1372 pass", "1500 vanish, 1400 pass"];
    trace(&scene.daemons[0], scene.pods[1].ip, Some("size"), &words);
    drop(scene);
    let scene = Scene::new(ON);
    scene.lab.drop_between("udp dport 8285");
    let words =
        ["ok   host", "nothing comes back by UDP 8285: it is filtered on the way", "3 packets out, 0 in"];
    trace(&scene.daemons[0], scene.pods[1].ip, Some("tunnel"), &words);
}

/// Something between the hosts rewrites the sender, as NAT does: the answers come, and are refused here.
#[test]
fn answers_from_another_sender_than_the_lease_says_are_told() {
    for flags in BOTH {
        let scene = Scene::new(flags);
        let peer = scene.lab.hosts[1].ip;
        let rule = format!(
            "table bridge nat {{ chain pass {{ type filter hook forward priority 0; ip saddr {peer} udp sport 8285 udp sport set 9000; }}; }}"
        );
        run_in(scene.lab.switch(), || nft::apply(&rule)).unwrap().unwrap();
        let words = ["ok   host", "this host drops what comes: in Sender", "3 packets out, 0 in"];
        trace(&scene.daemons[0], scene.pods[1].ip, Some("tunnel"), &words);
    }
}
