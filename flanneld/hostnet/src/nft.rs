//! nftables: a whole ruleset as text, in one transaction. This is the only place that runs a program.
//!
//! `nft -f -` either takes everything or changes nothing; the netlink dialect of nf_tables has no kept Rust library.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::{Error, Result};

/// Applies a ruleset. To replace a table, begin with `table ip x` and `delete table ip x`: that works whether it is there or not.
pub fn apply(rules: &str) -> Result<()> {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::NoNft,
            _ => Error::Nft(error.to_string()),
        })?;
    if let Some(mut stdin) = nft.stdin.take() {
        // If nft ends before it has read all, its own words say why.
        let _ = stdin.write_all(rules.as_bytes());
    }
    let done = nft.wait_with_output().map_err(|error| Error::Nft(error.to_string()))?;
    if done.status.success() {
        Ok(())
    } else {
        Err(Error::Nft(String::from_utf8_lossy(&done.stderr).trim().to_owned()))
    }
}

/// Whether a table is there, e.g. `ip`, `flannel-ipv4`.
pub fn has_table(family: &str, name: &str) -> Result<bool> {
    let listed = Command::new("nft").args(["list", "table", family, name]).output();
    match listed {
        Ok(output) => Ok(output.status.success()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::NoNft),
        Err(error) => Err(Error::Nft(error.to_string())),
    }
}
