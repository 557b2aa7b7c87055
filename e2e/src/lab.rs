//! The lab: three hosts, a cluster on them, and its end.
//!
//! `up` is the project's main job on one machine and `down` leaves nothing behind, whatever state `up` or a `kill -9` left.
//! So `down` trusts no record: it finds everything by the names that only the lab uses (control group, namespaces).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::datastore::Datastore;
use crate::host::Host;
use crate::run::{run, wait_for};
use crate::{cgroup, images, network};

/// How many hosts `make up` makes.
pub const HOSTS: u8 = 3;
/// The address at which the hosts reach the API server.
pub const SERVER: &str = "https://198.18.7.1:6443";
const RUNTIME: &str = "/run/kubelite/containerd/containerd.sock";
/// What the hosts' images, snapshots and logs take, with some room.
const DISK_MIB: u64 = 512;
const TOOLS: [&str; 6] = ["containerd", "runc", "ctr", "nft", "ip", "tcpdump"];

/// Where flannel's subnets come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Subnets {
    /// flanneld takes them in etcd
    Etcd,
    /// A controller gives them to the nodes (spec.podCIDR)
    Kube,
}

/// The lab of one checkout, in its folder `.lab`.
#[derive(Debug, Clone)]
pub struct Lab {
    /// The absolute path of `.lab`.
    pub dir: PathBuf,
    started: Instant,
}

impl Lab {
    /// The lab below this folder; nothing is started.
    pub fn at(folder: &Path) -> Result<Lab> {
        let dir = std::path::absolute(folder)?.join(".lab");
        Ok(Lab { dir, started: Instant::now() })
    }

