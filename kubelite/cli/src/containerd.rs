//! The node's own containerd: its configuration, its start, and a new start when it ends.
//!
//! Pods outlive it (their shims are no children of it), so kubelite's end and its restart leave them running. A containerd
//! that is found running on the socket, as after a `kill -9` of kubelite, is used as it is.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

const START_LIMIT: Duration = Duration::from_secs(20);
const RESTART_PAUSE: Duration = Duration::from_secs(1);
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// The state folder and socket; below /run, since it must not outlive the machine's boot.
const STATE: &str = "/run/kubelite/containerd";

/// What the configuration is made from.
#[derive(Debug)]
pub struct Containerd {
    /// kubelite's data folder.
    pub data_dir: PathBuf,
    /// The reference of the sandbox image.
    pub pause_image: String,
}

impl Containerd {
    /// Where it listens, as the CRI client and `ctr -a` want it.
    pub fn socket() -> PathBuf {
        Path::new(STATE).join("containerd.sock")
    }

    /// Starts it, waits until it answers, and keeps it running until `shutdown`.
    pub async fn start(self, shutdown: CancellationToken) -> Result<tokio::task::JoinHandle<()>> {
        let config = self.data_dir.join("agent/etc/containerd/config.toml");
        write(&config, &self.config())?;
        let log = self.data_dir.join("agent/containerd.log");
        let child = if answers() { None } else { Some(spawn(&config, &log)?) };
        wait(&log).await?;
        info!(socket = %Self::socket().display(), adopted = child.is_none(), "containerd answers");
        Ok(tokio::spawn(supervise(child, config, log, shutdown)))
    }

    /// The configuration, fitted to what this machine allows.
    fn config(&self) -> String {
        let root = self.data_dir.join("agent/containerd");
        format!(
            r#"# Written by kubelite at every start.
version = 2
root = "{root}"
state = "{STATE}"
oom_score = 0

[grpc]
  address = "{STATE}/containerd.sock"

[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  enable_selinux = false
  disable_apparmor = {no_apparmor}
  restrict_oom_score_adj = {restrict}

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/opt/cni/bin"
  conf_dir = "/etc/cni/net.d"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = false
  Root = "{STATE}/runc"
"#,
            root = root.display(),
            pause = self.pause_image,
            no_apparmor = !Path::new("/sys/kernel/security/apparmor").exists(),
            restrict = !may_lower_oom_score(),
        )
    }
}

/// Whether the process has CAP_SYS_RESOURCE: without it no sandbox starts, since its oom_score_adj cannot be lowered.
fn may_lower_oom_score() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or("0");
    u64::from_str_radix(line.trim(), 16).is_ok_and(|caps| caps >> CAP_SYS_RESOURCE & 1 == 1)
}

fn answers() -> bool {
    UnixStream::connect(Containerd::socket()).is_ok()
}

fn spawn(config: &Path, log: &Path) -> Result<Child> {
    let out = fs::OpenOptions::new().create(true).append(true).open(log)?;
    Command::new("containerd")
        .arg("--config")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
        .context("cannot start containerd: install it (package containerd), or name a running runtime by --container-runtime-endpoint")
}

async fn wait(log: &Path) -> Result<()> {
    let start = tokio::time::Instant::now();
    while !answers() {
        if start.elapsed() > START_LIMIT {
            bail!("containerd did not answer within {} s: look at {}", START_LIMIT.as_secs(), log.display());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn supervise(mut child: Option<Child>, config: PathBuf, log: PathBuf, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return stop(child).await,
            () = ended(child.as_mut()) => {}
        }
        warn!(log = %log.display(), "containerd ended; starting it again");
        tokio::time::sleep(RESTART_PAUSE).await;
        child = match spawn(&config, &log) {
            Ok(child) => Some(child),
            Err(error) => {
                warn!("{error:#}");
                None
            }
        };
    }
}

/// Returns when containerd is gone: its own child by its exit, an adopted one when its socket no longer answers.
async fn ended(child: Option<&mut Child>) {
    if let Some(child) = child {
        // An error means that there is nothing to wait for any more.
        let _ = child.wait().await;
        return;
    }
    loop {
        tokio::time::sleep(Duration::from_secs(10)).await;
        if !answers() {
            return;
        }
    }
}

async fn stop(child: Option<Child>) {
    let Some(mut child) = child else { return };
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // It may have ended by itself in the meantime.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
    }
    if tokio::time::timeout(STOP_LIMIT, child.wait()).await.is_err() {
        warn!("containerd does not end; it is left running");
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
