//! The few things that are done with files: whole or not at all, one process at a time, and never by way of a symbolic link.
//!
//! A link as the last part of a path can only have been planted: nobody who writes here makes any.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

use crate::error::Error;

/// Entries of a state directory that are looked at. A /16 of pods on one node is far beyond what a kubelet runs.
const MAX_ENTRIES: usize = 1 << 17;

/// Makes a directory and its parents, readable by root only.
pub fn make_dir(path: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::io("make the directory", path))
}

/// Holds `flock` on a file until it is dropped; the kernel also lets go when the process dies and with it every program that it started
/// under the lock. So a DEL waits for the `nft` of an ADD that was killed, which would otherwise write its rules after the DEL's.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Waits until nobody else holds `dir/lock`: the file and the kind of lock that host-local uses.
    pub fn take(dir: &Path) -> Result<Lock, Error> {
        make_dir(dir)?;
        let path = dir.join(LOCK);
        let open = no_link().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = open.map_err(Error::io("open the lock", &path))?;
        // A program that is started now inherits the file.
        fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty()))
            .map_err(|errno| Error::io("share the lock", &path)(errno.into()))?;
        file.lock().map_err(Error::io("take the lock", &path))?;
        Ok(Lock { _file: file })
    }
}

const LOCK: &str = "lock";

/// Open fails with ELOOP where the path ends in a symbolic link.
fn no_link() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags(OFlag::O_NOFOLLOW.bits());
    options
}

/// Writes a file by way of a rename, mode 0600: a reader (and a plugin that was killed) sees the old text or the new one. The caller holds
/// the directory's lock: there is one temporary name, so that killed plugins cannot fill the directory.
///
/// It is on the disk before it has its name: after a power cut an empty reservation would be nobody's, and its address lost until GC.
pub fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    let temporary = path.with_file_name(".new");
    let written = (|| {
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = no_link().create_new(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_data()?;
        std::fs::rename(&temporary, path)
    })();
    written.map_err(Error::io("write", path))
}

/// A file's text; none if there is no such file.
pub fn read(path: &Path) -> Result<Option<String>, Error> {
    let mut bytes = Vec::new();
    match no_link().read(true).open(path).and_then(|mut file| file.read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// Removes a file that may be gone already.
pub fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The regular files of a directory but the lock, by name; none if the directory is missing.
pub fn list(dir: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io("list", dir))?,
    };
    let mut files = Vec::new();
    for entry in entries.take(MAX_ENTRIES) {
        let entry = entry.map_err(Error::io("list", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != LOCK && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            files.push((name, entry.path()));
        }
    }
    files.sort();
    Ok(files)
}
