//! Strangers, neighbours and other processes send packets into the tunnel: what isn't theirs to send is dropped and counted.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::fast::{BOTH, IN, ON};
use super::flannel::Flanneld;
use super::lab::{Lab, Pod, within};
use super::traffic::answers;
use super::wire::{Capture, PORT, inner, udp};

/// Of each kind.
const EACH: u64 = 200;
const MARK: &[u8] = b"injected";

/// Sends the same inner packet again and again, slowly enough for the receiver's socket.
fn send(from: &UdpSocket, to: Ipv4Addr, packet: &[u8]) {
    for n in 0..EACH {
        from.send_to(packet, (to, PORT)).unwrap();
        if n % 50 == 49 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

struct Scene {
    daemons: [Flanneld; 2],
    pods: [Pod; 2],
    /// Last, as it takes the others' files with it.
    lab: Lab,
}

impl Scene {
    fn new(flags: &[&str]) -> Scene {
        let (lab, daemons, pods) = Lab::pair_with(flags);
        // The programs are there before anybody attacks.
        within(Duration::from_secs(5), "the pods talk", || answers(&pods[0], &pods[1]));
        Scene { daemons, pods, lab }
    }

    /// Sends packets with these inner sources and destinations to the first host, and says how many reached its pod. All others
    /// have to be counted as dropped for this reason, and no other counter may move.
    fn attack(&self, from: &UdpSocket, packets: &[(Ipv4Addr, Ipv4Addr)], reason: &str) -> usize {
        let (victim, expected) = (&self.daemons[0], EACH * packets.len() as u64);
        let before = (victim.dropped("in", reason), victim.all_dropped());
        let taken = r#"flannel_packets_total{direction="in"}"#;
        let carried = victim.metric(taken);
        // Only what was sent: a pod's refusal by ICMP quotes it.
        let marked = |ip: &[u8]| ip[9] == 17 && ip.ends_with(MARK);
        let host = Capture::start(self.lab.hosts[0].ns.path(), "flannel0", marked);
        let pod = Capture::start(self.pods[0].ns.path(), "eth0", marked);
        for (source, destination) in packets {
            send(from, self.lab.hosts[0].ip, &inner(*source, *destination, MARK));
        }
        within(Duration::from_secs(5), "all are counted", || {
            victim.all_dropped() - before.1 + victim.metric(taken) - carried >= expected
        });
        let (host, pod) = (host.stop(), pod.stop().kept.len());
        let dropped = victim.dropped("in", reason) - before.0;
        assert_eq!(dropped, victim.all_dropped() - before.1, "for {reason} and nothing else");
        assert_eq!(host.kept.len() as u64 + dropped, expected, "each is delivered or counted");
        pod
    }
}

/// Go flannel would fail here: it looks neither at who sent a datagram nor at the source inside.
#[test]
fn what_a_stranger_injects_is_dropped_and_counted() {
    BOTH.iter().for_each(|flags| stranger(flags));
}

fn stranger(flags: &[&str]) {
    let scene = Scene::new(flags);
    let (a, b) = (scene.pods[0].ip, scene.pods[1].ip);
    let stranger = udp(scene.lab.hosts[2].ns.path(), (scene.lab.hosts[2].ip, PORT));
    let nobody = Ipv4Addr::new(10, 5, 255, 9);
    let sources = [b, nobody, a, scene.lab.hosts[1].ip, Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::LOCALHOST];
    assert_eq!(scene.attack(&stranger, &sources.map(|source| (source, a)), "Sender"), 0);
}

#[test]
fn another_process_of_the_next_hop_is_a_stranger_too() {
    for flags in BOTH {
        let scene = Scene::new(flags);
        let other_port = udp(scene.lab.hosts[1].ns.path(), (scene.lab.hosts[1].ip, 0));
        assert_eq!(scene.attack(&other_port, &[(scene.pods[1].ip, scene.pods[0].ip)], "Sender"), 0);
    }
}

/// The second host turns evil: its flanneld is replaced by the test, with the right address and port.
#[test]
fn a_neighbour_speaks_for_its_own_pods_only_and_reaches_pods_only() {
    BOTH.iter().for_each(|flags| neighbour(flags));
}

fn neighbour(flags: &[&str]) {
    let mut scene = Scene::new(flags);
    let third = Ipv4Addr::new(10, 5, 200, 2);
    scene.lab.lease("10.5.200.0-24", scene.lab.hosts[2].ip, 600);
    scene.daemons[0].wait_for("flannel_leases", 3);
    scene.daemons[1].end(Signal::SIGKILL);
    let neighbour = udp(scene.lab.hosts[1].ns.path(), (scene.lab.hosts[1].ip, PORT));
    let (a, b) = (scene.pods[0].ip, scene.pods[1].ip);

    assert_eq!(scene.attack(&neighbour, &[(third, a)], "Sender"), 0, "the third host's pod as source");
    let elsewhere = [
        scene.lab.hosts[0].ip,
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::new(169, 254, 169, 254),
        Ipv4Addr::new(224, 0, 0, 1),
        Ipv4Addr::BROADCAST,
        third,
    ];
    assert_eq!(scene.attack(&neighbour, &elsewhere.map(|to| (b, to)), "Destination"), 0);
    assert_eq!(scene.attack(&neighbour, &[(b, a)], "Sender"), EACH as usize, "its own pods are heard");
    let by_kernel = scene.daemons[0].metric(IN);
    assert_eq!(by_kernel >= EACH, flags == ON, "{by_kernel}");
}
