//! A node for tests: a containerd of its own under a temporary directory, and kubelets over it.

use crate::api::Api;
use crate::image;
use crate::tls::Authority;
use kubelite_kubelet::Config;
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

pub(crate) const IMAGE: &str = "docker.io/kubelite/busybox:1";
const CGROUP: &str = "/kubelite-kubelet-test";
const PAUSE: &str = "docker.io/kubelite/pause:test";

/// A containerd that ends, with all that it runs, when it is dropped.
pub(crate) struct Node {
    dir: PathBuf,
    containerd: Child,
    _temporary: tempfile::TempDir,
}

impl Node {
    pub(crate) fn start() -> Node {
        let temporary = tempfile::Builder::new().prefix("kubelet-").tempdir_in("/tmp").unwrap();
        let dir = temporary.path().to_path_buf();
        std::fs::write(dir.join("config.toml"), config(&dir)).unwrap();
        let log = std::fs::File::create(dir.join("containerd.log")).unwrap();
        let containerd = Command::new("containerd")
            .arg("--config")
            .arg(dir.join("config.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("containerd is missing (package containerd)");
        let node = Node { dir, containerd, _temporary: temporary };
        let began = Instant::now();
        while UnixStream::connect(node.socket()).is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "containerd does not answer:\n{}", node.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        image::write(&node.dir.join("image.tar"), &[IMAGE, PAUSE]);
        node.ctr(&["images", "import", node.dir.join("image.tar").to_str().unwrap()]);
        node
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.join(path)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("containerd.log")).unwrap_or_default()
    }

    pub(crate) fn ctr(&self, arguments: &[&str]) -> String {
        let output = Command::new("ctr")
            .arg("-a")
            .arg(self.socket())
            .args(["-n", "k8s.io"])
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "ctr {arguments:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// Starts a kubelet; it ends when the token is cancelled.
    pub(crate) fn kubelet(
        &self,
        api: &Api,
    ) -> (CancellationToken, tokio::task::JoinHandle<anyhow::Result<()>>) {
        self.kubelet_at(api, &Authority::new(), "127.0.0.1:0".parse().unwrap())
    }

    /// Starts a kubelet whose own API is at `listen`.
    pub(crate) fn kubelet_at(
        &self,
        api: &Api,
        authority: &Authority,
        listen: std::net::SocketAddr,
    ) -> (CancellationToken, tokio::task::JoinHandle<anyhow::Result<()>>) {
        let shutdown = CancellationToken::new();
        let (serving_certificate, serving_key) = authority.issue(None);
        let config = Config {
            listen,
            serving_certificate,
            serving_key,
            client_ca: authority.certificate.clone(),
            ..config_at(&self.dir, &self.socket())
        };
        let task = tokio::spawn(kubelite_kubelet::run(api.client(), config, shutdown.clone()));
        (shutdown, task)
    }
}

/// A kubelet's settings with all files below `dir`.
pub(crate) fn config_at(dir: &Path, socket: &Path) -> Config {
    let authority = Authority::new();
    let (serving_certificate, serving_key) = authority.issue(None);
    Config {
        node_name: "test-node".into(),
        node_ip: "127.0.0.1".parse().unwrap(),
        data_dir: dir.join("kubelet"),
        log_dir: dir.join("pods"),
        runtime_endpoint: socket.to_path_buf(),
        cluster_dns: None,
        cluster_domain: "cluster.local".into(),
        listen: "127.0.0.1:0".parse().unwrap(),
        serving_certificate,
        serving_key,
        client_ca: authority.certificate,
        labels: BTreeMap::new(),
        cgroup_root: Some(CGROUP.into()),
        max_pods: 110,
    }
}

fn config(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
[grpc]
  address = "{dir}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{dir}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  disable_apparmor = true
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{dir}/cni/bin"
  conf_dir = "{dir}/cni/conf"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = false
  Root = "{dir}/runc"
"#
    )
}

impl Drop for Node {
    fn drop(&mut self) {
        // The tasks first: shims outlive containerd.
        let ctr = |arguments: &[&str]| {
            let output = Command::new("ctr")
                .arg("-a")
                .arg(self.socket())
                .args(["-n", "k8s.io"])
                .args(arguments)
                .output();
            output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
        };
        for id in ctr(&["tasks", "ls", "-q"]).lines() {
            ctr(&["tasks", "kill", "-s", "SIGKILL", id]);
        }
        std::thread::sleep(Duration::from_millis(300));
        for id in ctr(&["tasks", "ls", "-q"]).lines() {
            ctr(&["tasks", "delete", "-f", id]);
        }
        let _ = self.containerd.kill();
        let _ = self.containerd.wait();
        unmount_below(&self.dir);
        remove_cgroups(CGROUP.trim_start_matches('/'));
    }
}

/// Removes the empty cgroups of the tests from every hierarchy; what another test still uses stays.
fn remove_cgroups(name: &str) {
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let root = hierarchy.path().join(name);
        let pods = std::fs::read_dir(root.join("kubepods")).into_iter().flatten().flatten();
        for cgroup in pods.map(|e| e.path()).chain([root.join("kubepods"), root.clone()]) {
            let _ = std::fs::remove_dir(cgroup);
        }
    }
}

fn unmount_below(dir: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let below = mounts.lines().filter_map(|l| l.split(' ').nth(1)).filter(|p| Path::new(p).starts_with(dir));
    for path in below.collect::<Vec<_>>().into_iter().rev() {
        let _ = nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Waits until `test` of the pod at `path` holds, and returns the pod.
pub(crate) async fn wait(api: &Api, path: &str, what: &str, test: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let pod = api.get(path);
        if let Some(pod) = pod.as_ref().filter(|p| test(p)) {
            return pod.clone();
        }
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{path} never was {what}:\n{}\nevents: {:#?}",
            pod.map(|p| format!("{:#}", p["status"])).unwrap_or("gone".into()),
            api.events()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
