//! A million datagrams of nonsense: flanneld stays, and stays small.

use std::fs;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::fast::{IN, ON};
use super::lab::{Lab, within};
use super::traffic::answers;
use super::wire::{Capture, PORT, inner, udp};

const DATAGRAMS: u64 = 1_000_000;
/// As long as the sender pauses for a millisecond after so many, the receiver's socket does not overflow by much.
const BURST: u64 = 64;
/// What memory may grow by, in kilobytes.
const GROWTH: u64 = 4096;
const SEED: u64 = 8285;

/// Random bytes, or a packet that would be let in but for some changed bytes or a wrong length.
fn nonsense(random: &mut SmallRng, good: &[u8]) -> Vec<u8> {
    if random.random_bool(0.3) {
        let mut bytes = vec![0; random.random_range(0..3000)];
        random.fill(&mut bytes[..]);
        return bytes;
    }
    let mut bytes = good.to_vec();
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..20);
        bytes[at] = random.random();
    }
    match random.random_range(0..4) {
        0 => bytes.truncate(random.random_range(0..bytes.len())),
        1 => bytes.resize(random.random_range(0..60_000), 7),
        // No hop left, or the last one.
        2 => {
            bytes = {
                let mut bytes = good.to_vec();
                bytes[8] = random.random_range(0..2);
                bytes
            }
        }
        _ => {}
    }
    bytes
}

fn rss(pid: nix::unistd::Pid) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn nonsense_neither_ends_it_nor_makes_it_grow() {
    nonsense_to(&[]);
}

/// The kernel's program judges the same, and leaves the odd ones to flanneld.
#[test]
fn nonsense_gets_no_further_by_the_fast_path() {
    nonsense_to(ON);
}

fn nonsense_to(flags: &[&str]) {
    let (lab, mut daemons, [a, b]) = Lab::pair_with(flags);
    within(Duration::from_secs(5), "the pods talk", || answers(&a, &b));
    // A peer, so that what it sends gets as far as can be.
    lab.lease("10.5.200.0-24", lab.hosts[2].ip, 600);
    daemons[0].wait_for("flannel_leases", 3);
    let evil = udp(lab.hosts[2].ns.path(), (lab.hosts[2].ip, PORT));
    let good = inner(std::net::Ipv4Addr::new(10, 5, 200, 2), a.ip, b"evil");
    let taken = r#"flannel_packets_total{direction="in"}"#;
    let pod = Capture::start(a.ns.path(), "eth0", |ip| ip[8] == 0 || ip[8] == 255);
    let before = daemons[0].all_dropped() + daemons[0].metric(taken);
    let (mut random, mut small) = (SmallRng::seed_from_u64(SEED), 0);
    for n in 0..DATAGRAMS {
        evil.send_to(&nonsense(&mut random, &good), (lab.hosts[0].ip, PORT)).unwrap();
        if n % BURST == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        if n == DATAGRAMS / 10 {
            small = rss(daemons[0].pid());
        }
    }
    within(Duration::from_secs(5), "the pods still talk", || answers(&a, &b));
    let seen = daemons[0].all_dropped() + daemons[0].metric(taken) - before;
    let grown = rss(daemons[0].pid()).saturating_sub(small);
    println!(
        "seed {SEED}: {seen} of {DATAGRAMS} datagrams were judged, memory grew by {grown} kB from {small} kB"
    );
    assert!(daemons[0].is_running());
    assert!(seen > DATAGRAMS / 2, "most have to arrive for this to say anything");
    assert!(grown < GROWTH, "{grown} kB");
    for reason in ["Short", "Version", "Length", "Truncated", "Ttl", "Sender", "Destination"] {
        assert!(daemons[0].dropped("in", reason) > 0, "{reason}");
    }
    assert_eq!(pod.stop().kept.len(), 0, "without a hop left, or with one too many");
    assert_eq!(daemons[0].metric(IN) > 1000, flags == ON, "{}", daemons[0].metric(IN));
}
