//! Switch, hosts and pods as namespaces, and etcd. All of it goes when the value does.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use etcd_client::{Client, GetOptions, KeyValue, PutOptions};
use hostnet::netns::{Named, run_in};
use hostnet::{Netlink, Route, sysctl};
use ipnetwork::IpNetwork;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::flannel::Flanneld;

/// The pods' network.
pub const NETWORK: &str = r#"{"Network":"10.5.0.0/16"}"#;
/// Where all leases are.
pub const SUBNETS: &str = "/coreos.com/network/subnets/";
/// The switch on the hosts' network.
const SWITCH: Ipv4Addr = Ipv4Addr::new(198, 18, 50, 254);
const SWITCH6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x50, 0, 0, 0, 0, 0xfe);
/// Tests look at clocks, so they take turns.
static TURN: Mutex<()> = Mutex::new(());
static LABS: AtomicU32 = AtomicU32::new(0);

/// Hosts on one switch.
pub struct Lab {
    /// The switch's; a host's wire ends there as `h1`, `h2` and so on.
    pub switch: Named,
    /// The hosts, in their order; none runs a flanneld yet.
    pub hosts: Vec<Host>,
    etcd: Child,
    /// For files of hosts and etcd.
    pub dir: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// A host.
pub struct Host {
    /// Its namespace.
    pub ns: Named,
    /// Its address on the hosts' network.
    pub ip: Ipv4Addr,
}

/// A pod.
pub struct Pod {
    /// Its namespace.
    pub ns: Named,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its IPv6 address, if the network has that family.
    pub ip6: Option<Ipv6Addr>,
}

impl Lab {
    /// With so many hosts.
    pub fn with_hosts(count: u8) -> Lab {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let tag = format!("tw-{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::tempdir().unwrap();
        let switch = Named::create(&format!("{tag}-switch")).unwrap();
        inside(switch.path(), async || {
            let netlink = Netlink::connect().unwrap();
            up(&netlink, "lo").await;
            netlink.add_bridge("br0").await.unwrap();
            let bridge = up(&netlink, "br0").await;
            netlink.add_address(bridge, net(SWITCH, 24)).await.unwrap();
            sysctl::set("net/ipv4/ip_forward", "1").unwrap();
        });
        let hosts = (1..=count).map(|n| Host::plug(&switch, &tag, n)).collect();
        let etcd = etcd(&switch, dir.path());
        let lab = Lab { switch, hosts, etcd, dir, _turn: turn };
        lab.put("/coreos.com/network/config", NETWORK);
        lab
    }

    /// With so many hosts that have addresses and default routes of both families.
    pub fn with_ipv6(count: u8) -> Lab {
        let lab = Lab::with_hosts(count);
        inside(lab.switch.path(), async || {
            let netlink = Netlink::connect().unwrap();
            let bridge = netlink.link_by_name("br0").await.unwrap().unwrap().index;
            netlink.add_address(bridge, net(SWITCH6, 64)).await.unwrap();
            sysctl::set("net/ipv6/conf/all/forwarding", "1").unwrap();
        });
        for host in &lab.hosts {
            inside(host.ns.path(), async || {
                let netlink = Netlink::connect().unwrap();
                let eth0 = netlink.link_by_name("eth0").await.unwrap().unwrap().index;
                netlink.add_address(eth0, net(host.ip6(), 64)).await.unwrap();
                let default = Route::to(net(Ipv6Addr::UNSPECIFIED, 0));
                netlink.replace_route(&Route { gateway: Some(SWITCH6.into()), ..default }).await.unwrap();
            });
        }
        lab
    }

    /// All leases, key and value.
    pub fn leases(&self) -> Vec<(String, String)> {
        self.etcd(async |mut client| {
            let listed = client.get(SUBNETS, Some(GetOptions::new().with_prefix())).await.unwrap();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let pair = |kv: &KeyValue| (text(&kv.key()[SUBNETS.len()..]), text(kv.value()));
            listed.kvs().iter().map(pair).collect()
        })
    }

    /// Two hosts that carry each other's packets, with a pod on each.
    pub fn pair() -> (Lab, [Flanneld; 2], [Pod; 2]) {
        Lab::pair_with(&[])
    }

    /// The same with these flags.
    pub fn pair_with(flags: &[&str]) -> (Lab, [Flanneld; 2], [Pod; 2]) {
        let lab = Lab::with_hosts(3);
        let daemons = [0, 1].map(|n| Flanneld::start(&lab, n, flags));
        let pods = [0, 1].map(|n| lab.pod(n, &daemons[n]));
        daemons[0].wait_for("flannel_leases", 2);
        daemons[1].wait_for("flannel_leases", 2);
        (lab, daemons, pods)
    }

    /// The switch's namespace.
    pub fn switch(&self) -> &Path {
        self.switch.path()
    }

    /// Asks etcd something.
    pub fn etcd<T: Send>(&self, work: impl AsyncFnOnce(Client) -> T + Send) -> T {
        inside(self.switch.path(), async || work(Client::connect([endpoint()], None).await.unwrap()).await)
    }

    /// Writes a key.
    pub fn put(&self, key: &str, value: impl Into<Vec<u8>> + Send) {
        self.etcd(async |mut client| client.put(key, value, None).await.unwrap());
    }

    /// Writes a lease as flannel does, that ends by itself.
    pub fn lease(&self, subnet: &str, ip: Ipv4Addr, seconds: i64) {
        let (key, value) =
            (format!("{SUBNETS}{subnet}"), format!(r#"{{"PublicIP":"{ip}","PublicIPv6":null}}"#));
        self.etcd(async |mut client| {
            let lease = client.lease_grant(seconds, None).await.unwrap().id();
            client.put(key, value, Some(PutOptions::new().with_lease(lease))).await.unwrap();
        });
    }

    /// Lets the switch drop what this rule of nftables matches, of what it passes on between hosts.
    pub fn drop_between(&self, rule: &str) {
        let rules = format!(
            "table bridge cut {{ chain forward {{ type filter hook forward priority 0; {rule} drop; }}; }}"
        );
        run_in(self.switch.path(), || hostnet::nft::apply(&rules)).unwrap().unwrap();
    }

    /// Pulls a host's cable.
    pub fn unplug(&self, host: usize) {
        let port = format!("h{}", host + 1);
        inside(self.switch.path(), async || {
            let netlink = Netlink::connect().unwrap();
            let port = netlink.link_by_name(&port).await.unwrap().unwrap();
            netlink.set_up(port.index, false).await.unwrap();
        });
    }

    /// Lets the link to an address be one of so many bytes: the switch, as the router to it, says so of longer packets.
    pub fn narrow(&self, ip: Ipv4Addr, mtu: u32) {
        inside(self.switch.path(), async || {
            let netlink = Netlink::connect().unwrap();
            let bridge = netlink.link_by_name("br0").await.unwrap().unwrap().index;
            let to = Route::to(net(ip, 32));
            netlink
                .replace_route(&Route { oif: Some(bridge), link_scope: true, mtu: Some(mtu), ..to })
                .await
                .unwrap();
        });
    }

    /// Gives a host an address on no link: it and the others reach each other by way of the switch only.
    pub fn put_behind_router(&self, host: usize, ip: Ipv4Addr) {
        let on = |oif, ip| Route { oif: Some(oif), link_scope: true, ..Route::to(net(ip, 32)) };
        inside(self.switch.path(), async || {
            let netlink = Netlink::connect().unwrap();
            let bridge = netlink.link_by_name("br0").await.unwrap().unwrap().index;
            netlink.replace_route(&on(bridge, ip)).await.unwrap();
        });
        inside(self.hosts[host].ns.path(), async || {
            let netlink = Netlink::connect().unwrap();
            let eth0 = netlink.link_by_name("eth0").await.unwrap().unwrap().index;
            netlink.replace_address(eth0, net(ip, 32)).await.unwrap();
            netlink.replace_route(&on(eth0, SWITCH)).await.unwrap();
            let default = Route { gateway: Some(SWITCH.into()), ..Route::to(net(Ipv4Addr::UNSPECIFIED, 0)) };
            netlink.replace_route(&default).await.unwrap();
        });
    }

    /// Stops etcd, or lets it go on.
    pub fn signal_etcd(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.etcd.id()).unwrap()), signal).unwrap();
    }

