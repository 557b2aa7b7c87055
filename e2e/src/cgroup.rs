//! The lab's control groups: every process of a host is in one, so that none can be forgotten.
//!
//! Works on version 1, hybrid and version 2 hierarchies. What doesn't live here: the pods' limits, which are the kubelet's matter.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::run::wait_for;

const ROOT: &str = "/sys/fs/cgroup";
/// The group below which all of the lab is.
pub const PARENT: &str = "kubelite-lab";

/// Puts the calling process into the host's group (and with it all that it starts).
///
/// The processes go to a leaf named `system`, since version 2 allows none in a group that has children.
pub fn join(host: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let group = hierarchy.join(PARENT).join(host).join("system");
        fs::create_dir_all(&group)
            .with_context(|| format!("cannot create the control group {}", group.display()))?;
        fs::write(group.join("cgroup.procs"), std::process::id().to_string())
            .with_context(|| format!("cannot join the control group {}", group.display()))?;
    }
    Ok(())
}

/// Ends every process in the lab's groups and removes the groups.
pub fn destroy(host: Option<&str>) -> Result<()> {
    let below = host.map_or_else(|| PathBuf::from(PARENT), |h| Path::new(PARENT).join(h));
    wait_for("the lab's processes to end", Duration::from_secs(20), || {
        let pids = processes(&below)?;
        for pid in &pids {
            // A process may have ended since: that is what is wanted.
            let _ = kill(*pid, Signal::SIGKILL);
        }
        Ok(pids.is_empty().then_some(()))
    })?;
    wait_for("the lab's control groups to go", Duration::from_secs(10), || {
        let mut left = false;
        for hierarchy in all_hierarchies()? {
            remove(&hierarchy.join(&below));
            left |= hierarchy.join(&below).exists();
        }
        Ok((!left).then_some(()))
    })
}

/// The pids of the processes that were started in a host, pods excluded.
pub fn of_host(host: &str) -> Vec<i32> {
    let below = Path::new(PARENT).join(host).join("system");
    processes(&below).unwrap_or_default().into_iter().map(Pid::as_raw).collect()
}

/// The pids of all processes of a host, pods included.
pub fn all_of_host(host: &str) -> Vec<i32> {
    processes(&Path::new(PARENT).join(host)).unwrap_or_default().into_iter().map(Pid::as_raw).collect()
}

/// The processes in a group and all groups below it.
fn processes(below: &Path) -> Result<Vec<Pid>> {
    let mut pids = Vec::new();
    for hierarchy in all_hierarchies()? {
        collect(&hierarchy.join(below), &mut pids);
    }
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

fn collect(group: &Path, pids: &mut Vec<Pid>) {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse().ok()).map(Pid::from_raw));
    for child in children(group) {
        collect(&child, pids);
    }
}

fn remove(group: &Path) {
    for child in children(group) {
        remove(&child);
    }
    // Busy or gone: the caller looks again.
    let _ = fs::remove_dir(group);
}

fn children(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

/// Where processes are counted: the unified hierarchy, or on version 1 those that matter for limits.
fn hierarchies() -> Result<Vec<PathBuf>> {
    if Path::new(ROOT).join("cgroup.controllers").exists() {
        return Ok(vec![PathBuf::from(ROOT)]);
    }
    Ok(["pids", "memory"].iter().map(|name| Path::new(ROOT).join(name)).filter(|p| p.exists()).collect())
}

/// Every mounted hierarchy: a container runtime makes groups in all of them.
fn all_hierarchies() -> Result<Vec<PathBuf>> {
    if Path::new(ROOT).join("cgroup.controllers").exists() {
        return Ok(vec![PathBuf::from(ROOT)]);
    }
    Ok(children(Path::new(ROOT)))
}
