//! Four thousand leases: how long the first listing takes, until when packets go by a change, and that a lookup costs what it costs with ten.

use std::hint::black_box;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use etcd_client::{Client, Txn, TxnOp};
use flanneld::route::Table;

use super::flannel::Flanneld;
use super::lab::{Lab, SUBNETS};
use super::wire::{PORT, udp};

const LEASES: u32 = 4000;
const CHANGES: u32 = 200;
/// From its start on; without optimisation, and on a machine that does other things.
const READY: Duration = Duration::from_secs(4);
/// Of the listing, until packets go by it.
const LISTED: f64 = 1.0;
/// Of 99 in a hundred changes, from before the write to etcd until the peer has a packet.
const CHANGED: Duration = Duration::from_millis(200);
/// Where the kernel's tables are listed for it, three times four thousand entries, and nothing is optimised.
const CHANGED_IN_KERNEL: Duration = Duration::from_secs(1);
/// So many writes go in one transaction.
const AT_ONCE: u32 = 100;

fn subnet(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 1, 0, 0)) + (n << 8))
}

/// A lease as a node with this backend writes it.
fn value(vxlan: bool, ip: Ipv4Addr, n: u32) -> String {
    let [a, b, c, d] = n.to_be_bytes();
    let data = format!(
        r#","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"0e:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}"}}"#
    );
    format!(r#"{{"PublicIP":"{ip}","PublicIPv6":null{}}}"#, if vxlan { &data } else { "" })
}

async fn fill(client: &mut Client, vxlan: bool) {
    for first in (0..LEASES).step_by(AT_ONCE as usize) {
        let put = |n: u32| {
            let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 0)) + n);
            TxnOp::put(format!("{SUBNETS}{}-24", subnet(n)), value(vxlan, ip, n), None)
        };
        let all: Vec<TxnOp> = (first..first + AT_ONCE).map(put).collect();
        client.txn(Txn::new().and_then(all)).await.unwrap();
    }
}

/// Sends to a pod until its host has a packet.
fn arrives(pod: &UdpSocket, to: Ipv4Addr, host: &UdpSocket, start: Instant) -> Duration {
    let mut room = [0; 2000];
    loop {
        // An error is the answer to an earlier one: there was no lease yet.
        let _ = pod.send_to(b"change", (to, 9));
        match host.recv(&mut room) {
            Ok(length) if room[..length].windows(4).any(|part| part == to.octets()) => {
                return start.elapsed();
            }
            Ok(_) => {}
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
            }
        }
        assert!(start.elapsed() < Duration::from_secs(5), "nothing comes for {to}");
    }
}

fn four_thousand(backend: &str, port: u16, most: Duration) {
    let (lab, vxlan) = (Lab::with_hosts(3), backend == "vxlan");
    lab.put(
        "/coreos.com/network/config",
        format!(r#"{{"Network":"10.0.0.0/8","SubnetLen":24,"Backend":{{"Type":"{backend}"}}}}"#),
    );
    lab.etcd(async |mut client| fill(&mut client, vxlan).await);
    let start = Instant::now();
    let daemon = Flanneld::start(&lab, 0, &[]);
    let ready = start.elapsed();
    println!("{backend}: ready {ready:?} after its start");
    assert!(ready < READY);
    daemon.wait_for("flannel_leases", u64::from(LEASES) + 1);
    let converged = || daemon.real_metric("flannel_convergence_seconds_sum");
    println!("{backend}: {LEASES} leases converged in {:.3} s", converged());
    assert!(converged() < LISTED);

    let pod = lab.pod(0, &daemon);
    let from = udp(pod.ns.path(), (pod.ip, 0));
    let host = udp(lab.hosts[2].ns.path(), (lab.hosts[2].ip, port));
    host.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let mut times = lab.etcd(async |mut client| {
        let mut times = Vec::new();
        for n in LEASES..LEASES + CHANGES {
            let (key, value) = (format!("{SUBNETS}{}-24", subnet(n)), value(vxlan, lab.hosts[2].ip, n));
            let start = Instant::now();
            client.put(key, value, None).await.unwrap();
            let to = Ipv4Addr::from(u32::from(subnet(n)) + 2);
            times.push(arrives(&from, to, &host, start));
        }
        times
    });
    times.sort();
    let at = |percent: usize| times[times.len() * percent / 100];
    println!("{backend}: a change is in the data path after {:?} (p50), {:?} (p99)", at(50), at(99));
    assert!(at(99) <= most, "{times:?}");
}

#[test]
fn four_thousand_leases_with_udp() {
    four_thousand("udp", PORT, CHANGED);
}

/// Each is a route and two entries in the kernel.
#[test]
fn four_thousand_leases_with_vxlan() {
    four_thousand("vxlan", 8472, CHANGED_IN_KERNEL);
}

/// Go flannel would fail here: its udp backend searches a list.
#[test]
fn a_lookup_costs_the_same_among_ten_and_four_thousand() {
    const LOOKUPS: u32 = 200_000;
    let nanoseconds = |leases: u32| {
        let hop = |n| SocketAddrV4::new(Ipv4Addr::from(0xac10_0000 + n), PORT);
        let peers = (0..leases).map(|n| (format!("{}/24", subnet(n)).parse().unwrap(), hop(n)));
        let table = Table::new(None, peers);
        let start = Instant::now();
        for n in 0..LOOKUPS {
            assert!(table.lookup(black_box(subnet(n.wrapping_mul(2_654_435_761) % leases))).is_some());
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(LOOKUPS)
    };
    let best = |leases| (0..5).map(|_| nanoseconds(leases)).fold(f64::INFINITY, f64::min);
    let (few, many) = (best(10), best(LEASES));
    println!("a lookup takes {few:.0} ns among 10 leases, {many:.0} ns among {LEASES}");
    assert!(many < 3.0 * few, "{few} {many}");
}
