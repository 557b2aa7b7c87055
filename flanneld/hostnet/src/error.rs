//! What can go wrong, with what was wanted and what to do.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

/// The result of a call to the kernel.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the kernel did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket.
    #[error("cannot open a netlink socket: {source}")]
    Socket {
        /// The kernel's words.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("cannot {action}: {errno}{}", hint(*errno))]
    Refused {
        /// E.g. `add the address 10.42.1.0/32 to link 5`.
        action: String,
        /// The kernel's reason.
        errno: Errno,
    },
    /// The netlink conversation broke.
    #[error("cannot {action}: {text}")]
    Protocol {
        /// What was tried.
        action: String,
        /// What went wrong.
        text: String,
    },
    /// A file under `/proc/sys` or `/run/netns`.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The kernel's words.
        source: io::Error,
    },
    /// `nft` is not there.
    #[error("nft is not installed: install the package nftables (it must be in PATH)")]
    NoNft,
    /// `nft` refused the rules; nothing was changed.
    #[error("nft refused the rules: {0}")]
    Nft(String),
    /// A thread in another namespace.
    #[error("cannot enter the network namespace {}: {errno}", path.display())]
    Namespace {
        /// Its path.
        path: PathBuf,
        /// The kernel's reason.
        errno: Errno,
    },
}

fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM | Errno::EACCES => " (are you root, with CAP_NET_ADMIN?)",
        _ => "",
    }
}

impl Error {
    /// The kernel's reason, if it gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Refused { errno, .. } | Error::Namespace { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

/// Names the action that a netlink error belongs to.
pub(crate) fn during(action: impl FnOnce() -> String) -> impl FnOnce(rtnetlink::Error) -> Error {
    move |error| match error {
        rtnetlink::Error::NetlinkError(message) => {
            let errno = Errno::from_raw(message.raw_code().abs());
            Error::Refused { action: action(), errno }
        }
        other => Error::Protocol { action: action(), text: other.to_string() },
    }
}

/// Takes one of these answers of the kernel as success: what was wanted is so already.
pub(crate) fn unless(result: Result<()>, fine: &[Errno]) -> Result<()> {
    match result {
        Err(Error::Refused { errno, .. }) if fine.contains(&errno) => Ok(()),
        other => other,
    }
}
