//! emptyDir: a folder of the node's disk, or of its memory.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::Path;

use k8s_openapi::api::core::v1::EmptyDirVolumeSource;
use kubelite_api::quantity::Quantity;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

const MODE: u32 = 0o777;

/// Makes it, unless it is there.
pub(super) fn make(path: &Path, source: &EmptyDirVolumeSource, group: Option<i64>) -> io::Result<()> {
    if path.is_dir() && (source.medium.as_deref() != Some("Memory") || is_mounted(path)?) {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o750).create(path)?;
    if source.medium.as_deref() == Some("Memory") {
        let limit = source.size_limit.as_ref().and_then(|q| q.0.parse::<Quantity>().ok()).map(|q| q.value());
        let options = limit.map_or_else(String::new, |bytes| format!("size={bytes}"));
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))?;
    }
    let group = group.and_then(|g| u32::try_from(g).ok());
    if let Some(group) = group {
        chown(path, None, Some(group))?;
    }
    // What is made in it belongs to the group too.
    let sticky = if group.is_some() { 0o2000 } else { 0 };
    fs::set_permissions(path, Permissions::from_mode(MODE | sticky))
}

/// Unmounts whatever is mounted below a folder, the deepest first.
pub(super) fn unmount_below(dir: &Path) -> io::Result<()> {
    let mut below: Vec<_> = mounts()?.into_iter().filter(|at| Path::new(at).starts_with(dir)).collect();
    below.sort_by_key(|at| std::cmp::Reverse(at.len()));
    for at in below {
        umount2(Path::new(&at), MntFlags::UMOUNT_NOFOLLOW)?;
    }
    Ok(())
}

fn is_mounted(path: &Path) -> io::Result<bool> {
    Ok(mounts()?.iter().any(|at| Path::new(at) == path))
}

/// Where something is mounted, from the kernel's table; its blanks are escaped there.
fn mounts() -> io::Result<Vec<String>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table.lines().filter_map(|line| Some(line.split(' ').nth(4)?.replace("\\040", " "))).collect())
}
