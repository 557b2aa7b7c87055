//! A flanneld takes the place of another one that runs: no packet is lost. And what a restart costs instead.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use hostnet::Netlink;
use nix::sys::signal::Signal;

use super::flannel::Flanneld;
use super::lab::{Host, Lab, NETWORK, Pod, inside, within};
use super::series::{Outcome, Series};
use super::traffic::answers;

const CONFIG: &str = "/coreos.com/network/config";
/// A connection notices no longer gap; the machine's own noise is part of it.
const GAP: Duration = Duration::from_millis(100);
/// So long packets flow before and after.
const AROUND: Duration = Duration::from_millis(300);

/// Both ways and both protocols, while something happens.
fn during(a: &Pod, b: &Pod, happens: impl FnOnce()) -> [Outcome; 3] {
    let series = [Series::udp(a, b), Series::udp(b, a), Series::tcp(a, b)];
    std::thread::sleep(AROUND);
    happens();
    std::thread::sleep(AROUND);
    series.map(Series::stop)
}

fn pair(config: &str, more: &[&str]) -> (Lab, [Flanneld; 2], [Pod; 2]) {
    let lab = Lab::with_hosts(2);
    lab.put(CONFIG, config);
    let daemons = [0, 1].map(|n| Flanneld::start(&lab, n, more));
    let pods = [0, 1].map(|n| lab.pod(n, &daemons[n]));
    daemons[0].wait_for("flannel_leases", 2);
    daemons[1].wait_for("flannel_leases", 2);
    for host in &lab.hosts {
        patient(host);
    }
    within(Duration::from_secs(5), "the pods talk", || answers(&pods[0], &pods[1]));
    (lab, daemons, pods)
}

/// The device's queue is short, so that a busy daemon drops early; a machine that stalls for a moment would overflow it, upgrade or not.
fn patient(host: &Host) {
    inside(host.ns.path(), async || {
        let netlink = Netlink::connect().unwrap();
        if let Some(device) = netlink.link_by_name("flannel0").await.unwrap() {
            netlink.set_txqlen(device.index, 5000).await.unwrap();
        }
    });
}

fn took_over(daemon: &Flanneld) -> usize {
    daemon.log().matches("took the place of the flanneld").count()
}

/// Starts a flanneld that takes the place of the one that runs; the old one stands by.
fn take_over(lab: &Lab, host: usize, more: &[&str]) -> Flanneld {
    let new = Flanneld::spawn(lab, host, &[&["--take-over"], more].concat());
    let before = took_over(&new);
    within(Duration::from_secs(20), "it has taken over", || took_over(&new) > before);
    new
}

fn no_packet_is_lost(config: &str, more: &[&str]) {
    let (lab, mut daemons, [a, b]) = pair(config, more);
    let idle = during(&a, &b, || std::thread::sleep(AROUND));
    println!("nothing happens: {idle:?}");
    let mut of_tcp = Vec::new();
    for host in [0, 1, 0, 1] {
        let subnet = daemons[host].subnet();
        let mut gaps = during(&a, &b, || {
            let new = take_over(&lab, host, more);
            let mut old = std::mem::replace(&mut daemons[host], new);
            std::thread::sleep(AROUND);
            old.end(Signal::SIGTERM);
        });
        println!("host {host} upgraded: {gaps:?}");
        assert_eq!(gaps.each_ref().map(|outcome| outcome.lost), [0; 3], "host {host}");
        of_tcp.push(gaps[2].gap);
        gaps.sort_by_key(|outcome| outcome.gap);
        assert!(gaps[1].gap <= GAP, "host {host}: {gaps:?}");
        assert_eq!(daemons[host].subnet(), subnet);
        assert!(daemons[host].get("/readyz").unwrap().contains("is ready"), "it has the port now");
    }
    // The machine may stall once; an upgrade that makes a connection wait would do so each time.
    of_tcp.sort();
    assert!(of_tcp[1] <= GAP, "a connection waits: {of_tcp:?}");
    assert_eq!(daemons[0].metric("flannel_leases"), 2);
}

