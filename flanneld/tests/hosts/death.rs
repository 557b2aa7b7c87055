//! flanneld dies: nothing leaves in clear, and what comes after it goes on with the same device and the same connections.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hostnet::{Kind, Netlink};
use nix::sys::signal::{Signal, kill};

use super::flannel::Flanneld;
use super::lab::{Host, Lab, Pod, inside, within};
use super::traffic::{answers, dial, echo};
use super::wire::{Capture, in_clear, is_tunnel, udp};

/// Flanneld stays dead for so long.
const ABSENCE: Duration = Duration::from_secs(2);

/// A connection on which small messages go to and fro until it is stopped.
pub struct Talk {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<std::io::Result<()>>,
}

impl Talk {
    /// Begins.
    pub fn start(mut stream: TcpStream) -> Talk {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), rounds.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let number = counted.load(Ordering::Relaxed).to_be_bytes();
                stream.write_all(&number)?;
                let mut back = [0; 8];
                stream.read_exact(&mut back)?;
                assert_eq!(back, number);
                counted.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        });
        Talk { stop, rounds, thread }
    }

    /// Waits until it goes on.
    pub fn goes_on(&self) {
        let until = self.rounds.load(Ordering::Relaxed) + 3;
        within(Duration::from_secs(10), "the connection goes on", || {
            self.rounds.load(Ordering::Relaxed) >= until
        });
    }

    /// Ends it; it must not have broken.
    pub fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap().expect("the connection broke");
    }
}

fn tun(host: &Host) -> u32 {
    inside(host.ns.path(), async || {
        Netlink::connect().unwrap().link_by_name("flannel0").await.unwrap().expect("flannel0 is gone").index
    })
}

/// Sends datagrams from one pod to the other for a while.
pub fn chatter(from: &Pod, to: &Pod, time: Duration) {
    let (socket, end) = (udp(from.ns.path(), (from.ip, 0)), Instant::now() + time);
    while Instant::now() < end {
        // Where it goes is what the capture tells; an error is an answer by ICMP to an earlier one.
        let _ = socket.send_to(b"secret of a pod", (to.ip, 9));
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn dies_and_comes_back(signal: Signal) {
    let (lab, mut daemons, [a, b]) = Lab::pair();
    echo(&b, 80);
    let talk = Talk::start(dial(a.ns.path(), b.ip, 80).unwrap());
    talk.goes_on();
    let (device, subnet) = (tun(&lab.hosts[0]), daemons[0].subnet());
    let clear = Capture::wire(&lab, 0, in_clear);

    for absence in [Duration::ZERO, ABSENCE] {
        let died = Instant::now();
        daemons[0].end(signal);
        chatter(&a, &b, absence);
        assert_eq!(tun(&lab.hosts[0]), device, "the device outlives the daemon");
        let started = Instant::now();
        daemons[0] = Flanneld::start(&lab, 0, &[]);
        let ready = started.elapsed();
        talk.goes_on();
        let (absent, back) = (started - died, died.elapsed());
        println!(
            "{signal}: absent for {absent:?}, ready {ready:?} after its start, the connection went on after {back:?}"
        );
    }
    assert_eq!((tun(&lab.hosts[0]), daemons[0].subnet()), (device, subnet));
    talk.end();
    let clear = clear.stop();
    assert!(clear.frames > 0, "the capture sees the wire");
    assert_eq!(clear.kept.len(), 0, "in clear: {:02x?}", clear.kept.first());
    // The capture would have seen it: without device and route, packets do leave in clear.
    drop(daemons);
    let clear = Capture::wire(&lab, 0, in_clear);
    inside(lab.hosts[0].ns.path(), async || {
        let netlink = Netlink::connect().unwrap();
        let routes = netlink.routes().await.unwrap();
        for route in routes.iter().filter(|r| r.dst.to_string() == "10.5.0.0/16" && r.kind != Kind::Other) {
            netlink.delete_route(route).await.unwrap();
        }
    });
    chatter(&a, &b, Duration::from_millis(100));
    assert!(!clear.stop().kept.is_empty(), "the capture is blind");
}

#[test]
fn killed_it_leaks_nothing_and_connections_survive() {
    dies_and_comes_back(Signal::SIGKILL);
}

#[test]
fn terminated_it_leaks_nothing_and_connections_survive() {
    dies_and_comes_back(Signal::SIGTERM);
}

/// Without a device, too: it is deleted while the daemon is dead.
#[test]
fn without_a_device_packets_are_refused_not_leaked() {
    let (lab, mut daemons, [a, b]) = Lab::pair();
    daemons[0].end(Signal::SIGKILL);
    let device = tun(&lab.hosts[0]);
    let clear = Capture::wire(&lab, 0, in_clear);
    inside(lab.hosts[0].ns.path(), async || Netlink::connect().unwrap().delete_link(device).await.unwrap());
    chatter(&a, &b, Duration::from_millis(500));
    daemons[0] = Flanneld::start(&lab, 0, &[]);
    within(Duration::from_secs(5), "the pods talk again", || answers(&a, &b));
    assert_eq!(clear.stop().kept.len(), 0);
}

/// Paused for longer than its lease lasts, and somebody else has the subnet by then: what waited in the device meanwhile is not sent.
/// Go flannel would fail here: it forwards on whatever its clock says, and renews by a plain put over the new owner.
#[test]
fn paused_beyond_its_lease_it_sends_nothing_for_it_any_more() {
    const TTL: u64 = 4;
    let lab = Lab::with_hosts(3);
    let first = Flanneld::start(&lab, 0, &["--subnet-lease-ttl", &TTL.to_string()]);
    let second = Flanneld::start(&lab, 1, &[]);
    let (a, b) = (lab.pod(0, &first), lab.pod(1, &second));
    first.wait_for("flannel_leases", 2);
    within(Duration::from_secs(5), "the pods talk", || answers(&a, &b));
    let subnet = first.subnet().0;

    kill(first.pid(), Signal::SIGSTOP).unwrap();
    second.wait_for("flannel_leases", 1);
    lab.lease(&format!("{}-24", subnet.network()), lab.hosts[2].ip, 600);
    second.wait_for("flannel_leases", 2);
    let sent = Capture::wire(&lab, 0, is_tunnel);
    chatter(&a, &b, Duration::from_millis(150));
    kill(first.pid(), Signal::SIGCONT).unwrap();
    within(Duration::from_secs(10), "it has another subnet", || first.subnet().0 != subnet);
    assert!(first.dropped("out", "NoLease") > 50, "what waited was dropped");
    let sent = sent.stop().kept;
    let ours: Vec<_> = sent.iter().filter(|p| p[28 + 12..28 + 15] == a.ip.octets()[..3]).collect();
    assert_eq!(ours.len(), 0, "of {}: {:02x?}", sent.len(), ours.first());
    let owner = lab.etcd(async |mut client| {
        let key = format!("{}{}-24", super::lab::SUBNETS, subnet.network());
        client.get(key, None).await.unwrap().kvs()[0].value_str().unwrap().to_owned()
    });
    assert!(owner.contains(&lab.hosts[2].ip.to_string()), "the new owner is left alone: {owner}");
}