    /// Breaks all connections to etcd; it keeps what it has.
    pub fn restart_etcd(&mut self) {
        self.stop_etcd();
        self.start_etcd();
    }

    /// Kills etcd.
    pub fn stop_etcd(&mut self) {
        self.etcd.kill().unwrap();
        self.etcd.wait().unwrap();
    }

    /// Starts it with what it had.
    pub fn start_etcd(&mut self) {
        self.etcd = etcd(&self.switch, self.dir.path());
    }

    /// Gives a host an interface to the switch, with this address and the default route.
    pub fn plug_again(&self, host: usize, name: &str, ip: Ipv4Addr) {
        let ns = &self.hosts[host].ns;
        let end = File::open(ns.path()).unwrap();
        inside(self.switch.path(), async || {
            let netlink = Netlink::connect().unwrap();
            let port = format!("p{host}{name}");
            netlink.add_veth_into(&port, name, 1500, &end).await.unwrap();
            let bridge = netlink.link_by_name("br0").await.unwrap().unwrap().index;
            let port = up(&netlink, &port).await;
            netlink.set_master(port, bridge).await.unwrap();
        });
        inside(ns.path(), async || connect(name, net(ip, 24), SWITCH).await);
    }

    /// Stops etcd, sets it back to a copy of its data, or makes one, and starts it.
    pub fn etcd_data(&mut self, what: Data) {
        self.stop_etcd();
        let (data, backup) = (self.dir.path().join("etcd"), self.dir.path().join("backup"));
        let (from, to) = if what == Data::Back { (&backup, &data) } else { (&data, &backup) };
        let _ = std::fs::remove_dir_all(to);
        copy(from, to);
        self.start_etcd();
    }

