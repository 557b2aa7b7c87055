//! The end of a pod's volumes. It knows the pod only by what lies on disk and is mounted there.

use crate::Config;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Below a pod's directory: its volumes.
pub(super) const VOLUMES: &str = "volumes";
/// Below a pod's directory: parts of volumes that containers mount.
pub(super) const SUBPATHS: &str = "volume-subpaths";
/// Mounts may lie on top of each other, as high as this.
const MAX_STACKED: usize = 16;

/// Unmounts and removes all volumes of the pod with `uid`, whose containers are gone. Idempotent; it knows the pod only by
/// what lies on disk, so that volumes of pods that vanished meanwhile go too.
pub(crate) async fn unmount(config: &Config, uid: &str) -> io::Result<()> {
    let pod = config.pod_dir(uid);
    tokio::task::spawn_blocking(move || remove(&pod)).await.unwrap_or_else(|e| Err(io::Error::other(e)))
}

/// Nothing is removed as long as something is mounted below it: that may be a directory of the node.
pub(super) fn remove(pod: &Path) -> io::Result<()> {
    // Mounts are listed by their real path.
    let pod = match pod.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    // Parts first: they are bound from the volumes.
    for name in [SUBPATHS, VOLUMES] {
        let directory = pod.join(name);
        unmount_all(&directory)?;
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn unmount_all(directory: &Path) -> io::Result<()> {
    for _ in 0..MAX_STACKED {
        let mounts = mounts_below(directory)?;
        if mounts.is_empty() {
            return Ok(());
        }
        // The inner ones were mounted later and are listed later.
        for mount in mounts.iter().rev() {
            nix::mount::umount2(mount, nix::mount::MntFlags::UMOUNT_NOFOLLOW).map_err(|e| {
                let text = format!("unmounting {}: {}; who uses it still?", mount.display(), e.desc());
                io::Error::new(io::Error::from(e).kind(), text)
            })?;
        }
    }
    Err(io::Error::other(format!("mounts below {} do not end", directory.display())))
}

/// Where something is mounted at or below the directory, in the order of mounting.
pub(super) fn mounts_below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(parse(&fs::read("/proc/self/mountinfo")?, directory))
}

fn parse(mountinfo: &[u8], directory: &Path) -> Vec<PathBuf> {
    let lines = mountinfo.split(|byte| *byte == b'\n');
    let points = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4)).map(unescaped);
    points.filter(|point| point.starts_with(directory)).collect()
}

/// The kernel writes blanks and backslashes as three octal digits.
fn unescaped(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        let code = digits.filter(|_| *first == b'\\').and_then(|d| u8::from_str_radix(d, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { tail.get(3..).unwrap_or_default() } else { tail };
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::mount::{MsFlags, mount};
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn mounts_are_found() {
        let text = b"21 1 0:20 / /proc rw - proc proc rw
30 1 0:30 / /pods/u/volumes/a\\040b rw shared:1 - tmpfs tmpfs rw
31 1 0:31 /x /pods/u/volumes/a\\040b/in rw - ext4 /dev/sda rw
32 1 0:32 / /pods/u2/volumes/c rw - tmpfs tmpfs rw
";
        let found = parse(text, Path::new("/pods/u"));
        assert_eq!(found, [Path::new("/pods/u/volumes/a b"), Path::new("/pods/u/volumes/a b/in")]);
        assert_eq!(unescaped(b"a\\134\\9").as_os_str().as_bytes(), b"a\\\\9");
    }

    #[test]
    fn a_mount_in_use_stops_the_removal() {
        let dir = tempfile::Builder::new().prefix("kubelet-").tempdir().unwrap();
        let volume = dir.path().join(VOLUMES).join("kubernetes.io~empty-dir/v");
        fs::create_dir_all(&volume).unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "1").unwrap();
        mount(Some(&outside), &volume, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        std::os::unix::fs::symlink(&outside, dir.path().join(VOLUMES).join("link")).unwrap();
        let used = fs::File::open(volume.join("file")).unwrap();
        let error = remove(dir.path()).unwrap_err();
        assert!(error.to_string().starts_with("unmounting "), "{error}");
        drop(used);
        remove(dir.path()).unwrap();
        assert!(!dir.path().join(VOLUMES).exists());
        assert!(outside.join("file").exists());
        remove(dir.path()).unwrap();
        remove(&dir.path().join("none")).unwrap();
    }
}
