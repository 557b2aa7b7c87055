//! The few things that are done with files: whole or not at all, and one process at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Entries of a state directory that are looked at. A /16 of pods on one node is far beyond what a kubelet runs.
const MAX_ENTRIES: usize = 1 << 17;

/// Makes a directory and its parents, readable by root only.
pub fn make_dir(path: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::io("make the directory", path))
}

/// Holds `flock` on a file until it is dropped; the kernel also lets go when the process dies.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Waits until nobody else holds `dir/lock`: the file and the kind of lock that host-local uses.
    pub fn take(dir: &Path) -> Result<Lock, Error> {
        make_dir(dir)?;
        let path = dir.join(LOCK);
        let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = open.map_err(Error::io("open the lock", &path))?;
        file.lock().map_err(Error::io("take the lock", &path))?;
        Ok(Lock { _file: file })
    }
}

const LOCK: &str = "lock";

/// Writes a file by way of a rename, mode 0600: a reader (and a plugin that was killed) sees the old text or the new one. The caller holds
/// the directory's lock: there is one temporary name, so that killed plugins cannot fill the directory.
pub fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    let temporary = path.with_file_name(".new");
    let written = (|| {
        let mut file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        std::fs::rename(&temporary, path)
    })();
    written.map_err(Error::io("write", path))
}

/// A file's text; none if there is no such file.
pub fn read(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
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
