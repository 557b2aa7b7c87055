//! Subnets from Kubernetes: the API server of kubelite, nodes that its controller gives their parts of the pods' network, and flannelds that
//! annotate them. Needs the binary `kubelite` beside flanneld's: `cargo build -p kubelite --bin kubelite`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hostnet::Netlink;
use hostnet::netns::run_in;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::flannel::Flanneld;
use super::lab::{Lab, inside, within};
use super::traffic::answers;

const PREFIX: &str = "flannel.alpha.coreos.com/";
const UDP: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp"}}"#;
const VXLAN: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;
const ALLOCATE: [&str; 2] = ["--allocate-node-cidrs", "--cluster-cidr=10.5.0.0/16"];
/// Its address.
const SERVER: &str = "198.18.50.253";
const SOON: Duration = Duration::from_secs(20);

/// An API server on the switch; killed with the value.
struct Server {
    child: Child,
    switch: PathBuf,
    dir: PathBuf,
}

impl Server {
    fn start(lab: &Lab, more: &[&str]) -> Server {
        let (switch, dir) = (lab.switch().to_owned(), lab.dir.path().to_owned());
        // The switch's other address is etcd's.
        inside(&switch, async || {
            let netlink = Netlink::connect().unwrap();
            let bridge = netlink.link_by_name("br0").await.unwrap().unwrap().index;
            netlink.add_address(bridge, format!("{SERVER}/24").parse().unwrap()).await.unwrap();
        });
        let child = spawn(&switch, &dir, more);
        let server = Server { child, switch, dir };
        within(Duration::from_secs(60), "the API server answers", || {
            server.kubeconfig().exists()
                && server.ask(async |nodes| nodes.list(&Default::default()).await.is_ok())
        });
        server
    }

    fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn start_again(&mut self, more: &[&str]) {
        self.child = spawn(&self.switch, &self.dir, more);
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    fn ask<T: Send>(&self, work: impl AsyncFnOnce(Api<Node>) -> T + Send) -> T {
        let file = Kubeconfig::read_from(self.kubeconfig()).unwrap();
        inside(&self.switch, async || {
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
            work(Api::all(config.try_into().unwrap())).await
        })
    }

    fn add(&self, name: &str, annotations: &Value) {
        let node = json!({"metadata": {"name": name, "annotations": annotations}});
        let node: Node = serde_json::from_value(node).unwrap();
        self.ask(async |nodes| nodes.create(&PostParams::default(), &node).await.unwrap());
    }

    fn node(&self, name: &str) -> Value {
        serde_json::to_value(self.ask(async |nodes| nodes.get(name).await.unwrap())).unwrap()
    }

    /// An annotation of flannel's; empty if it is not there.
    fn said(&self, node: &str, name: &str) -> String {
        let node = self.node(node);
        node["metadata"]["annotations"][format!("{PREFIX}{name}")].as_str().unwrap_or_default().to_owned()
    }

    /// A flanneld of a host, as the node `n<host>`.
    fn flanneld(&self, lab: &Lab, host: usize, net_config: &str) -> Flanneld {
        let path = self.dir.join("net-conf.json");
        std::fs::write(&path, net_config).unwrap();
        let flags = [
            "--kube-subnet-mgr",
            &format!("--kubeconfig-file={}", self.kubeconfig().display()),
            &format!("--net-config-path={}", path.display()),
        ];
        Flanneld::spawn_with(lab, host, &flags, &[("NODE_NAME", &format!("n{host}"))])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(switch: &Path, dir: &Path, more: &[&str]) -> Child {
    let binary = Path::new(env!("CARGO_BIN_EXE_flanneld")).with_file_name("kubelite");
    assert!(binary.exists(), "{} is missing: cargo build -p kubelite --bin kubelite", binary.display());
    let log = std::fs::File::options().create(true).append(true).open(dir.join("kubelite.log")).unwrap();
    let mut command = Command::new(binary);
    command
        .args(["server", "--disable-agent", "--node-name=switch", &format!("--node-ip={SERVER}")])
        .arg(format!("--data-dir={}", dir.join("kubelite").display()))
        .arg(format!("--write-kubeconfig={}", dir.join("kubeconfig").display()))
        .args(more)
        .stdout(Stdio::null())
        .stderr(log);
    run_in(switch, || command.spawn().unwrap()).unwrap()
}

#[test]
fn nodes_get_their_part_say_how_they_are_reached_and_their_pods_talk() {
    let lab = Lab::with_hosts(3);
    let server = Server::start(&lab, &ALLOCATE);
    server.add("n0", &json!({}));
    server.add("n1", &json!({}));
    let daemons = [0, 1].map(|host| server.flanneld(&lab, host, UDP));
    for daemon in &daemons {
        daemon.wait_ready();
        daemon.wait_for("flannel_leases", 2);
    }
    let pods = [0, 1].map(|host| lab.pod(host, &daemons[host]));
    within(SOON, "pods talk", || answers(&pods[0], &pods[1]));

    for (host, daemon) in daemons.iter().enumerate() {
        let name = format!("n{host}");
        assert_eq!(server.node(&name)["spec"]["podCIDR"], daemon.subnet().0.to_string());
        let said = ["kube-subnet-manager", "backend-type", "backend-data", "public-ip"]
            .map(|s| server.said(&name, s));
        assert_eq!(said, ["true", "", "null", &lab.hosts[host].ip.to_string()]);
        let condition = || {
            let node = server.node(&name);
            let all = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            all.into_iter().find(|condition| condition["type"] == "NetworkUnavailable").unwrap_or_default()
        };
        within(SOON, "the condition is set", || condition()["status"] == "False");
        assert_eq!(
            (&condition()["reason"], &condition()["message"]),
            (&json!("FlannelIsUp"), &json!("Flannel is running on this node"))
        );
    }

    // A Go flannel's node comes, is reached elsewhere, and goes.
    let (name, there) = ("go", |ip: &str| {
        json!({format!("{PREFIX}kube-subnet-manager"): "true", format!("{PREFIX}backend-type"): "",
            format!("{PREFIX}backend-data"): "null", format!("{PREFIX}public-ip"): ip})
    });
    server.add(name, &there(&lab.hosts[2].ip.to_string()));
    daemons[0].wait_for("flannel_leases", 3);
    let moved = Patch::Merge(json!({"metadata": {"annotations": there("198.18.50.77")}}));
    server.ask(async |nodes| nodes.patch(name, &PatchParams::default(), &moved).await.unwrap());
    within(SOON, "it is told where the node is now", || daemons[0].log().contains("via=198.18.50.77"));
    server.ask(async |nodes| nodes.delete(name, &DeleteParams::default()).await.map(drop).unwrap());
    daemons[0].wait_for("flannel_leases", 2);
    assert!(answers(&pods[0], &pods[1]));
}

/// Go flannel would end here after ten seconds, with no word of what to do.
#[test]
fn a_node_without_a_part_waits_and_says_what_to_do() {
    let lab = Lab::with_hosts(1);
    let server = Server::start(&lab, &[]);
    server.add("n0", &json!({}));
    let mut daemon = server.flanneld(&lab, 0, UDP);
    within(SOON, "it says so", || daemon.log().contains("spec.podCIDR is not assigned"));
    assert!(daemon.log().contains("--allocate-node-cidrs"));
    std::thread::sleep(Duration::from_secs(3));
    assert!(daemon.is_running() && daemon.log().matches("is not assigned").count() == 1);
    let given = Patch::Merge(json!({"spec": {"podCIDR": "10.5.7.0/24", "podCIDRs": ["10.5.7.0/24"]}}));
    server.ask(async |nodes| nodes.patch("n0", &PatchParams::default(), &given).await.unwrap());
    daemon.wait_ready();
    assert_eq!(daemon.subnet().0.to_string(), "10.5.7.0/24");
    // Somebody takes the annotation away: it is back.
    let bare = Patch::Merge(json!({"metadata": {"annotations": {format!("{PREFIX}public-ip"): null}}}));
    server.ask(async |nodes| nodes.patch("n0", &PatchParams::default(), &bare).await.unwrap());
    within(SOON, "the annotation is back", || server.said("n0", "public-ip") == "198.18.50.1");
    daemon.wait_ready();
}

#[test]
fn while_the_api_server_is_away_packets_go_on_and_later_news_are_heard() {
    let lab = Lab::with_hosts(2);
    let mut server = Server::start(&lab, &ALLOCATE);
    server.add("n0", &json!({}));
    server.add("n1", &json!({}));
    let daemons = [0, 1].map(|host| server.flanneld(&lab, host, UDP));
    for daemon in &daemons {
        daemon.wait_ready();
        daemon.wait_for("flannel_leases", 2);
    }
    let pods = [0, 1].map(|host| lab.pod(host, &daemons[host]));
    within(SOON, "pods talk", || answers(&pods[0], &pods[1]));
    let status = || {
        let (done, text) = daemons[0].look(&["status"]);
        assert!(done, "{text}");
        text.lines()
            .find(|line| line.starts_with("kubernetes "))
            .unwrap_or_else(|| panic!("{text}"))
            .to_owned()
    };
    assert!(status().starts_with("kubernetes last answer "), "{}", status());
    server.stop();
    within(SOON, "the status says that it is away", || status().starts_with("kubernetes FAILING for "));
    assert!(answers(&pods[0], &pods[1]), "while it is away");
    server.start_again(&ALLOCATE);
    within(Duration::from_secs(60), "it answers again", || {
        server.ask(async |nodes| nodes.get("n0").await.is_ok())
    });
    let go =
        json!({format!("{PREFIX}kube-subnet-manager"): "true", format!("{PREFIX}public-ip"): "198.18.50.9"});
    server.add("go", &go);
    within(Duration::from_secs(40), "the new node is heard of", || daemons[0].metric("flannel_leases") == 3);
    assert!(status().starts_with("kubernetes last answer "), "{}", status());
    assert!(answers(&pods[0], &pods[1]));
}

#[test]
fn the_hardware_address_stays_across_a_restart_without_the_device() {
    let lab = Lab::with_hosts(1);
    let server = Server::start(&lab, &ALLOCATE);
    server.add("n0", &json!({format!("{PREFIX}public-ip-overwrite"): "203.0.113.5"}));
    let mut daemon = server.flanneld(&lab, 0, VXLAN);
    daemon.wait_ready();
    let data = server.said("n0", "backend-data");
    assert!(
        data.starts_with(r#"{"VNI":1,"VtepMAC":""#) && server.said("n0", "backend-type") == "vxlan",
        "{data}"
    );
    assert_eq!(server.said("n0", "public-ip"), "203.0.113.5", "a person's word goes before what was found");
    daemon.end(Signal::SIGTERM);
    inside(lab.hosts[0].ns.path(), async || {
        let netlink = Netlink::connect().unwrap();
        let device = netlink.link_by_name("flannel.1").await.unwrap().unwrap();
        netlink.delete_link(device.index).await.unwrap();
    });
    let daemon = server.flanneld(&lab, 0, VXLAN);
    daemon.wait_ready();
    assert_eq!(server.said("n0", "backend-data"), data);
}
