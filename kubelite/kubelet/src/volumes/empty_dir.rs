//! emptyDir: a directory of the pod's own, on disk or in memory.

use super::Volume;
use k8s_openapi::api::core::v1::EmptyDirVolumeSource;
use kubelite_api::quantity::Quantity;
use nix::mount::{MsFlags, mount};
use nix::unistd::{Gid, chown};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Everyone in the pod may write.
const MODE: u32 = 0o777;
/// What is made in a directory with this bit belongs to the directory's group.
const SET_GROUP: u32 = 0o2000;

/// Makes the directory. What containers put there stays as it is when this is called again.
pub(super) fn set_up(source: &EmptyDirVolumeSource, volume: &Volume<'_>) -> Result<(), String> {
    let path = &volume.path;
    let result = match source.medium.as_deref().unwrap_or_default() {
        "" => make(path, volume.group),
        "Memory" => {
            let limit = source.size_limit.as_ref().and_then(|q| q.0.parse::<Quantity>().ok());
            in_memory(path, limit.map(|q| q.value()).filter(|bytes| *bytes > 0), volume.group)
        }
        other => return Err(format!("unknown storage medium \"{other}\"")),
    };
    result.map_err(|e| format!("making {}: {e}", path.display()))
}

fn make(path: &Path, group: Option<u32>) -> io::Result<()> {
    if path.is_dir() && ready(path, group)? {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    finish(path, group)
}

/// Whether the directory was finished before; a kubelet that ended in between left it half made.
fn ready(path: &Path, group: Option<u32>) -> io::Result<bool> {
    let metadata = fs::metadata(path)?;
    Ok(metadata.mode() & MODE == MODE && group.is_none_or(|group| metadata.gid() == group))
}

fn finish(path: &Path, group: Option<u32>) -> io::Result<()> {
    if let Some(group) = group {
        chown(path, None, Some(Gid::from_raw(group)))?;
    }
    let inherit = if group.is_some() { SET_GROUP } else { 0 };
    fs::set_permissions(path, Permissions::from_mode(MODE | inherit))
}

fn in_memory(path: &Path, bytes: Option<i64>, group: Option<u32>) -> io::Result<()> {
    fs::create_dir_all(path)?;
    if !is_mount(path)? {
        let size = bytes.map(|bytes| format!("size={bytes}"));
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), size.as_deref())?;
    }
    if ready(path, group)? { Ok(()) } else { finish(path, group) }
}

/// Whether another file system begins at the path.
fn is_mount(path: &Path) -> io::Result<bool> {
    let parent = path.parent().map_or(Ok(None), |p| fs::metadata(p).map(|m| Some(m.dev())))?;
    Ok(parent.is_some_and(|dev| fs::metadata(path).is_ok_and(|m| m.dev() != dev)))
}
