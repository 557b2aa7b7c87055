//! Nobody has the destination: the sender learns it at once.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::flannel::Flanneld;
use super::lab::{Lab, within};
use super::traffic::{dial, echo};
use super::wire::Capture;

/// Far from TCP's first retransmission, which comes after a second.
const AT_ONCE: Duration = Duration::from_millis(500);
/// An answer that comes while `connect` is still at work counts for less: the kernel notes it, sends once more after a second, and fails by
/// the second answer (`tcp_v4_err` on a socket that is in use). So many connections may be caught by that.
const TOO_EARLY: usize = 1;

/// How long it takes until a connection is refused for want of a way.
fn refused(ns: &Path, to: Ipv4Addr) -> Duration {
    let start = Instant::now();
    let error = dial(ns, to, 80).expect_err("somebody answered");
    let kinds = [ErrorKind::NetworkUnreachable, ErrorKind::HostUnreachable];
    assert!(kinds.contains(&error.kind()), "after {:?}: {error}", start.elapsed());
    start.elapsed()
}

fn is_unreachable(ip: &[u8]) -> bool {
    ip[9] == 1 && ip[20] == 3
}

/// Go flannel would fail here: its ICMP answer is a martian to the kernel and reaches nobody; the connection times out.
#[test]
fn a_connection_to_no_lease_fails_at_once() {
    let (lab, daemons, [a, _b]) = Lab::pair();
    let nobody = Ipv4Addr::new(10, 5, 255, 9);
    let (subnet, _) = daemons[0].subnet();
    let pod = Capture::start(a.ns.path(), "eth0", is_unreachable);
    let mut times: Vec<Duration> = (0..20).map(|_| refused(a.ns.path(), nobody)).collect();
    times.sort();
    let answers = pod.stop().kept;
    println!("no lease: 20 connections failed after {:?} to {:?}", times[0], times[19]);
    assert!(times[20 - 1 - TOO_EARLY] < AT_ONCE, "{times:?}");
    assert!(answers.len() >= 20 && answers.iter().all(|p| p[12..16] == subnet.network().octets()));
    let mut host: Vec<Duration> = (0..5).map(|_| refused(lab.hosts[0].ns.path(), nobody)).collect();
    host.sort();
    assert!(host[5 - 1 - TOO_EARLY] < AT_ONCE, "the host's own connections too: {host:?}");
    assert!(daemons[0].dropped("out", "NoRoute") >= 21);
}

#[test]
fn a_lease_that_has_ended_leads_nowhere_at_once() {
    const TTL: u64 = 6;
    let lab = Lab::with_hosts(2);
    let first = Flanneld::start(&lab, 0, &[]);
    // With the kernel's fast path, it would answer until its lease ends.
    let mut second = Flanneld::start(&lab, 1, &["--fast-path=off", "--subnet-lease-ttl", &TTL.to_string()]);
    let (a, b) = (lab.pod(0, &first), lab.pod(1, &second));
    echo(&b, 80);
    first.wait_for("flannel_leases", 2);
    // Renewed beyond its first end.
    std::thread::sleep(Duration::from_secs(TTL + 1));
    drop(dial(a.ns.path(), b.ip, 80).unwrap());
    second.end(Signal::SIGKILL);
    let start = Instant::now();
    let error = dial(a.ns.path(), b.ip, 80).expect_err("nobody carries it");
    assert_eq!(error.kind(), ErrorKind::TimedOut, "the lease still holds: {error}");
    let what = "the lease ends and its route goes";
    within(Duration::from_secs(TTL + 4), what, || first.metric("flannel_leases") == 1);
    println!("the route went {:?} after the daemon died, its lease lasting {TTL} s", start.elapsed());
    let failed = refused(a.ns.path(), b.ip);
    assert!(failed < AT_ONCE, "{failed:?}");
}
