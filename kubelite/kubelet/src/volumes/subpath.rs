//! subPath: a part of a volume as a mount of its own.
//!
//! Containers can write into their volumes, so a path below one may lead anywhere by symbolic links, and may change
//! between a look and a mount. The kernel resolves it with the rule that it stays beneath the volume, and what it found is
//! bound, by its descriptor, to a place that no container can reach; the runtime mounts that place.

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, mkdirat, stat};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// Binds `part` of the volume at `base` to `target`, making directories that are missing, and returns `target`.
pub(super) fn bind(base: &Path, part: &str, target: &Path) -> Result<PathBuf, String> {
    let components = components(part)?;
    if components.is_empty() {
        return Ok(base.to_path_buf());
    }
    let failed = |what: &str, error: Errno| format!("{what} {part} in {}: {}", base.display(), error.desc());
    let volume = nix::fcntl::open(base, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|e| failed("opening", e))?;
    let found = match open(volume.as_fd(), Path::new(part), OFlag::O_PATH) {
        Err(Errno::ENOENT) => make(&volume, &components).map_err(|e| failed("making", e))?,
        other => other.map_err(|e| match e {
            Errno::EXDEV | Errno::ELOOP => format!("subPath {part} leads out of its volume"),
            other => failed("opening", other),
        })?,
    };
    bind_descriptor(&found, target).map_err(|e| format!("binding {part} to {}: {e}", target.display()))?;
    Ok(target.to_path_buf())
}

/// The path's components; an error if it is not below the volume as it stands there.
fn components(part: &str) -> Result<Vec<PathBuf>, String> {
    let one = |component| match component {
        Component::Normal(name) => Some(Ok(PathBuf::from(name))),
        Component::CurDir => None,
        _ => Some(Err(format!("subPath \"{part}\" must be relative and must not contain '..'"))),
    };
    Path::new(part).components().filter_map(one).collect()
}

/// Opens what lies at `path` beneath `at`; symbolic links may not lead out of it.
fn open(at: BorrowedFd<'_>, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let beneath = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    openat2(at, path, OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(beneath))
}

/// Makes the missing directories, with the volume's own mode, and opens the last one.
fn make(volume: &OwnedFd, components: &[PathBuf]) -> nix::Result<OwnedFd> {
    let mode = Mode::from_bits_truncate(fstat(volume)?.st_mode);
    let mut at = volume.try_clone().map_err(|_| Errno::EMFILE)?;
    let mut way = PathBuf::new();
    for name in components {
        way.push(name);
        let next = match open(volume.as_fd(), &way, OFlag::O_PATH | OFlag::O_DIRECTORY) {
            Err(Errno::ENOENT) => {
                mkdirat(&at, name, mode)?;
                // Not a link that came meanwhile, and not by the umask.
                let made = open(at.as_fd(), name, OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW)?;
                fchmod(&made, mode)?;
                made
            }
            other => other?,
        };
        at = next;
    }
    Ok(at)
}

fn bind_descriptor(found: &OwnedFd, target: &Path) -> std::io::Result<()> {
    let what = fstat(found)?;
    if let Ok(there) = stat(target)
        && is_mount(target)
    {
        if (there.st_dev, there.st_ino) == (what.st_dev, what.st_ino) {
            return Ok(());
        }
        // Of an earlier instance of the container.
        umount2(target, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH)?;
    }
    let directory = SFlag::from_bits_truncate(what.st_mode).contains(SFlag::S_IFDIR);
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::symlink_metadata(target) {
        Ok(there) if there.is_dir() != directory => match there.is_dir() {
            true => fs::remove_dir(target)?,
            false => fs::remove_file(target)?,
        },
        _ => {}
    }
    if directory {
        fs::create_dir_all(target)?;
    } else if !target.exists() {
        fs::File::create(target)?;
    }
    let source = format!("/proc/self/fd/{}", found.as_raw_fd());
    mount(Some(source.as_str()), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

/// Whether something is mounted at the path; also true where the file systems on both sides are the same.
fn is_mount(target: &Path) -> bool {
    // Mounts are listed by their real path.
    let Ok(target) = target.canonicalize() else { return false };
    super::teardown::mounts_below(&target).is_ok_and(|mounts| mounts.contains(&target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A volume and a place for its parts; unmounted when dropped.
    struct Pod(tempfile::TempDir);

    impl Pod {
        fn new() -> Pod {
            let pod = Pod(tempfile::Builder::new().prefix("kubelet-").tempdir().unwrap());
            fs::create_dir(pod.0.path().join("volume")).unwrap();
            pod
        }

        fn volume(&self) -> PathBuf {
            self.0.path().join("volume")
        }

        fn target(&self) -> PathBuf {
            self.0.path().join(super::super::teardown::SUBPATHS).join("0")
        }
    }

    impl Drop for Pod {
        fn drop(&mut self) {
            super::super::teardown::remove(self.0.path()).unwrap();
        }
    }

    #[test]
    fn parts_are_bound() {
        let pod = Pod::new();
        let (volume, target) = (pod.volume(), pod.target());
        fs::create_dir(volume.join("..now")).unwrap();
        fs::write(volume.join("..now/key"), "1").unwrap();
        symlink("..now", volume.join("..data")).unwrap();
        symlink("..data/key", volume.join("key")).unwrap();
        assert_eq!(bind(&volume, "key", &target).unwrap(), target);
        assert_eq!(fs::read_to_string(&target).unwrap(), "1");

        // The next instance of the container wants the same, then the key has changed.
        bind(&volume, "key", &target).unwrap();
        fs::create_dir(volume.join("..new")).unwrap();
        fs::write(volume.join("..new/key"), "2").unwrap();
        fs::remove_file(volume.join("..data")).unwrap();
        symlink("..new", volume.join("..data")).unwrap();
        bind(&volume, "key", &target).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "2");
    }

    #[test]
    fn missing_directories_are_made() {
        let pod = Pod::new();
        bind(&pod.volume(), "a/b", &pod.target()).unwrap();
        fs::write(pod.target().join("file"), "1").unwrap();
        assert_eq!(fs::read_to_string(pod.volume().join("a/b/file")).unwrap(), "1");
    }

    #[test]
    fn nothing_leads_out_of_the_volume() {
        let pod = Pod::new();
        let (volume, outside) = (pod.volume(), pod.0.path().join("outside"));
        fs::create_dir(&outside).unwrap();
        symlink("/etc", volume.join("absolute")).unwrap();
        symlink("../outside", volume.join("relative")).unwrap();
        symlink("/proc/self/root", volume.join("magic")).unwrap();
        symlink("loop", volume.join("loop")).unwrap();
        for part in [
            "absolute",
            "absolute/passwd",
            "relative",
            "relative/new",
            "magic",
            "loop",
            "../outside",
            "/etc",
            "a/../..",
        ] {
            assert!(bind(&volume, part, &pod.target()).is_err(), "{part}");
        }
        assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
    }
}
