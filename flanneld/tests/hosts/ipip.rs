//! The ipip backend needs a kernel with IPIP tunnels; where there is none it says so.

use std::time::Duration;

use hostnet::{Ipip, Netlink};
use nix::errno::Errno;

use super::flannel::Flanneld;
use super::lab::{Lab, inside, within};
use super::traffic::answers;
use super::wire::{Capture, in_clear};

/// IPv4 in IPv4.
const IPIP: u8 = 4;

/// Pods talk through tunnels where the kernel has them; where it hasn't, flanneld ends and says what is missing.
#[test]
fn it_carries_packets_or_says_what_the_kernel_lacks() {
    let lab = Lab::with_hosts(2);
    lab.put("/coreos.com/network/config", r#"{"Network":"10.5.0.0/16","Backend":{"Type":"ipip"}}"#);
    let tried = inside(lab.hosts[1].ns.path(), async || {
        let netlink = Netlink::connect().unwrap();
        netlink.add_ipip("try", &Ipip { local: [192, 0, 2, 7].into(), remote: None }).await
    });
    if tried.as_ref().is_err_and(|error| error.errno() == Some(Errno::EOPNOTSUPP)) {
        println!("this kernel has no IPIP: what is tested is how flanneld says so");
        let mut daemon = Flanneld::spawn(&lab, 0, &[]);
        within(Duration::from_secs(10), "it ends", || !daemon.is_running());
        let log = daemon.log();
        assert!(log.contains("CONFIG_NET_IPIP") && log.contains("module ipip"), "{log}");
        return;
    }
    tried.unwrap();
    let daemons = [0, 1].map(|n| Flanneld::start(&lab, n, &[]));
    let (a, b) = (lab.pod(0, &daemons[0]), lab.pod(1, &daemons[1]));
    assert_eq!(daemons[0].subnet().1, 1480);
    let clear = Capture::start(lab.hosts[0].ns.path(), "eth0", in_clear);
    let tunnel = Capture::start(lab.hosts[0].ns.path(), "eth0", |ip| ip[9] == IPIP);
    within(Duration::from_secs(5), "the pods talk", || answers(&a, &b));
    assert!(tunnel.stop().kept.len() >= 2);
    assert_eq!(clear.stop().kept.len(), 0);
}