/// Go flannel would fail here: its udp backend carries nothing from the end of one process to the start of the next.
#[test]
fn an_upgrade_loses_no_packet_with_udp() {
    no_packet_is_lost(NETWORK, &[]);
}

/// Each queue and each socket has its own packets, and all of them go on to be read.
#[test]
fn an_upgrade_loses_no_packet_with_several_queues() {
    no_packet_is_lost(NETWORK, &["--datapath-queues=3"]);
}

#[test]
fn an_upgrade_loses_no_packet_with_vxlan() {
    no_packet_is_lost(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#, &[]);
}

/// The lease is renewed by one of the two processes, and by the right one: it lasts a few seconds only.
#[test]
fn old_and_new_do_not_fight_for_the_lease() {
    let lab = Lab::with_hosts(2);
    let short = ["--subnet-lease-ttl", "4"];
    let mut first = Flanneld::start(&lab, 0, &short);
    let second = Flanneld::start(&lab, 1, &[]);
    let (a, b) = (lab.pod(0, &first), lab.pod(1, &second));
    lab.hosts.iter().for_each(patient);
    second.wait_for("flannel_leases", 2);
    within(Duration::from_secs(5), "the pods talk", || answers(&a, &b));
    let subnet = first.subnet();
    let outcomes = during(&a, &b, || {
        let mut old = Vec::new();
        for _ in 0..3 {
            old.push(std::mem::replace(&mut first, take_over(&lab, 0, &short)));
            // The old ones stand by for longer than a lease lasts.
            std::thread::sleep(Duration::from_secs(5));
        }
    });
    println!("three upgrades with a lease of 4 s: {outcomes:?}");
    assert_eq!(outcomes.map(|outcome| outcome.lost), [0; 3]);
    assert_eq!(first.subnet(), subnet);
    let log = first.log();
    assert!(!log.contains("the lease is lost"), "{log}");
    // Those that stood by were killed; nobody was to take their place.
    assert!(first.is_running() && second.metric("flannel_leases") == 2);
}

#[test]
fn a_second_start_by_mistake_says_so_and_disturbs_nothing() {
    let (lab, mut daemons, [a, b]) = pair(NETWORK, &[]);
    let outcomes = during(&a, &b, || {
        for more in [&[][..], &["--subnet-lease-ttl", "60"]] {
            let mut second = Flanneld::spawn(&lab, 0, more);
            within(Duration::from_secs(5), "it ends", || !second.is_running());
        }
        // With another subnet file it is for another network, and has to have one.
        let other = lab.dir.path().join("other.env");
        let mut second =
            Flanneld::spawn(&lab, 0, &["--subnet-file", other.to_str().unwrap(), "--healthz-port=8082"]);
        within(Duration::from_secs(10), "it ends", || !second.is_running());
    });
    assert_eq!(outcomes.map(|outcome| outcome.lost), [0; 3]);
    let log = daemons[0].log();
    assert_eq!(log.matches("another flanneld (process").count(), 2, "{log}");
    assert!(
        log.contains("10.5.0.0/16 overlaps 10.5.0.0/16, which another flanneld on this host carries"),
        "{log}"
    );
    assert!(daemons[0].is_running() && daemons[0].get("/readyz").unwrap().contains("is ready"));
}

/// The new version is broken and dies: the old one, which stands by, carries packets again.
#[test]
fn if_the_new_one_dies_the_old_one_goes_on() {
    let (lab, daemons, [a, b]) = pair(NETWORK, &[]);
    let subnet = daemons[0].subnet();
    let outcomes = during(&a, &b, || {
        let mut new = take_over(&lab, 0, &[]);
        std::thread::sleep(AROUND);
        let died = Instant::now();
        new.end(Signal::SIGKILL);
        within(Duration::from_secs(5), "the old one has the port", || daemons[0].get("/readyz").is_some());
        daemons[0].wait_ready();
        println!("ready again {:?} after the new one died", died.elapsed());
    });
    println!("the new one was killed: {outcomes:?}");
    assert_eq!(outcomes[2].lost, 0, "the connection survives");
    assert_eq!(daemons[0].subnet(), subnet);
    within(Duration::from_secs(2), "the pods talk", || answers(&a, &b));
}

/// Asks the first host's flanneld something by its socket, and lets go of it after the answer's first byte.
fn ask(lab: &Lab, question: &str) {
    let mut stream = UnixStream::connect(lab.dir.path().join("0.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(question.as_bytes()).unwrap();
    let _ = stream.read(&mut [0]);
}

/// The new version is so broken that it dies before it carries anything.
#[test]
fn a_successor_that_gives_up_costs_nothing() {
    let (lab, daemons, [a, b]) = pair(NETWORK, &[]);
    let carrier = format!(r#"{{"listen":"{}:8285","level":"Offload"}}"#, lab.hosts[0].ip);
    let outcomes = during(&a, &b, || {
        for n in 1..=5 {
            ask(
                &lab,
                &format!(
                    "take-over {{\"version\":\"9\",\"health\":\"127.0.0.1:8081\",\"carrier\":{carrier}}}\n"
                ),
            );
            let given_up =
                || daemons[0].log().matches("the process that wanted to take over is gone").count();
            within(Duration::from_secs(5), "it is noticed", || given_up() == n);
        }
        for nonsense in ["take-over {}\n", "take-over\n", "\n", "\u{0}\u{1}\n", "what?\n"] {
            ask(&lab, nonsense);
        }
        daemons[0].wait_ready();
    });
    println!("five that gave up: {outcomes:?}");
    assert_eq!(outcomes.map(|outcome| outcome.lost), [0; 3]);
    assert_eq!(daemons[0].log().matches("another flanneld takes over").count(), 5);
}

/// As a readiness probe asks: the flanneld of the same container is meant, not one of another container with the same directory.
#[test]
fn readiness_is_asked_of_the_own_container() {
    let lab = Lab::with_hosts(1);
    let probe = |wrapper: &[&str]| {
        let flanneld = env!("CARGO_BIN_EXE_flanneld");
        let file = lab.dir.path().join("0.env");
        let line = [wrapper, &[flanneld, "--ready", "--subnet-file", file.to_str().unwrap()]].concat();
        std::process::Command::new(line[0]).args(&line[1..]).status().unwrap().code()
    };
    assert_eq!(probe(&[]), Some(1), "none runs");
    let mut daemon = Flanneld::start(&lab, 0, &[]);
    assert_eq!(probe(&[]), Some(0));
    assert_eq!(probe(&["unshare", "--pid", "--fork"]), Some(1), "of another container");
    daemon.end(Signal::SIGKILL);
    assert_eq!(probe(&[]), Some(1), "it is dead");
}

/// With other settings there is nothing to go on with: the old one lets go first.
#[test]
fn other_settings_are_taken_over_too() {
    let (lab, mut daemons, [a, b]) = pair(NETWORK, &[]);
    let outcomes = during(&a, &b, || {
        let new = take_over(&lab, 0, &["--datapath=batch", "--healthz-port=8082"]);
        std::mem::replace(&mut daemons[0], new).end(Signal::SIGTERM);
    });
    println!("other settings: {outcomes:?}");
    assert_eq!(outcomes[2].lost, 0, "the connection survives");
    within(Duration::from_secs(2), "the pods talk", || answers(&a, &b));
}

/// As kubelet replaces a pod without surge: the old one ends, and then the new one starts.
#[test]
fn a_restart_is_a_short_gap() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let (lab, mut daemons, [a, b]) = pair(NETWORK, &[]);
        let outcomes = during(&a, &b, || {
            let ended = Instant::now();
            daemons[0].end(signal);
            let gone = ended.elapsed();
            daemons[0] = Flanneld::start(&lab, 0, &[]);
            println!(
                "{signal}: ended within {gone:?}, the next one ready {:?} later",
                ended.elapsed() - gone
            );
        });
        println!("{signal} and a start: {outcomes:?}");
        assert_eq!(outcomes[2].lost, 0, "the connection survives");
        assert!(outcomes[2].gap < Duration::from_secs(2), "{outcomes:?}");
    }
}
