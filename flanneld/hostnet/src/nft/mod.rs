//! nftables: a whole ruleset as text, in one transaction, and questions about what stands there.
//!
//! This is the only place that runs a program: `nft -f -` either takes everything or changes nothing, and the netlink dialect in
//! which rules are written has no kept Rust library. Questions are small, so they are asked by netlink itself.

mod message;
mod query;

use std::io::Write;
use std::process::{Command, Stdio};

pub use message::{Fingerprint, Table};
pub use query::{fingerprint, generation, has_table, tables};

use crate::{Error, Result};

/// To which packets a table belongs (`NFPROTO_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet = libc::NFPROTO_INET as u8,
    /// IPv4.
    Ip = libc::NFPROTO_IPV4 as u8,
    /// IPv6.
    Ip6 = libc::NFPROTO_IPV6 as u8,
}

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
