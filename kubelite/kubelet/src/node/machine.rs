//! Measurements of this machine. What can't be measured is absent or empty, never invented.

use std::path::Path;

/// What belongs to the machine and doesn't change while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) machine_id: String,
    pub(crate) system_uuid: String,
    pub(crate) boot_id: String,
    pub(crate) kernel: String,
    pub(crate) os_image: String,
    /// Go's name of the architecture.
    pub(crate) architecture: &'static str,
    pub(crate) cpus: u64,
    pub(crate) memory: u64,
}

/// What changes while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Bytes that can still be used without swapping.
    pub(crate) memory_available: u64,
    /// The file system of the pods' files.
    pub(crate) disk: Disk,
    /// Processes and threads, and how many there may be.
    pub(crate) tasks: u64,
    pub(crate) tasks_max: u64,
}

/// A file system, in bytes and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) size: u64,
    pub(crate) available: u64,
    pub(crate) inodes: u64,
    pub(crate) inodes_free: u64,
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_string()
}

/// Memory in bytes; 0 if the kernel doesn't say.
pub(crate) fn memory() -> u64 {
    field(&read("/proc/meminfo"), "MemTotal:").unwrap_or(0) * 1024
}

/// Whether the kernel confines processes by AppArmor profiles.
pub(crate) fn apparmor() -> bool {
    read("/sys/module/apparmor/parameters/enabled").starts_with('Y')
}

/// Measures what doesn't change.
pub(crate) fn identity() -> Identity {
    let uname = nix::sys::utsname::uname();
    Identity {
        machine_id: read("/etc/machine-id"),
        system_uuid: read("/sys/class/dmi/id/product_uuid"),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        kernel: uname.map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default(),
        os_image: os_image(&read("/etc/os-release")),
        architecture: architecture(std::env::consts::ARCH),
        cpus: cpus(&read("/proc/cpuinfo")),
        memory: memory(),
    }
}

/// Measures the load; `data` lies on the file system of the pods' files.
pub(crate) fn load(data: &Path) -> Load {
    let limit = |path: &str| read(path).parse().unwrap_or(u64::MAX);
    Load {
        memory_available: field(&read("/proc/meminfo"), "MemAvailable:").unwrap_or(0) * 1024,
        disk: disk(data),
        tasks: tasks(&read("/proc/loadavg")),
        tasks_max: limit("/proc/sys/kernel/pid_max").min(limit("/proc/sys/kernel/threads-max")),
    }
}

fn disk(path: &Path) -> Disk {
    let Ok(stat) = nix::sys::statvfs::statvfs(path) else { return Disk::default() };
    let unit = stat.fragment_size();
    Disk {
        size: stat.blocks() * unit,
        available: stat.blocks_available() * unit,
        inodes: stat.files(),
        inodes_free: stat.files_free(),
    }
}

/// The number after `key` in a text like /proc/meminfo.
fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
}

fn os_image(text: &str) -> String {
    let value = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    value.unwrap_or_default().trim_matches('"').to_string()
}

fn cpus(text: &str) -> u64 {
    let listed = text.lines().filter(|l| l.starts_with("processor")).count();
    let counted =
        if listed > 0 { listed } else { std::thread::available_parallelism().map_or(1, usize::from) };
    counted as u64
}

/// The fourth field of /proc/loadavg: running/all.
fn tasks(text: &str) -> u64 {
    text.split_whitespace()
        .nth(3)
        .and_then(|f| f.split_once('/'))
        .and_then(|(_, all)| all.parse().ok())
        .unwrap_or(0)
}

fn architecture(rust: &'static str) -> &'static str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "riscv64" => "riscv64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_understood() {
        assert_eq!(field("MemTotal:       16 kB\nMemAvailable:   8 kB\n", "MemAvailable:"), Some(8));
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"An OS 1\"\n"), "An OS 1");
        assert_eq!(cpus("processor\t: 0\nflags: x\nprocessor\t: 1\n"), 2);
        assert_eq!(tasks("0.1 0.2 0.3 2/345 678"), 345);
    }

    #[test]
    fn this_machine_has_memory_disk_and_tasks() {
        let load = load(Path::new("/"));
        assert!(identity().memory > load.memory_available && load.memory_available > 0);
        assert!(load.disk.size >= load.disk.available && load.disk.size > 0);
        assert!(load.tasks > 0 && load.tasks < load.tasks_max);
    }
}
