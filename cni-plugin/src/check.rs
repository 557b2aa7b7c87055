//! CHECK: is the attachment still what ADD answered? Compares `prevResult` with the kernel and the disk; changes nothing.

use std::path::Path;

use hostnet::{Netlink, Route, nft};

use crate::apply::Network;
use crate::config::Config;
use crate::error::Error;
use crate::host;
use crate::nat;
use crate::record::Record;
use crate::request::Attachment;
use crate::result::{AddResult, Interface};
use crate::sandbox::{self, Observed};

/// The first difference is the error.
pub async fn check(
    network: &Network<'_>,
    config: &Config,
    owner: &Attachment,
    namespace: &Path,
) -> Result<(), Error> {
    let previous = config.previous()?;
    let record = network.records().get(owner)?.ok_or_else(|| Error::UnknownContainer {
        container: owner.container.clone(),
        interface: owner.interface.clone(),
        network: config.name.clone(),
    })?;
    reservations(network, owner, &record)?;
    let observed = sandbox::observe(namespace, &owner.interface)?;
    container_side(&previous, owner, namespace, &observed)?;
    host_side(network.netlink(), &previous, &record).await?;
    let table = nat::table(&config.name);
    if record.needs_nat()
        && !nft::has_table(nft::Family::Inet, &table).map_err(Error::kernel("look at the NAT rules"))?
    {
        return Err(Error::damaged(
            format!("table inet {table}"),
            "it is gone, and host ports and masquerading with it",
        ));
    }
    Ok(())
}

fn reservations(network: &Network<'_>, owner: &Attachment, record: &Record) -> Result<(), Error> {
    let reserved = network.pool().owned_by(owner)?;
    match record.addresses.iter().find(|address| !reserved.contains(&address.ip())) {
        Some(address) => {
            Err(Error::damaged(address.to_string(), "its reservation is gone, another pod may get it"))
        }
        None => Ok(()),
    }
}

/// Pure: what ADD answered against what stands in the container.
fn container_side(
    previous: &AddResult,
    owner: &Attachment,
    namespace: &Path,
    observed: &Observed,
) -> Result<(), Error> {
    let name = &owner.interface;
    let link =
        observed.link.as_ref().ok_or_else(|| Error::damaged(name, "the container has no such interface"))?;
    let ours = |interface: &&Interface| interface.name == *name && interface.sandbox == namespace;
    let Some(expected) = previous.interfaces.iter().find(ours) else {
        return Err(Error::config(
            "prevResult.interfaces",
            format!("has no {name} in {}", namespace.display()),
        ));
    };
    if !expected.mac.eq_ignore_ascii_case(&link.mac_text()) {
        return Err(Error::damaged(
            name,
            format!("its address is {} instead of {}", link.mac_text(), expected.mac),
        ));
    }
    if !link.up {
        return Err(Error::damaged(name, "it is down"));
    }
    for ip in &previous.ips {
        if !observed.addresses.iter().any(|address| address.net == ip.address) {
            return Err(Error::damaged(ip.address.to_string(), format!("{name} does not have this address")));
        }
    }
    for route in &previous.routes {
        let there = |seen: &&Route| seen.dst == route.dst && (route.gw.is_none() || seen.gateway == route.gw);
        if observed.routes.iter().find(there).is_none() {
            let via = route.gw.map(|gw| format!(" via {gw}")).unwrap_or_default();
            return Err(Error::damaged(
                format!("the route to {}{via}", route.dst),
                format!("{name} does not have it"),
            ));
        }
    }
    Ok(())
}

async fn host_side(netlink: &Netlink, previous: &AddResult, record: &Record) -> Result<(), Error> {
    let find = async |name: &str| {
        host::link(netlink, name).await?.ok_or_else(|| Error::damaged(name, "the host has no such interface"))
    };
    let bridge = find(&record.bridge).await?;
    let outer = find(&record.host_interface).await?;
    if !bridge.up || !outer.up {
        let down = if bridge.up { &outer } else { &bridge };
        return Err(Error::damaged(&down.name, "it is down"));
    }
    if outer.master != Some(bridge.index) {
        return Err(Error::damaged(&outer.name, format!("it is not plugged into {}", bridge.name)));
    }
    let addresses =
        netlink.addresses(Some(bridge.index)).await.map_err(Error::kernel("look at the bridge"))?;
    let used = previous.routes.iter().filter_map(|route| route.gw);
    match used.into_iter().find(|gateway| !addresses.iter().any(|address| address.net.ip() == *gateway)) {
        // A route of the user's may lead to another pod.
        Some(gateway) if previous.ips.iter().any(|ip| ip.gateway == Some(gateway)) => {
            Err(Error::damaged(&bridge.name, format!("it does not have the gateway's address {gateway}")))
        }
        _ => Ok(()),
    }
}