    /// The running lab of this checkout, for scenarios: an error if there is none.
    pub fn attach() -> Result<Lab> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let root = root.canonicalize().with_context(|| format!("the checkout {} is gone", root.display()))?;
        let lab = Lab::at(&root)?;
        lab.check_running()?;
        Ok(lab)
    }

    /// An error unless the lab of this checkout runs.
    pub fn check_running(&self) -> Result<()> {
        if self.host(1).pid().is_none() {
            bail!("the lab is not running: `make up` starts it, `make test` does all");
        }
        Ok(())
    }

    /// The `n`-th host, whether it runs or not.
    pub fn host(&self, n: u8) -> Host {
        let name = network::host_name(n);
        Host { dir: self.dir.join(&name), ip: network::host_ip(n), name }
    }

    /// Where the administrator's kubeconfig is.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// kubectl, as administrator.
    pub fn kubectl(&self, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(args);
        command
    }

    /// The type of flannel's backend in this cluster, e.g. `udp`.
    pub fn backend(&self) -> Result<String> {
        let config = self.etcdctl(&["get", "--print-value-only", "/coreos.com/network/config"])?;
        let config: serde_json::Value =
            serde_json::from_str(&config).context("flannel's config is no JSON")?;
        Ok(config["Backend"]["Type"].as_str().unwrap_or("udp").to_owned())
    }

    /// etcdctl against the store on the first host, with root's certificate.
    pub fn etcdctl(&self, args: &[&str]) -> Result<String> {
        let host = self.host(1);
        run(Datastore::of(&host).etcdctl(&host).args(args))
    }

    /// Brings everything up, step by step; on a lab that is up already it only says so.
    pub fn up(&self, datastore: Datastore, backend: &str, subnets: Subnets) -> Result<()> {
        check_machine()?;
        fs::create_dir_all(&self.dir).with_context(|| format!("cannot create {}", self.dir.display()))?;
        check_disk(&self.dir)?;
        let _lock = self.lock()?;
        if self.host(1).pid().is_some() && self.kubeconfig().exists() {
            self.step("the lab is up already; `make down` ends it");
            return Ok(());
        }
        let archives = images::build(&self.dir.join("images"))?;
        self.step("images built: pause, busybox, flannel");
        network::create()?;
        network::plug(1)?;
        let first = self.host(1);
        first.start()?;
        let mut flags = datastore.start(&first)?;
        flags.push(format!("--flannel-backend={backend}"));
        if subnets == Subnets::Kube {
            flags.push("--allocate-node-cidrs".to_owned());
        }
        first.spawn("kubelite.log", &images::binary("kubelite")?, &server_arguments(&flags))?;
        self.step("node1: kubelite server started");
        self.wait_for_server()?;
        self.step("node1: the API server answers");
        let token = self.token()?;
        for n in 2..=HOSTS {
            self.add_host(n, &agent_arguments(n, &token))?;
        }
        self.step("node2, node3: kubelite agent started");
        self.load_images(1..=HOSTS, &archives)?;
        self.step("images loaded into each node");
        match subnets {
            Subnets::Etcd => self.apply("manifests/kube-flannel.yaml")?,
            Subnets::Kube => self.apply_kube_flannel(backend)?,
        }
        self.step("flannel applied as a DaemonSet");
        self.wait_for_nodes(HOSTS)?;
        self.step("three nodes are Ready");
        Ok(())
    }

    /// Adds one more host with an agent to a running lab, images loaded.
    pub fn add_agent(&self, n: u8) -> Result<Host> {
        let archives = images::build(&self.dir.join("images"))?;
        self.add_host(n, &agent_arguments(n, &self.token()?))?;
        self.load_images(n..=n, &archives)?;
        Ok(self.host(n))
    }

    /// Kills kubelite on the first host, store and all, and starts it again with the same flags.
    pub fn restart_server(&self) -> Result<()> {
        let host = self.host(1);
        let pid = host.program("kubelite").context("kubelite does not run on node1")?;
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
        let arguments: Vec<String> = line.split_terminator('\0').skip(1).map(str::to_owned).collect();
        kill(Pid::from_raw(pid), Signal::SIGKILL).context("cannot kill kubelite")?;
        wait_for("kubelite to be gone", Duration::from_secs(5), || {
            Ok(host.program("kubelite").is_none().then_some(()))
        })?;
        Datastore::of(&host).restart(&host)?;
        host.spawn("kubelite.log", &images::binary("kubelite")?, &arguments)?;
        self.wait_for_server()
    }

    /// Ends everything and removes it, whatever there is of it.
    pub fn down(&self) -> Result<()> {
        if !nix::unistd::geteuid().is_root() {
            bail!("the lab's hosts belong to root: run `make down` as root");
        }
        cgroup::destroy(None)?;
        network::destroy()?;
        for n in 1..=network::MOST_HOSTS {
            remove(&self.host(n).dir)?;
        }
        remove(&self.kubeconfig())?;
        Ok(())
    }

    /// One line of progress with the time since the start.
    pub fn step(&self, text: &str) {
        let seconds = self.started.elapsed().as_secs_f32();
        eprintln!("[{seconds:5.1} s] {text}");
    }

    /// The manifest without etcd, with another backend in its network's configuration.
    fn apply_kube_flannel(&self, backend: &str) -> Result<()> {
        let file = self.dir.with_file_name("manifests/kube-flannel-kube-subnet-mgr.yaml");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let changed = self.dir.join("kube-flannel.yaml");
        fs::write(&changed, text.replace(r#""Type": "udp""#, &format!(r#""Type": "{backend}""#)))?;
        self.apply(".lab/kube-flannel.yaml")
    }

    /// Applies a manifest of this checkout with kubectl.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        let path = self.dir.with_file_name(manifest);
        // A kubectl older than 1.25 validates by OpenAPI v2, which is not served; the manifests have tests of their own.
        run(self.kubectl(&["apply", "--validate=false", "-f"]).arg(path)).map(drop)
    }

    fn add_host(&self, n: u8, arguments: &[String]) -> Result<()> {
        network::plug(n)?;
        let host = self.host(n);
        host.start()?;
        host.spawn("kubelite.log", &images::binary("kubelite")?, arguments)
    }

    fn wait_for_server(&self) -> Result<()> {
        let written = self.host(1).dir.join("lib/kubeconfig");
        wait_for("the server to write its kubeconfig", Duration::from_secs(20), || {
            Ok(written.exists().then_some(()))
        })
        .with_context(|| self.look(1))?;
        fs::copy(&written, self.kubeconfig())?;
        wait_for("the API server to answer", Duration::from_secs(20), || {
            run(&mut self.kubectl(&["get", "--raw", "/readyz"])).map(Some)
        })
        .with_context(|| self.look(1))?;
        Ok(())
    }

    fn token(&self) -> Result<String> {
        let path = self.host(1).dir.join("lib/server/token");
        let token = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(token.trim().to_owned())
    }

    fn load_images(&self, hosts: std::ops::RangeInclusive<u8>, archives: &[PathBuf]) -> Result<()> {
        std::thread::scope(|scope| {
            let loads: Vec<_> = hosts.map(|n| scope.spawn(move || self.load(n, archives))).collect();
            loads
                .into_iter()
                .try_for_each(|load| load.join().unwrap_or_else(|_| bail!("loading images panicked")))
        })
    }

    fn load(&self, n: u8, archives: &[PathBuf]) -> Result<()> {
        let host = self.host(n);
        wait_for(&format!("containerd on {}", host.name), Duration::from_secs(20), || {
            host.run(&format!("ctr -a {RUNTIME} version")).map(Some)
        })
        .with_context(|| self.look(n))?;
        for archive in archives {
            let mut import = host.command("ctr")?;
            run(import
                .args(["-a", RUNTIME, "-n", "k8s.io", "images", "import", "--all-platforms"])
                .arg(archive))
            .with_context(|| format!("loading {} into {}", archive.display(), host.name))?;
        }
        Ok(())
    }

    /// Waits until so many nodes are Ready.
    pub fn wait_for_nodes(&self, count: u8) -> Result<()> {
        wait_for(&format!("{count} nodes to be Ready"), Duration::from_secs(60), || {
            let path = "jsonpath={.items[*].status.conditions[?(@.type==\"Ready\")].status}";
            let ready = run(&mut self.kubectl(&["get", "nodes", "-o", path]))?;
            Ok((ready.split_whitespace().filter(|s| *s == "True").count() >= usize::from(count))
                .then_some(()))
        })
        .with_context(|| {
            format!("look at `kubectl describe nodes` and {}/node*/kubelite.log", self.dir.display())
        })
    }

    fn look(&self, n: u8) -> String {
        format!("look at {}", self.host(n).dir.join("kubelite.log").display())
    }

    fn lock(&self) -> Result<Flock<fs::File>> {
        let file = fs::File::create(self.dir.join("lock"))?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
            anyhow::anyhow!("another `make up` is at work in this checkout: wait for it or end it")
        })
    }
}