    /// A pod on a host, as the CNI plugins would make it from subnet.env.
    pub fn pod(&self, host: usize, daemon: &Flanneld) -> Pod {
        let (subnet, mtu) = daemon.subnet();
        let gateway = Ipv4Addr::from(u32::from(subnet.network()) + 1);
        let pod = Pod {
            ns: Named::create(&format!("tw-{}-pod{host}-{}", std::process::id(), subnet.network())).unwrap(),
            ip: Ipv4Addr::from(u32::from(gateway) + 1),
            ip6: daemon.subnet6().map(|subnet| Ipv6Addr::from(u128::from(subnet.network()) + 2)),
        };
        let end = File::open(pod.ns.path()).unwrap();
        let [bridge, port] = ["cni", "pod"].map(|name| format!("{name}{}", daemon.network));
        inside(self.hosts[host].ns.path(), async || {
            let netlink = Netlink::connect().unwrap();
            netlink.add_bridge(&bridge).await.unwrap();
            netlink.add_veth_into(&port, "eth0", mtu, &end).await.unwrap();
            let bridge = up(&netlink, &bridge).await;
            let port = up(&netlink, &port).await;
            netlink.set_master(port, bridge).await.unwrap();
            netlink.set_mtu(bridge, mtu).await.unwrap();
            netlink.add_address(bridge, net(gateway, subnet.prefix())).await.unwrap();
            if let Some(subnet) = daemon.subnet6() {
                let gateway = Ipv6Addr::from(u128::from(subnet.network()) + 1);
                netlink.add_address(bridge, net(gateway, subnet.prefix())).await.unwrap();
            }
        });
        inside(pod.ns.path(), async || {
            connect("eth0", net(pod.ip, subnet.prefix()), gateway).await;
            if let (Some(ip), Some(subnet)) = (pod.ip6, daemon.subnet6()) {
                let gateway = Ipv6Addr::from(u128::from(subnet.network()) + 1);
                connect("eth0", net(ip, subnet.prefix()), gateway).await;
            }
        });
        pod
    }
}

/// What becomes of etcd's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// It is copied.
    Save,
    /// It is as it was when it was copied.
    Back,
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

impl Host {
    /// Its IPv6 address on the hosts' network, in a lab that has them.
    pub fn ip6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0x50, 0, 0, 0, 0, self.ip.octets()[3].into())
    }

    fn plug(switch: &Named, tag: &str, n: u8) -> Host {
        let host =
            Host { ns: Named::create(&format!("{tag}-h{n}")).unwrap(), ip: Ipv4Addr::new(198, 18, 50, n) };
        let end = File::open(host.ns.path()).unwrap();
        inside(switch.path(), async || {
            let netlink = Netlink::connect().unwrap();
            let port = format!("h{n}");
            netlink.add_veth_into(&port, "eth0", 1500, &end).await.unwrap();
            let bridge = netlink.link_by_name("br0").await.unwrap().unwrap().index;
            let port = up(&netlink, &port).await;
            netlink.set_master(port, bridge).await.unwrap();
        });
        inside(host.ns.path(), async || {
            // As strict as some distributions are by default.
            sysctl::set("net/ipv4/conf/all/rp_filter", "1").unwrap();
            sysctl::set("net/ipv4/ip_forward", "1").unwrap();
            connect("eth0", net(host.ip, 24), SWITCH).await;
        });
        host
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.etcd.kill();
        let _ = self.etcd.wait();
    }
}

