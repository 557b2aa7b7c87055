//! subPath: a path inside a volume, that no link leads out of (CVE-2017-1002101, CVE-2021-25741).

use std::fs::{DirBuilder, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// The real path of `sub` inside `base`; a folder is made there if nothing is. Links inside the volume are followed, links that
/// lead out of it are refused by the kernel itself, so that nobody can change one in between.
pub(super) fn inside(base: &Path, sub: &str) -> Result<PathBuf, String> {
    let sub = Path::new(sub);
    if sub.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(format!("\"{}\" must be a relative path without \"..\"", sub.display()));
    }
    let root = File::open(base).map_err(|e| format!("{}: {e}", base.display()))?;
    match open(&root, sub) {
        Ok(path) => Ok(path),
        Err(Errno::ENOENT) => {
            make(&root, sub)?;
            open(&root, sub).map_err(|e| told(sub, e))
        }
        Err(error) => Err(told(sub, error)),
    }
}

fn told(sub: &Path, error: Errno) -> String {
    match error {
        Errno::EXDEV | Errno::ELOOP => format!("\"{}\" leads out of the volume", sub.display()),
        error => format!("\"{}\": {error}", sub.display()),
    }
}

fn open(root: &File, sub: &Path) -> Result<PathBuf, Errno> {
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_BENEATH);
    let found = openat2(root, sub, how)?;
    std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).map_err(|_| Errno::EIO)
}

/// Makes the folders one by one, each below one that was opened safely.
fn make(root: &File, sub: &Path) -> Result<(), String> {
    let mut so_far = PathBuf::new();
    for part in sub.components() {
        let parent = if so_far.as_os_str().is_empty() { Path::new(".") } else { &so_far };
        let parent = open(root, parent).map_err(|e| told(sub, e))?;
        match DirBuilder::new().mode(0o750).create(parent.join(part)) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(format!("{}: {error}", sub.display()));
            }
            _ => so_far.push(part),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("volume");
        std::fs::create_dir_all(base.join("in")).unwrap();
        std::os::unix::fs::symlink("/etc", base.join("out")).unwrap();
        std::os::unix::fs::symlink("../..", base.join("up")).unwrap();
        std::os::unix::fs::symlink("in", base.join("around")).unwrap();
        let real = base.canonicalize().unwrap();
        assert_eq!(inside(&base, "in").unwrap(), real.join("in"));
        assert_eq!(inside(&base, "around").unwrap(), real.join("in"));
        assert_eq!(inside(&base, "new/deep").unwrap(), real.join("new/deep"));
        for bad in ["out", "out/passwd", "up", "../x", "/etc", "in/../../x"] {
            assert!(inside(&base, bad).is_err(), "{bad}");
        }
    }
}
