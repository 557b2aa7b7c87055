//! What a node is called and where it is, when the user did not say.

use std::net::{IpAddr, UdpSocket};

use anyhow::{Context, Result};

use crate::args::NodeArgs;

/// A node's name and address.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Lower-case, as Kubernetes wants it.
    pub name: String,
    /// The address on which the others reach it.
    pub ip: IpAddr,
}

impl Identity {
    /// From the arguments, or else from the host.
    pub fn of(args: &NodeArgs) -> Result<Identity> {
        let name = match &args.node_name {
            Some(name) => name.clone(),
            None => nix::unistd::gethostname()?.to_string_lossy().into_owned(),
        }
        .to_lowercase();
        if let Some(problem) = kubelite_api::names::dns1123_subdomain(&name).first() {
            anyhow::bail!("\"{name}\" can't be a node's name: {problem}; choose one by --node-name");
        }
        let ip = match args.node_ip {
            Some(ip) => ip,
            None => address_of_default_route()?,
        };
        if ip.is_loopback() || ip.is_unspecified() {
            anyhow::bail!("--node-ip {ip}: other nodes can't reach that; name an address of this host");
        }
        Ok(Identity { name, ip })
    }
}

/// The source address that the kernel would take for the outside; nothing is sent.
fn address_of_default_route() -> Result<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // An address for documentation (RFC 5737): only the route to it is looked up.
    socket
        .connect("198.51.100.1:9")
        .context("there is no default route: name the node's address by --node-ip")?;
    Ok(socket.local_addr()?.ip())
}