fn server_arguments(flags: &[String]) -> Vec<String> {
    let mut arguments =
        vec!["server".to_owned(), "--write-kubeconfig=/var/lib/kubelite/kubeconfig".to_owned()];
    arguments.extend(node_arguments(1));
    arguments.extend_from_slice(flags);
    arguments
}

fn agent_arguments(n: u8, token: &str) -> Vec<String> {
    let mut arguments = vec!["agent".to_owned(), format!("--server={SERVER}"), format!("--token={token}")];
    arguments.extend(node_arguments(n));
    arguments
}

fn node_arguments(n: u8) -> [String; 3] {
    let name = network::host_name(n);
    [
        format!("--node-ip={}", network::host_ip(n)),
        format!("--cgroup-root=/{}/{name}", cgroup::PARENT),
        format!("--node-name={name}"),
    ]
}

fn check_machine() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the lab makes network namespaces and runs containers: run `make up` as root");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    for tool in TOOLS.into_iter().chain(["kubectl"]) {
        if !std::env::split_paths(&path).any(|dir| dir.join(tool).exists()) {
            bail!("{tool} is not installed: `make deps` installs what the lab needs");
        }
    }
    if !Path::new("/dev/net/tun").exists() {
        bail!("/dev/net/tun is missing: load the kernel module `tun` (modprobe tun)");
    }
    Ok(())
}

/// A full disk shows in the middle of something; better that it shows before.
fn check_disk(dir: &Path) -> Result<()> {
    let disk =
        nix::sys::statvfs::statvfs(dir).with_context(|| format!("cannot look at {}", dir.display()))?;
    let free = disk.blocks_available() * disk.fragment_size() / (1 << 20);
    if free < DISK_MIB {
        bail!("{} has {free} MiB free and the lab takes {DISK_MIB} MiB: make room there", dir.display());
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    let done = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match done {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
