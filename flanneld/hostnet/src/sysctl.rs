//! Kernel settings, as files under `/proc/sys`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

const ROOT: &str = "/proc/sys";

/// A setting's value, e.g. of `net/ipv4/ip_forward`.
pub fn get(name: &str) -> Result<String> {
    let path = path(name);
    let text = fs::read_to_string(&path).map_err(|source| Error::File { path, source })?;
    Ok(text.trim().to_owned())
}

/// Changes a setting, unless it has that value: on a read-only `/proc` what is right already is no error.
pub fn set(name: &str, value: &str) -> Result<()> {
    if get(name)? == value {
        return Ok(());
    }
    let path = path(name);
    fs::write(&path, value).map_err(|source| Error::File { path, source })
}

fn path(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}
