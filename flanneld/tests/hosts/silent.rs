//! etcd falls silent without hanging up: what does not need it goes on, and a lease ends when it ends.

use std::time::{Duration, Instant};

use hostnet::netns::run_in;
use hostnet::nft::{self, Family};
use nix::sys::signal::{Signal, kill};

use super::flannel::Flanneld;
use super::lab::{Data, Lab, SUBNETS, within};
use super::series::Series;
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

/// Packets need no etcd: not while it hangs, not while it is gone, and not when it comes back.
#[test]
fn minutes_without_etcd_cost_no_packet() {
    const MINUTE: Duration = Duration::from_secs(60);
    let (mut lab, daemons, [a, b]) = Lab::pair();
    within(Duration::from_secs(5), "the pods talk", || answers(&a, &b));
    let series = [Series::udp(&a, &b), Series::tcp(&b, &a)];
    lab.signal_etcd(Signal::SIGSTOP);
    std::thread::sleep(MINUTE);
    lab.stop_etcd();
    std::thread::sleep(MINUTE);
    lab.start_etcd();
    std::thread::sleep(Duration::from_secs(3));
    let outcomes = series.map(Series::stop);
    println!("two minutes without etcd: {outcomes:?}");
    assert_eq!(outcomes.map(|outcome| outcome.lost), [0; 2]);
    for daemon in &daemons {
        assert!(daemon.get("/readyz").unwrap().contains("is ready") && daemon.metric("flannel_leases") == 2);
    }
}

/// The line to etcd is cut so that nobody hears of it; meanwhile a peer moves, and the history is compacted.
/// Go flannel would fail here: a listing after a gap tells it of no peer that kept its subnet and has moved.
#[test]
fn after_a_cut_line_what_happened_behind_it_is_known_soon() {
    let (lab, daemons, _pods) = Lab::pair();
    let peer = daemons[1].subnet().0;
    let cut = |rule: &str| run_in(lab.hosts[0].ns.path(), || nft::apply(rule)).unwrap().unwrap();
    let drop = "tcp dport 2379 drop\n tcp sport 2379 drop";
    cut(&format!(
        "table inet cut {{\n chain in {{ type filter hook input priority -300; {drop}; }}\n chain out {{ type filter hook output priority -300; {drop}; }}\n}}\n"
    ));
    // Longer than it takes to find out that nobody answers.
    std::thread::sleep(Duration::from_secs(12));
    lab.lease(&format!("{}-24", peer.network()), lab.hosts[2].ip, 600);
    lab.etcd(async |mut client| {
        let revision = client.put("other", "x", None).await.unwrap().header().unwrap().revision();
        client.compact(revision, None).await.unwrap();
    });
    assert!(daemons[0].get("/readyz").unwrap().contains("is ready"));
    cut("delete table inet cut");
    let moved = format!("subnet={peer} via={}", lab.hosts[2].ip);
    let took = within(Duration::from_secs(10), "the peer has moved", || daemons[0].log().contains(&moved));
    println!("known {took:?} after the line is mended");
}

/// etcd is restored from a backup: a lease that was taken since is unknown to it. Its owner asserts it again by compare before somebody
/// else has it, and no packet waits for that. Go flannel would fail here: it watches on from a revision that is yet to come, and renews
/// after 23 hours.
#[test]
fn a_lease_survives_that_etcd_is_set_back() {
    let mut lab = Lab::with_hosts(3);
    let first = Flanneld::start(&lab, 0, &[]);
    lab.etcd_data(Data::Save);
    let second = Flanneld::start(&lab, 1, &[]);
    let subnets = [first.subnet(), second.subnet()];
    for n in 0..20 {
        lab.put("other", n.to_string());
    }
    let (a, b) = (lab.pod(0, &first), lab.pod(1, &second));
    within(Duration::from_secs(10), "the pods talk", || answers(&a, &b));
    let series = [Series::udp(&a, &b), Series::udp(&b, &a)];
    lab.etcd_data(Data::Back);
    let back = Instant::now();
    let known = |lab: &Lab| {
        let key = format!("{SUBNETS}{}-24", subnets[1].0.network());
        lab.etcd(async |mut client| client.get(key, None).await.unwrap().count() == 1)
    };
    within(Duration::from_secs(10), "the lease is there again", || known(&lab));
    println!("the lease is there again {:?} after etcd is", back.elapsed());
    std::thread::sleep(Duration::from_secs(2));
    let outcomes = series.map(Series::stop);
    println!("etcd set back: {outcomes:?}");
    // The first host sees the lease gone for a moment, and sends nothing there meanwhile; the second one never stops.
    assert!(outcomes.iter().all(|outcome| outcome.gap < Duration::from_secs(3)), "{outcomes:?}");
    assert!(second.log().contains("etcd was set back") && !second.log().contains("the lease is lost"));
    assert_eq!([first.subnet(), second.subnet()], subnets);
    first.wait_for("flannel_leases", 2);
    within(Duration::from_secs(2), "the pods talk", || answers(&a, &b));
    // A third node gets another subnet.
    let third = Flanneld::start(&lab, 2, &[]);
    assert!(subnets.iter().all(|subnet| subnet.0 != third.subnet().0));
}
