//! Who gets which subnet: nodes that start at once, a node for which one is reserved, and two hosts with one address.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::flannel::Flanneld;
use super::lab::{Lab, SUBNETS, within};
use super::traffic::answers;

const CONFIG: &str = "/coreos.com/network/config";
/// Room for two.
const TWO: &str = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.7.0","SubnetMax":"10.5.8.0"}"#;

/// Go flannel would fail here: the loser of the race ends with "subnet already exists" instead of trying the other subnet.
#[test]
fn nodes_that_start_at_once_get_a_subnet_each_and_none_exits() {
    for _ in 0..3 {
        let lab = Lab::with_hosts(2);
        lab.put(CONFIG, TWO);
        let mut daemons = [0, 1].map(|host| Flanneld::spawn(&lab, host, &[]));
        for daemon in &daemons {
            daemon.wait_ready();
        }
        assert_ne!(daemons[0].subnet().0, daemons[1].subnet().0);
        assert!(daemons.iter_mut().all(Flanneld::is_running));
    }
}

/// Go flannel would fail here as above; and its random choice among the first hundred free subnets makes it likelier the more start.
#[test]
fn fifty_nodes_that_start_at_once_get_one_of_sixty_subnets_each() {
    let lab = Lab::with_hosts(50);
    let sixty = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.60.0","Backend":{"Type":"alloc"}}"#;
    lab.put(CONFIG, sixty);
    let start = Instant::now();
    let mut daemons: Vec<Flanneld> = (0..50).map(|host| Flanneld::spawn(&lab, host, &[])).collect();
    for (host, daemon) in daemons.iter().enumerate() {
        within(Duration::from_secs(90), &format!("host {host} is ready"), || {
            daemon.get("/readyz").is_some_and(|text| text.contains("is ready"))
        });
    }
    println!("50 nodes, 60 subnets: all have one {:?} after the first was started", start.elapsed());
    let subnets: BTreeSet<_> = daemons.iter().map(|daemon| daemon.subnet().0).collect();
    assert_eq!(subnets.len(), 50, "all distinct");
    assert!(daemons.iter_mut().all(Flanneld::is_running));
}

/// Go flannel would fail here: the second host takes the first one's lease over, and both use one subnet.
#[test]
fn of_two_hosts_with_one_address_the_live_one_keeps_its_subnet() {
    let lab = Lab::with_hosts(3);
    let mut first = Flanneld::start(&lab, 0, &[]);
    let third = Flanneld::start(&lab, 2, &[]);
    let (a, c) = (lab.pod(0, &first), lab.pod(2, &third));
    within(Duration::from_secs(5), "the pods talk", || answers(&a, &c));
    let subnet = first.subnet();
    let address = lab.hosts[0].ip.to_string();
    let second = Flanneld::spawn(&lab, 1, &["--iface=eth0", "--public-ip", &address]);
    let told =
        format!("the public address {address} is another host's, too, which has the lease of {}", subnet.0);
    within(Duration::from_secs(10), "the second one is refused", || second.log().contains(&told));
    assert!(!second.get("/readyz").unwrap().contains("is ready"));
    assert!(answers(&a, &c) && first.get("/readyz").unwrap().contains("is ready"));
    assert!(!first.log().contains("the lease is lost"), "{}", first.log());
    let keys = lab.etcd(async |mut client| {
        let all = etcd_client::GetOptions::new().with_prefix().with_count_only();
        client.get(SUBNETS, Some(all)).await.unwrap().count()
    });
    assert_eq!(keys, 2);

    // The first one dies: its heir has the same subnet, without waiting for a day.
    first.end(Signal::SIGKILL);
    let died = Instant::now();
    second.wait_ready();
    println!("the heir has the subnet {:?} after its holder died", died.elapsed());
    assert_eq!(second.subnet(), subnet);
}

/// The same host, started again with another address (another network, a new NIC), keeps its subnet.
#[test]
fn a_host_that_has_another_address_keeps_its_subnet() {
    let lab = Lab::with_hosts(2);
    let mut daemon = Flanneld::start(&lab, 0, &[]);
    let peer = Flanneld::start(&lab, 1, &[]);
    let subnet = daemon.subnet();
    daemon.end(Signal::SIGTERM);
    let daemon = Flanneld::start(&lab, 0, &["--iface=eth0", "--public-ip=198.18.50.77"]);
    assert_eq!(daemon.subnet(), subnet);
    let moved = format!("subnet={} via=198.18.50.77", subnet.0);
    within(Duration::from_secs(2), "its peer has heard", || peer.log().contains(&moved));
    assert_eq!(peer.metric("flannel_leases"), 2);
}

/// Go flannel would fail here: at its start it makes a reservation a lease that ends after a day (issue 1329).
#[test]
fn a_reservation_is_used_and_kept() {
    let lab = Lab::with_hosts(1);
    let value = format!(r#"{{"PublicIP":"{}","PublicIPv6":null}}"#, lab.hosts[0].ip);
    let key = "/coreos.com/network/subnets/10.5.77.0-24";
    lab.put(key, value);
    let daemon = Flanneld::start(&lab, 0, &["--subnet-lease-ttl", "6"]);
    assert_eq!(daemon.subnet().0.network().to_string(), "10.5.77.0");
    // Longer than a lease would last.
    std::thread::sleep(Duration::from_secs(8));
    let lease = lab.etcd(async |mut client| client.get(key, None).await.unwrap().kvs()[0].lease());
    assert_eq!(lease, 0, "it hangs on no lease");
    within(Duration::from_secs(1), "it is ready", || daemon.get("/readyz").unwrap().contains("is ready"));
}
