//! A node and its containers as network namespaces, and the plugin run in them as a container runtime runs it.

#![allow(dead_code)] // each test file uses its part
#![allow(clippy::unwrap_used)] // a helper that cannot do its work fails the test

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hostnet::Netlink;
use hostnet::netns::{Named, run_in};
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(5);

/// A namespace with a name that no other test has.
pub fn namespace(role: &str) -> Named {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    Named::create(&format!("cni-{}-{count}-{role}", std::process::id())).unwrap()
}

/// Runs async netlink calls in a namespace.
pub fn netlink<T: Send>(namespace: &Path, work: impl AsyncFnOnce(Netlink) -> T + Send) -> T {
    run_in(namespace, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { work(Netlink::connect().unwrap()).await })
    })
    .unwrap()
}

/// A node: a namespace, its state directories and its subnet.env.
pub struct Node {
    pub ns: Named,
    pub dir: tempfile::TempDir,
    /// The network configuration; a test may change it.
    pub config: Value,
}

impl Node {
    /// A node with `subnet` of 10.5.0.0/16 and host ports allowed.
    pub fn new(subnet: &str) -> Node {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let config = json!({
            "cniVersion": "1.1.0", "name": "cbr0", "type": "flannel",
            "subnetFile": path("subnet.env"), "dataDir": path("flannel"), "ipam": { "dataDir": path("networks") },
            "delegate": { "hairpinMode": true, "isDefaultGateway": true },
        });
        let node = Node { ns: namespace("node"), dir, config };
        node.subnet_env(&format!(
            "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET={subnet}\nFLANNEL_MTU=1400\nFLANNEL_IPMASQ=false\n"
        ));
        netlink(node.ns.path(), async |netlink| {
            let lo = netlink.link_by_name("lo").await.unwrap().unwrap();
            netlink.set_up(lo.index, true).await.unwrap();
        });
        node
    }

    pub fn subnet_env(&self, text: &str) {
        std::fs::write(self.dir.path().join("subnet.env"), text).unwrap();
    }

    /// Runs the plugin as a runtime does, and returns what it said: `Ok` for exit status 0.
    pub fn run(
        &self,
        verb: &str,
        container: &str,
        netns: Option<&Path>,
        config: &Value,
    ) -> Result<Value, Value> {
        self.run_as(Path::new(env!("CARGO_BIN_EXE_flannel")), verb, (container, "eth0"), netns, config)
    }

    /// The same, under another name of the binary and for any interface.
    pub fn run_as(
        &self,
        program: &Path,
        verb: &str,
        (container, interface): (&str, &str),
        netns: Option<&Path>,
        config: &Value,
    ) -> Result<Value, Value> {
        let child = self.start(program, verb, (container, interface), netns, config);
        let output = child.wait_with_output().unwrap();
        let answer = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        if output.status.success() { Ok(answer) } else { Err(answer) }
    }

    /// Starts it and does not wait.
    pub fn start(
        &self,
        program: &Path,
        verb: &str,
        (container, interface): (&str, &str),
        netns: Option<&Path>,
        config: &Value,
    ) -> Child {
        let mut command = Command::new(program);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", container).env("CNI_IFNAME", interface);
        command.env("CNI_PATH", self.dir.path().join("bin"));
        if let Some(netns) = netns {
            command.env("CNI_NETNS", netns);
        }
        let mut child = run_in(self.ns.path(), || command.spawn().unwrap()).unwrap();
        child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
        child
    }

    pub fn add(&self, container: &str, netns: &Named) -> Result<Value, Value> {
        self.run("ADD", container, Some(netns.path()), &self.config)
    }

    pub fn del(&self, container: &str, netns: Option<&Path>) -> Result<Value, Value> {
        self.run("DEL", container, netns, &self.config)
    }

    pub fn check(&self, container: &str, netns: &Named, previous: &Value) -> Result<Value, Value> {
        let mut config = self.config.clone();
        config["prevResult"] = previous.clone();
        self.run("CHECK", container, Some(netns.path()), &config)
    }

