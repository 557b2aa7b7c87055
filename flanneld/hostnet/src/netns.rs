//! Other network namespaces: to run something in one, and to make one for a test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::{Error, Result};

/// Where named namespaces are, as `ip netns` keeps them.
const NAMED: &str = "/run/netns";

/// Runs a closure on a thread of its own inside a namespace, and returns what it returns. The thread ends afterwards, so no
/// other code ever finds itself in the wrong place; a tokio runtime that is needed inside is made inside.
pub fn run_in<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    let file = File::open(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let refused = |errno| Error::Namespace { path: path.to_owned(), errno };
            setns(&file, CloneFlags::CLONE_NEWNET).map_err(refused)?;
            Ok(work())
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A named namespace that is removed when this value goes out of scope.
#[derive(Debug)]
pub struct Named {
    path: PathBuf,
}

impl Named {
    /// Makes a namespace that `ip netns` sees too.
    pub fn create(name: &str) -> Result<Named> {
        let path = Path::new(NAMED).join(name);
        let file_error = |source| Error::File { path: path.clone(), source };
        fs::create_dir_all(NAMED).map_err(file_error)?;
        File::create_new(&path).map_err(file_error)?;
        let named = Named { path: path.clone() };
        std::thread::scope(|scope| scope.spawn(|| bind_new(&path)).join().unwrap_or(Err(Errno::EIO)))
            .map_err(|errno| Error::Namespace { path, errno })?;
        Ok(named)
    }

    /// Its path, for [`run_in`].
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn bind_new(path: &Path) -> std::result::Result<(), Errno> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
}

impl Drop for Named {
    fn drop(&mut self) {
        // It may be gone already; there is nobody to tell.
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&self.path);
    }
}
