//! etcd falls silent without hanging up: what does not need it goes on, and a lease ends when it ends.

use std::time::{Duration, Instant};

use hostnet::netns::run_in;
use hostnet::nft::{self, Family};
use nix::sys::signal::{Signal, kill};

use super::flannel::Flanneld;
use super::lab::{Lab, within};
use super::traffic::answers;

#[test]
fn a_silent_etcd_delays_neither_mending_nor_the_end_of_a_lease() {
    const TTL: Duration = Duration::from_secs(6);
    let lab = Lab::with_hosts(2);
    let ttl = TTL.as_secs().to_string();
    let short = Flanneld::start(&lab, 0, &["--subnet-lease-ttl", &ttl]);
    let long = Flanneld::start(&lab, 1, &[]);
    let (a, b) = (lab.pod(0, &short), lab.pod(1, &long));
    within(Duration::from_secs(5), "the pods talk", || answers(&a, &b));

    let silent = Instant::now();
    lab.signal_etcd(Signal::SIGSTOP);
    let damage = "delete table ip flannel-ipv4";
    run_in(lab.hosts[0].ns.path(), || nft::apply(damage)).unwrap().unwrap();
    within(Duration::from_secs(2), "the rules are mended", || {
        run_in(lab.hosts[0].ns.path(), || nft::has_table(Family::Ip, "flannel-ipv4")).unwrap().unwrap()
    });
    within(TTL, "nothing is sent for a lease that may be somebody else's", || {
        answers(&a, &b);
        short.dropped("out", "NoLease") > 0
    });
    println!(
        "nothing is sent any more {:?} after etcd fell silent, the lease lasting {TTL:?}",
        silent.elapsed()
    );
    assert!(!short.get("/readyz").unwrap().contains("is ready"));
    assert_eq!(long.dropped("out", "NoLease"), 0, "a lease of a day is not over");
    assert!(long.get("/readyz").unwrap().contains("is ready"));

    // Longer than any question is waited for.
    std::thread::sleep(Duration::from_secs(6).saturating_sub(silent.elapsed()));
    lab.signal_etcd(Signal::SIGCONT);
    let took = within(Duration::from_secs(15), "the pods talk again", || answers(&a, &b));
    println!("the pods talk again {took:?} after etcd does");
}

/// What happened while nobody could be told is found in the listing: the own subnet is another's now, and a peer has moved.
/// Go flannel would fail here: a listing after a gap tells it of no peer that kept its subnet and has moved.
#[test]
fn what_happened_behind_its_back_is_found_out() {
    let mut lab = Lab::with_hosts(3);
    let daemons = [0, 1].map(|n| Flanneld::start(&lab, n, &[]));
    let [mine, peer] = [0, 1].map(|n: usize| daemons[n].subnet().0);
    daemons[0].wait_for("flannel_leases", 2);
    kill(daemons[0].pid(), Signal::SIGSTOP).unwrap();
    lab.restart_etcd();
    for subnet in [mine, peer] {
        lab.lease(&format!("{}-24", subnet.network()), lab.hosts[2].ip, 600);
    }
    kill(daemons[0].pid(), Signal::SIGCONT).unwrap();
    within(Duration::from_secs(10), "it has another subnet", || daemons[0].subnet().0 != mine);
    let moved = format!("subnet={peer} via={}", lab.hosts[2].ip);
    within(Duration::from_secs(2), "the peer has moved", || daemons[0].log().contains(&moved));
    daemons[1].wait_for("flannel_leases", 4);
}
