//! A host of the lab: a network, mount and host name of its own, held open by one process.
//!
//! Inside, `/etc`, `/opt` and `/var` are overlays (writes go to the lab's folder), `/run` is empty as after a boot, and
//! `/var/lib` and `/var/log` lie on the lab's disk, since containerd's snapshots cannot stand on an overlay. So a host looks
//! like a machine of its own and leaves nothing on this one. `ip netns exec` would not do: it mounts a fresh `/sys` and
//! hides the control groups.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{pause, sethostname};

use crate::run::{run, wait_for};
use crate::{cgroup, images};

/// The folders whose changes a host keeps to itself.
const OVERLAYS: [&str; 3] = ["etc", "opt", "var"];
/// What lies on the lab's disk, in this folder of the host.
const DISKS: [(&str, &str); 2] = [("lib", "/var/lib/kubelite"), ("log", "/var/log")];

/// One host, by name and by its folder below `.lab`.
#[derive(Debug, Clone)]
pub struct Host {
    /// E.g. `node1`; also the name of its network namespace.
    pub name: String,
    /// Its address on `eth0`.
    pub ip: String,
    /// E.g. `.lab/node1`.
    pub dir: PathBuf,
}

impl Host {
    /// Starts the process that holds the host's namespaces; the network namespace must be there.
    pub fn start(&self) -> Result<()> {
        fs::create_dir_all(&self.dir).with_context(|| format!("cannot create {}", self.dir.display()))?;
        // Not the running program: that may be a scenario.
        let lab = images::binary("lab")?;
        let log = fs::File::create(self.dir.join("hold.log"))?;
        let mut command = Command::new(lab);
        command.arg("hold").arg(&self.name).arg(&self.dir);
        let mut child = detached(command.stdout(log.try_clone()?).stderr(log)).spawn()?;
        wait_for(&format!("host {} to be set up", self.name), Duration::from_secs(10), || {
            if let Some(status) = child.try_wait()? {
                let text = fs::read_to_string(self.dir.join("hold.log")).unwrap_or_default();
                anyhow::bail!("the host's first process ended ({status}): {}", text.trim());
            }
            Ok(self.pid())
        })?;
        Ok(())
    }

    /// A command that will run inside the host.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let pid =
            self.pid().with_context(|| format!("host {} is not running: `make up` starts it", self.name))?;
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &pid.to_string(), "--mount", "--net", "--uts", "--wdns=/", "--"])
            .arg(program);
        Ok(command)
    }

    /// Runs a command line (of words, without a shell) inside the host and returns what it prints.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut parts = line.split_whitespace();
        run(self.command(parts.next().unwrap_or("true"))?.args(parts))
    }

    /// Starts a long-running program inside the host, in the host's control group; its output goes to `<dir>/<log>`.
    pub fn spawn(&self, log: &str, program: &Path, args: &[String]) -> Result<()> {
        // Not the running program: that may be a scenario.
        let lab = images::binary("lab")?;
        let file = fs::OpenOptions::new().create(true).append(true).open(self.dir.join(log))?;
        let mut command = Command::new(lab);
        command.args(["spawn", &self.name]).arg(&self.dir).arg(program).args(args);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let mut child = detached(&mut command).spawn()?;
        // Reaped in passing, so that a program that ends at once leaves no zombie behind while the lab waits.
        std::thread::spawn(move || child.wait());
        Ok(())
    }

    /// The pid of a program of this name that the lab started in the host, if it runs.
    pub fn program(&self, name: &str) -> Option<i32> {
        cgroup::of_host(&self.name).into_iter().find(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let program = line.split(|b| *b == 0).next().unwrap_or_default();
            Path::new(&*String::from_utf8_lossy(program)).file_name().is_some_and(|f| f == name)
        })
    }

    /// The process that holds the namespaces, if it lives.
    pub fn pid(&self) -> Option<u32> {
        let pid: u32 = fs::read_to_string(self.dir.join("pid")).ok()?.trim().parse().ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        String::from_utf8_lossy(&line).contains("hold").then_some(pid)
    }
}

/// In a session of its own, so that Ctrl-C at the lab's terminal does not reach it.
fn detached(command: &mut Command) -> &mut Command {
    use std::os::unix::process::CommandExt;
    command.stdin(Stdio::null()).process_group(0)
}

/// `lab hold`: becomes the host's first process; returns only on failure.
pub fn hold(name: &str, dir: &Path) -> Result<()> {
    let dir = fs::canonicalize(dir)?;
    cgroup::join(name)?;
    let net = open(&Path::new("/run/netns").join(name), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    setns(net, CloneFlags::CLONE_NEWNET).context("cannot enter the host's network namespace")?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)
        .context("cannot make namespaces: are you root?")?;
    sethostname(name)?;
    mounts(&dir).with_context(|| format!("cannot set up the file systems of {name}"))?;
    let pid = dir.join("pid");
    fs::write(pid.with_extension("new"), std::process::id().to_string())?;
    fs::rename(pid.with_extension("new"), pid)?;
    loop {
        pause();
    }
}

/// `lab spawn`: joins the host's control group and namespaces and becomes the program.
pub fn spawn(name: &str, dir: &Path, program: &[String]) -> Result<()> {
    use std::os::unix::process::CommandExt;
    cgroup::join(name)?;
    let host = Host { name: name.to_owned(), ip: String::new(), dir: dir.to_owned() };
    let [first, rest @ ..] = program else { anyhow::bail!("no program was named") };
    Err(host.command(first)?.args(rest).exec()).context("cannot start nsenter (package util-linux)")
}

fn mounts(dir: &Path) -> Result<()> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    // Kept open over the overlays below: the lab itself may lie under /var or /opt.
    let mut disks = Vec::new();
    for (name, target) in DISKS {
        disks.push((folder(&dir.join(name))?, target));
    }
    for name in OVERLAYS {
        let (upper, work) = (dir.join(format!("{name}.upper")), dir.join(format!("{name}.work")));
        let (upper, work) = (folder(&upper)?, folder(&work)?);
        let options = format!("lowerdir=/{name},upperdir={},workdir={}", path(&upper), path(&work));
        mount(
            Some("overlay"),
            format!("/{name}").as_str(),
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .with_context(|| format!("overlay on /{name}"))?;
    }
    let _ = umount2("/run/netns", MntFlags::MNT_DETACH);
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))?;
    for (disk, target) in &disks {
        fs::create_dir_all(target)?;
        mount(Some(path(disk).as_str()), *target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("bind on {target}"))?;
    }
    // Shared, as systemd leaves it: containers with mount propagation demand it.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SHARED, None::<&str>)?;
    Ok(())
}

fn folder(dir: &Path) -> Result<OwnedFd> {
    fs::create_dir_all(dir)?;
    Ok(open(dir, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

fn path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}
