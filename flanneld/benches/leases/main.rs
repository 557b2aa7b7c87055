//! Thousands of leases in a real etcd: what a listing takes, until when a change is in the table that packets are looked up in,
//! and what a lookup costs. `make bench-leases`; needs `etcd` in PATH.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use flanneld::config::network::NetworkConfig;
use flanneld::lease::Lease;
use flanneld::lease::etcd::{Access, Etcd};
use flanneld::lease::follow::Follower;
use flanneld::lease::store::LeaseStore;
use flanneld::route::{Handle, Table};
use futures::StreamExt;
use futures::stream::iter;

const LEASES: u32 = 4000;
const CHANGES: u32 = 200;
const LOOKUPS: u32 = 1_000_000;

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn etcd(data: &std::path::Path) -> (Server, Etcd) {
    let (client, peer) = (format!("http://127.0.0.1:{}", port()), format!("http://127.0.0.1:{}", port()));
    let cluster = format!("default={peer}");
    let child = Command::new("etcd")
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &cluster, "--unsafe-no-fsync", "--data-dir"])
        .arg(data)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd is missing (package etcd-server)");
    let server = Server(child);
    let access = Access { endpoints: vec![client], prefix: "/bench".to_owned(), ..Access::default() };
    let store = Etcd::connect(&access).await.unwrap();
    while store.config().await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (server, store)
}

fn subnet(index: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + ((index + 1) << 8))
}

fn value(index: u32) -> String {
    format!(r#"{{"PublicIP":"{}","PublicIPv6":null}}"#, Ipv4Addr::from(0xac10_0000 + index))
}

/// As the udp backend makes it of the picture.
fn table(follower: &Follower) -> Table {
    let own = "10.255.0.0/24".parse().ok();
    let next_hop = |lease: &Lease| Some(SocketAddrV4::new(lease.public.ipv4()?, 8285));
    Table::new(own, follower.leases().filter_map(|lease| Some((lease.subnets.ipv4()?, next_hop(lease)?))))
}

fn nanoseconds_a_lookup(leases: u32) -> f64 {
    let peers = (0..leases).map(|index| {
        let to = SocketAddrV4::new(Ipv4Addr::from(0xac10_0000 + index), 8285);
        (format!("{}/24", subnet(index)).parse().unwrap(), to)
    });
    let table = Table::new(None, peers);
    let start = Instant::now();
    for index in 0..LOOKUPS {
        assert!(table.lookup(black_box(subnet(index.wrapping_mul(2_654_435_761) % leases))).is_some());
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(LOOKUPS)
}

#[tokio::main]
async fn main() {
    let data = tempfile::tempdir().unwrap();
    let (_server, store) = etcd(data.path()).await;
    let written = iter(0..LEASES).for_each_concurrent(64, |index| {
        let store = store.clone();
        async move {
            let held = store.create(&format!("{}-24", subnet(index)), &value(index), 3600).await.unwrap();
            assert!(held.is_some());
        }
    });
    written.await;

    let mut follower =
        Follower::new(NetworkConfig::parse(r#"{"Network":"10.0.0.0/8","SubnetLen":24}"#).unwrap());
    let handle = Handle::default();
    let start = Instant::now();
    let snapshot = store.list().await.unwrap();
    let listed = start.elapsed();
    follower.replace(&snapshot.records);
    handle.publish(table(&follower));
    println!("| {LEASES} leases | ms |\n|---|---|");
    println!("| listing | {:.1} |", listed.as_secs_f64() * 1e3);
    println!("| listing, checked and in the route table | {:.1} |", start.elapsed().as_secs_f64() * 1e3);
    assert_eq!(handle.at(Instant::now()).len(), LEASES as usize);

    let mut times = changes(&store, snapshot.revision, &mut follower, &handle).await;
    times.sort();
    let at = |part: usize| times[times.len() * part / 100].as_secs_f64() * 1e3;
    println!("| a change until it is in the route table, p50 | {:.1} |", at(50));
    println!("| a change until it is in the route table, p99 | {:.1} |", at(99));

    nanoseconds_a_lookup(10); // The caches are warm from here on.
    let few = nanoseconds_a_lookup(10);
    println!("\n| leases | ns a lookup | ratio |\n|---|---|---|");
    for leases in [10, 100, LEASES] {
        let cost = nanoseconds_a_lookup(leases);
        println!("| {leases} | {cost:.0} | {:.2} |", cost / few);
    }
}

/// From before a lease is asked for until the table leads to it; the grant and the write are in it.
async fn changes(store: &Etcd, revision: i64, follower: &mut Follower, handle: &Handle) -> Vec<Duration> {
    let mut events = store.watch(revision).await.unwrap();
    let mut times = Vec::new();
    for index in LEASES..LEASES + CHANGES {
        let start = Instant::now();
        let (writer, key) = (store.clone(), format!("{}-24", subnet(index)));
        let writing = tokio::spawn(async move { writer.create(&key, &value(index), 3600).await });
        while handle.at(Instant::now()).lookup(subnet(index)).is_none() {
            let (news, _) = events.next().await.unwrap().unwrap();
            news.iter().for_each(|event| drop(follower.apply(event)));
            handle.publish(table(follower));
        }
        times.push(start.elapsed());
        assert!(writing.await.unwrap().unwrap().is_some());
    }
    times
}
