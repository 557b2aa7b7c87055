//! The host-gw backend: plain routes, each subnet by way of its node. All nodes must be on one link.

use anyhow::{Result, bail};
use hostnet::Route;
use ipnetwork::{IpNetwork, Ipv4Network};

use super::kernel::{Desired, refuse};
use crate::iface::External;
use crate::lease::key::Lease;

/// What leases call it.
pub const TYPE: &str = "host-gw";

/// The routes to the other nodes' subnets. Pure.
pub fn plan(network: Ipv4Network, external: &External, others: &[Lease]) -> Desired {
    let others = others.iter().filter(|lease| lease.backend.kind == TYPE);
    let routes = others.map(|lease| via(lease, external)).chain([refuse(network)]);
    Desired { routes: routes.collect(), neighbours: Vec::new() }
}

/// A node is reached by what its lease says, so that has to be its address on the link.
pub fn check(external: &External) -> Result<()> {
    if external.public != external.address {
        bail!(
            "host-gw: --public-ip {} must be an address of {}, which has {}",
            external.public,
            external.link.name,
            external.address
        );
    }
    Ok(())
}

/// A subnet by way of its node itself.
pub fn via(lease: &Lease, external: &External) -> Route {
    let to = Route::to(IpNetwork::V4(lease.subnet));
    Route { gateway: Some(lease.public_ip.into()), oif: Some(external.link.index), ..to }
}
