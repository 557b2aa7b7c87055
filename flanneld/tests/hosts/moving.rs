//! The interface to the other nodes flaps, gets another address, is made anew, or is another one: the node is reached again, and keeps its subnet.

use std::net::Ipv4Addr;
use std::time::Duration;

use hostnet::netns::run_in;
use hostnet::{Netlink, Route};
use ipnetwork::IpNetwork;

use super::flannel::Flanneld;
use super::lab::{Lab, NETWORK, Pod, SUBNETS, inside, within};
use super::traffic::{answer, answers};

const CONFIG: &str = "/coreos.com/network/config";
const BACKENDS: [&str; 3] = [
    NETWORK,
    r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#,
    r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#,
];
/// After the hosts themselves reach each other again.
const FLAP: Duration = Duration::from_secs(2);
/// After the host is reached elsewhere.
const MOVE: Duration = Duration::from_secs(2);
const MOVED: Ipv4Addr = Ipv4Addr::new(198, 18, 50, 101);

fn pair(config: &str, more: &[&str]) -> (Lab, [Flanneld; 2], [Pod; 2]) {
    let lab = Lab::with_hosts(2);
    lab.put(CONFIG, config);
    let daemons = [Flanneld::start(&lab, 0, more), Flanneld::start(&lab, 1, &[])];
    let pods = [0, 1].map(|n| lab.pod(n, &daemons[n]));
    within(Duration::from_secs(5), "the pods talk", || answers(&pods[0], &pods[1]));
    (lab, daemons, pods)
}

/// What a host's lease says.
pub fn lease(lab: &Lab, daemon: &Flanneld) -> String {
    let key = format!("{SUBNETS}{}-24", daemon.subnet().0.network());
    lab.etcd(async |mut client| {
        let answer = client.get(key.as_str(), None).await.unwrap();
        answer.kvs().first().map_or(String::new(), |kv| kv.value_str().unwrap().to_owned())
    })
}

fn net(ip: Ipv4Addr) -> IpNetwork {
    IpNetwork::new(ip.into(), 24).unwrap()
}

async fn index(netlink: &Netlink, name: &str) -> u32 {
    netlink.link_by_name(name).await.unwrap().unwrap().index
}

/// The default route by way of the switch, out of this link.
async fn default_by(netlink: &Netlink, link: u32) {
    let any = IpNetwork::new(Ipv4Addr::UNSPECIFIED.into(), 0).unwrap();
    let gateway = Some(Ipv4Addr::new(198, 18, 50, 254).into());
    netlink.replace_route(&Route { gateway, oif: Some(link), ..Route::to(any) }).await.unwrap();
}

/// As a DHCP client or somebody at a console does it: the old address goes, the new one comes, and the default route again.
pub fn readdress(lab: &Lab, host: usize, from: Ipv4Addr, to: Ipv4Addr) {
    inside(lab.hosts[host].ns.path(), async || {
        let netlink = Netlink::connect().unwrap();
        let eth0 = index(&netlink, "eth0").await;
        netlink.delete_address(eth0, net(from)).await.unwrap();
        netlink.add_address(eth0, net(to)).await.unwrap();
        default_by(&netlink, eth0).await;
    });
}