/// Runs something in a namespace, on a runtime of its own.
pub fn inside<T: Send>(ns: &Path, work: impl AsyncFnOnce() -> T + Send) -> T {
    run_in(ns, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work())
    })
    .unwrap()
}

/// Waits for something to become true; how long it took.
pub fn within(limit: Duration, what: &str, mut so: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    start.elapsed()
}

/// Where etcd is.
pub fn endpoint() -> String {
    format!("http://{SWITCH}:2379")
}

fn etcd(switch: &Named, dir: &Path) -> Child {
    let client = endpoint();
    let mut command = Command::new("etcd");
    command
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client, "--data-dir"])
        .arg(dir.join("etcd"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let etcd =
        run_in(switch.path(), || command.spawn().expect("etcd is missing (package etcd-server)")).unwrap();
    let answers = || {
        inside(switch.path(), async || {
            let Ok(mut client) = Client::connect([endpoint()], None).await else { return false };
            client.get("up", None).await.is_ok()
        })
    };
    within(Duration::from_secs(30), "etcd answers", answers);
    etcd
}

/// Gives `lo` and an interface of this namespace what they need.
async fn connect(name: &str, address: IpNetwork, gateway: impl Into<IpAddr>) {
    let netlink = Netlink::connect().unwrap();
    up(&netlink, "lo").await;
    let link = up(&netlink, name).await;
    netlink.add_address(link, address).await.unwrap();
    let all = if address.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    let default = Route { gateway: Some(gateway.into()), ..Route::to(all.parse().unwrap()) };
    netlink.replace_route(&default).await.unwrap();
}

async fn up(netlink: &Netlink, name: &str) -> u32 {
    let link = netlink.link_by_name(name).await.unwrap().unwrap();
    netlink.set_up(link.index, true).await.unwrap();
    link.index
}

fn net(ip: impl Into<IpAddr>, length: u8) -> IpNetwork {
    IpNetwork::new(ip.into(), length).unwrap()
}
