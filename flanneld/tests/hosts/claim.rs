//! Who gets which subnet: nodes that start at once, and a node for which one is reserved.

use std::time::Duration;

use super::flannel::Flanneld;
use super::lab::{Lab, within};

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