/// The node is known by another address now, with the same subnet, and its pods are reached.
fn has_moved(lab: &Lab, daemons: &[Flanneld; 2], [a, b]: &[Pod; 2], what: &str) {
    let subnet = daemons[0].subnet().0;
    let told = format!(r#"{{"PublicIP":"{MOVED}""#);
    let took = within(MOVE, what, || lease(lab, &daemons[0]).starts_with(&told) && answers(a, b));
    println!("{what}: the pods talk again after {took:?}");
    assert_eq!(daemons[0].subnet().0, subnet);
    let log = daemons[1].log();
    assert!(log.contains(&format!("subnet={subnet} via={MOVED}")), "{log}");
    assert!(!daemons[0].log().contains("the lease is lost"));
    assert!(daemons[0].get("/readyz").unwrap().contains("is ready"));
}

/// Go flannel would fail here: with host-gw routes are away for up to 10 s, and VXLAN's are never restored (issues 1434, 1759).
#[test]
fn a_flap_of_the_interface_is_over_soon() {
    for config in BACKENDS {
        let (lab, daemons, [a, b]) = pair(config, &[]);
        for _ in 0..3 {
            let set = async |up| {
                let netlink = Netlink::connect().unwrap();
                netlink.set_up(index(&netlink, "eth0").await, up).await.unwrap();
            };
            inside(lab.hosts[0].ns.path(), async || set(false).await);
            std::thread::sleep(Duration::from_millis(1200));
            inside(lab.hosts[0].ns.path(), async || set(true).await);
            // The kernel takes up to two seconds for carrier and ARP, whatever stands above.
            let [from, to] = [0, 1].map(|n: usize| (lab.hosts[n].ns.path(), lab.hosts[n].ip));
            let hosts = within(Duration::from_secs(10), "the hosts talk", || answer(from, to));
            let took = within(FLAP, config, || answers(&a, &b));
            println!(
                "{config}: the hosts talk again {hosts:?} after the interface is up, the pods {took:?} later"
            );
        }
        assert!(!daemons[0].log().contains("the lease is lost"));
    }
}

/// Go flannel would fail here: it looks at the interface once, at its start.
#[test]
fn another_address_is_told_and_the_subnet_stays() {
    for config in BACKENDS {
        let (lab, daemons, pods) = pair(config, &[]);
        readdress(&lab, 0, lab.hosts[0].ip, MOVED);
        has_moved(&lab, &daemons, &pods, config);
    }
}

/// With --iface it is that interface whatever its address; with --public-ip that one is told, whatever the interface has.
#[test]
fn what_is_given_stays_given() {
    let (lab, daemons, pods) = pair(NETWORK, &["--iface=eth0"]);
    readdress(&lab, 0, lab.hosts[0].ip, MOVED);
    has_moved(&lab, &daemons, &pods, "--iface");
    drop((daemons, pods, lab));

    let public = Ipv4Addr::new(198, 18, 50, 1);
    let (lab, daemons, _pods) = pair(NETWORK, &["--iface=eth0", "--public-ip", &public.to_string()]);
    let before = lease(&lab, &daemons[0]);
    readdress(&lab, 0, public, MOVED);
    within(MOVE, "the socket has the new address", || {
        let bound = run_in(lab.hosts[0].ns.path(), || std::net::UdpSocket::bind((MOVED, 8285))).unwrap();
        bound.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
    });
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(lease(&lab, &daemons[0]), before);
}

/// A second address does not move the node, as long as it has the first one.
#[test]
fn an_address_more_is_no_reason_to_move() {
    let (lab, daemons, [a, b]) = pair(NETWORK, &[]);
    inside(lab.hosts[0].ns.path(), async || {
        let netlink = Netlink::connect().unwrap();
        netlink.add_address(index(&netlink, "eth0").await, net(MOVED)).await.unwrap();
    });
    std::thread::sleep(Duration::from_secs(2));
    assert!(answers(&a, &b));
    assert!(!daemons[0].log().contains("is another one now"), "{}", daemons[0].log());
}

#[test]
fn an_interface_that_is_made_anew_is_used() {
    for config in BACKENDS {
        let (lab, daemons, [a, b]) = pair(config, &[]);
        let subnet = daemons[0].subnet();
        let gone = inside(lab.hosts[0].ns.path(), async || {
            let netlink = Netlink::connect().unwrap();
            let eth0 = index(&netlink, "eth0").await;
            netlink.delete_link(eth0).await.unwrap();
            eth0
        });
        std::thread::sleep(Duration::from_millis(1200));
        lab.plug_again(0, "eth0", lab.hosts[0].ip);
        let there =
            inside(lab.hosts[0].ns.path(), async || index(&Netlink::connect().unwrap(), "eth0").await);
        assert_ne!(gone, there);
        let took = within(MOVE, config, || answers(&a, &b));
        println!("{config}: the pods talk again {took:?} after the interface is there again");
        assert_eq!(daemons[0].subnet(), subnet);
    }
}

#[test]
fn the_default_route_leads_elsewhere_and_the_node_moves() {
    for config in BACKENDS {
        let (lab, daemons, pods) = pair(config, &[]);
        inside(lab.hosts[0].ns.path(), async || {
            let netlink = Netlink::connect().unwrap();
            netlink.set_up(index(&netlink, "eth0").await, false).await.unwrap();
        });
        lab.plug_again(0, "eth1", MOVED);
        has_moved(&lab, &daemons, &pods, config);
    }
}
