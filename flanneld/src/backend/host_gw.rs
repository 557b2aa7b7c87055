//! The host-gw backend: plain routes, each subnet by way of its node. All nodes must be on one link.

use anyhow::{Result, bail};
use hostnet::Route;
use ipnetwork::IpNetwork;

use super::kernel::Desired;
use crate::family::Dual;
use crate::iface::External;
use crate::lease::key::{Half, Lease};

/// What leases call it.
pub const TYPE: &str = "host-gw";

/// The routes to the other nodes' subnets. Pure.
pub fn plan(networks: &Dual<IpNetwork>, external: &External, others: &[Lease]) -> Desired {
    let mut desired = Desired::refusing(networks);
    let halves = others.iter().filter(|lease| lease.backend.kind == TYPE).flat_map(Lease::halves);
    desired.routes.extend(halves.map(|half| via(&half, external)));
    desired
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
pub fn via(half: &Half<'_>, external: &External) -> Route {
    Route { gateway: Some(half.public), oif: Some(external.link.index), ..Route::to(half.subnet) }
}
