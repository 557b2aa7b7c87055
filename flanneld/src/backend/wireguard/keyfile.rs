//! Where the own private key is kept: flannel's file, in the form that `wg` reads and writes.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use ring::rand::{SecureRandom, SystemRandom};

use crate::datapath::wireguard::{Identity, KEY_LEN};

const DEFAULT: &str = "/run/flannel/wgkey";
/// Names another file.
const VARIABLE: &str = "WIREGUARD_KEY_FILE";
/// For the owner to read, and nobody else.
const MODE: u32 = 0o400;
const OTHERS: u32 = 0o077;

/// The file.
pub fn path() -> PathBuf {
    std::env::var_os(VARIABLE).filter(|path| !path.is_empty()).unwrap_or(DEFAULT.into()).into()
}

/// Reads the key, or makes one if there is no file.
pub fn identity(path: &Path) -> Result<Identity> {
    let problem = || format!("the WireGuard key file {} ({VARIABLE})", path.display());
    match fs::read_to_string(path) {
        Ok(text) => {
            if fs::metadata(path).is_ok_and(|file| file.permissions().mode() & OTHERS != 0) {
                tracing::warn!("{} can be read by others than root: chmod {MODE:o} it", path.display());
            }
            let read = text.parse();
            read.map_err(|error| anyhow!("what stands in it {error}; remove it, and a new key is made"))
                .with_context(problem)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => make(path).with_context(problem),
        Err(error) => Err(error).with_context(problem),
    }
}

fn make(path: &Path) -> Result<Identity> {
    let mut bytes = [0; KEY_LEN];
    SystemRandom::new().fill(&mut bytes).map_err(|_| anyhow!("the system gives no random numbers"))?;
    let identity = Identity::from_bytes(bytes);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // A new file only: neither a link that somebody put there nor a key that another flanneld wrote meanwhile.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    file.write_all(identity.private_text().as_bytes())?;
    file.sync_all()?;
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flannel/wgkey");
        let made = identity(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert_eq!(fs::read_to_string(&path).unwrap().len(), 44, "as wg genkey writes it");
        assert_eq!(identity(&path).unwrap().public(), made.public());
        assert_ne!(identity(&folder.path().join("other")).unwrap().public(), made.public());
    }

    #[test]
    fn what_is_no_key_is_told_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wgkey");
        fs::write(&path, "not a key\n").unwrap();
        let error = format!("{:#}", identity(&path).unwrap_err());
        assert!(
            error.contains("wgkey") && error.contains("is no WireGuard key") && !error.contains("not a key")
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "not a key\n");
        assert!(identity(folder.path()).is_err(), "a folder");
    }
}