    /// The configuration with these host ports, as containerd passes them.
    pub fn with_ports(&self, ports: &Value) -> Value {
        let mut config = self.config.clone();
        config["runtimeConfig"] = json!({ "portMappings": ports });
        config
    }

    /// What of any container is left on this node: interfaces but lo and the bridge, reservations, records.
    pub fn leftovers(&self) -> Vec<String> {
        let links = netlink(self.ns.path(), async |netlink| netlink.links().await.unwrap());
        let mut left: Vec<String> = links
            .into_iter()
            .map(|link| link.name)
            .filter(|name| name.starts_with("veth") || name.starts_with("peer"))
            .collect();
        for dir in ["networks/cbr0", "flannel/.attachments/cbr0", "flannel"] {
            left.extend(files(&self.dir.path().join(dir)));
        }
        left
    }

    /// The rules of the network's table; empty if there is no table.
    pub fn rules(&self) -> String {
        let list = || Command::new("nft").args(["list", "table", "inet", "cni-cbr0"]).output().unwrap();
        String::from_utf8(run_in(self.ns.path(), list).unwrap().stdout).unwrap()
    }

    /// A host beyond the node, 192.0.2.2 and 2001:db8::2, that knows no route to the pods; the node is 192.0.2.1 and 2001:db8::1.
    pub fn outside(&self) -> Named {
        let outside = namespace("outside");
        let file = std::fs::File::open(outside.path()).unwrap();
        netlink(self.ns.path(), async |netlink| {
            netlink.add_veth("uplink", "far", 1500).await.unwrap();
            let far = netlink.link_by_name("far").await.unwrap().unwrap();
            netlink.move_to_netns(far.index, &file).await.unwrap();
            give(&netlink, "uplink", "192.0.2.1/24").await;
            give(&netlink, "uplink", "2001:db8::1/64").await;
        });
        netlink(outside.path(), async |netlink| {
            give(&netlink, "far", "192.0.2.2/24").await;
            give(&netlink, "far", "2001:db8::2/64").await;
        });
        outside
    }
}

async fn give(netlink: &Netlink, name: &str, address: &str) {
    let link = netlink.link_by_name(name).await.unwrap().unwrap();
    netlink.add_address(link.index, address.parse().unwrap()).await.unwrap();
    netlink.set_up(link.index, true).await.unwrap();
}

fn files(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap()).filter(|entry| entry.file_type().unwrap().is_file());
    let names = names.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name != "lock" && name != ".new" && !name.starts_with("last_reserved_ip")).collect()
}

/// The first address in a result, without its length.
pub fn address(result: &Value) -> String {
    result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned()
}

/// Does a ping get an answer? Busybox's: the tests have it anyway.
pub fn pings(from: &Named, to: &str) -> bool {
    let mut ping = Command::new("busybox");
    ping.args(["ping", "-c1", "-W2", to]).stdout(Stdio::null());
    run_in(from.path(), || ping.status().expect("busybox is missing (package busybox-static)").success())
        .unwrap()
}

/// A server that tells each client the address it sees, and ends with the test process.
pub fn serve(namespace: &Named, address: &str, port: u16) {
    let listener = run_in(namespace.path(), || TcpListener::bind((address, port)).unwrap()).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip().to_string();
            let _ = stream.write_all(peer.as_bytes());
        }
    });
}

/// What the server at `to` sees as this client's address.
pub fn seen_as(from: &Path, to: &str) -> std::io::Result<String> {
    let to: SocketAddr = to.parse().unwrap();
    let mut stream = run_in(from, || TcpStream::connect_timeout(&to, TIMEOUT)).unwrap()?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// The binary under another name.
pub fn linked(dir: &Path, name: &str) -> PathBuf {
    let link = dir.join(name);
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_flannel"), &link).unwrap();
    link
}

/// A connected container and what ADD answered.
pub struct Pod {
    pub ns: Named,
    pub result: Value,
}
