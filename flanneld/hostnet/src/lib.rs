//! The host's network as the kernel tells it: links, addresses, routes, neighbours, programs and WireGuard by netlink, settings under `/proc/sys`, namespaces,
//! and nftables in one transaction.
//!
//! What lives here: thin typed calls, IPv4 and IPv6 through the same function. What doesn't: why somebody wants a route.

pub mod address;
pub mod changes;
pub mod error;
pub mod ipip;
pub mod link;
pub mod neighbour;
pub mod netns;
pub mod nft;
pub mod program;
mod raw;
pub mod route;
pub mod sysctl;
pub mod vxlan;
pub mod wireguard;

pub use address::{Address, Standing};
pub use changes::Changes;
pub use error::{Error, Result};
pub use ipip::Ipip;
pub use link::Link;
pub use neighbour::Neighbour;
pub use route::{Kind, Route};
pub use vxlan::Vxlan;

/// A netlink socket of the calling thread's network namespace. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
}

impl Netlink {
    /// Opens the socket; its driver runs on the current tokio runtime.
    pub fn connect() -> Result<Netlink> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|source| Error::Socket { source })?;
        tokio::spawn(connection);
        Ok(Netlink { handle })
    }
}
