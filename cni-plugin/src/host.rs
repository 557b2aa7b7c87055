//! The host's side: the bridge, and one end of each veth pair in it.

use hostnet::{Link, Netlink, netns, sysctl};
use std::path::Path;

use crate::error::Error;
use crate::plan::{Bridge, Veth};

/// The MTU of a veth pair if neither the configuration nor subnet.env says one: Ethernet's.
const DEFAULT_MTU: u32 = 1500;

/// Opens netlink in the host's namespace.
pub fn connect() -> Result<Netlink, Error> {
    Netlink::connect().map_err(Error::kernel("talk to the kernel"))
}

/// Makes the bridge what the plan says, whether it is there or not, and returns it.
pub async fn ensure_bridge(netlink: &Netlink, plan: &Bridge) -> Result<Link, Error> {
    let step = || format!("set up the bridge {}", plan.name);
    let made = match link(netlink, &plan.name).await? {
        None => {
            netlink.add_bridge(&plan.name).await.map_err(Error::kernel(step()))?;
            true
        }
        Some(_) => false,
    };
    let bridge = link(netlink, &plan.name).await?.ok_or_else(|| gone(&plan.name))?;
    if bridge.kind.as_deref() != Some("bridge") {
        let problem = "it is no bridge; give the network another delegate.bridge".to_owned();
        return Err(Error::Conflict { subject: format!("the interface {}", plan.name), problem });
    }
    if let (true, Ok(mac)) = (made, <[u8; 6]>::try_from(bridge.mac.as_slice())) {
        // An address that was set is kept; otherwise a bridge takes the lowest of its ports', and the pods' neighbour entries go stale.
        netlink.set_mac(bridge.index, mac).await.map_err(Error::kernel(step()))?;
    }
    if let Some(mtu) = plan.mtu.filter(|mtu| *mtu != bridge.mtu) {
        netlink.set_mtu(bridge.index, mtu).await.map_err(Error::kernel(step()))?;
    }
    if plan.addresses.iter().any(ipnetwork::IpNetwork::is_ipv6) {
        enable_ipv6(&plan.name)?;
    }
    set_addresses(netlink, &bridge, plan).await?;
    refuse_routers(&plan.name)?;
    if !bridge.up {
        netlink.set_up(bridge.index, true).await.map_err(Error::kernel(step()))?;
    }
    Ok(bridge)
}

/// Adds what is missing and takes away what a former lease of this node left: with two gateways' addresses on it, the bridge would claim a
/// subnet that is another node's by now.
async fn set_addresses(netlink: &Netlink, bridge: &Link, plan: &Bridge) -> Result<(), Error> {
    let step = || format!("set the addresses of the bridge {}", plan.name);
    let present = async || netlink.addresses(Some(bridge.index)).await.map_err(Error::kernel(step()));
    let stale = |net: &ipnetwork::IpNetwork| {
        plan.overlay.iter().any(|overlay| overlay.contains(net.ip())) && !plan.addresses.contains(net)
    };
    for address in present().await?.iter().filter(|address| stale(&address.net)) {
        netlink.delete_address(bridge.index, address.net).await.map_err(Error::kernel(step()))?;
    }
    // Looked at again: with an IPv4 address the kernel deletes others of its subnet.
    let present = present().await?;
    for net in plan.addresses.iter().filter(|net| !present.iter().any(|address| address.net == **net)) {
        netlink.add_address(bridge.index, *net).await.map_err(Error::kernel(step()))?;
    }
    Ok(())
}

/// Makes the pair, one end of it in the container, under its name there.
pub async fn make_veth(netlink: &Netlink, plan: &Veth, namespace: &Path) -> Result<Link, Error> {
    // Of the same attachment, and it has no reservation: a killed ADD left it.
    delete_link(netlink, &plan.host).await?;
    let file = std::fs::File::open(namespace)
        .map_err(|error| Error::Namespace { path: namespace.to_owned(), problem: error.to_string() })?;
    let made =
        netlink.add_veth_into(&plan.host, &plan.container, plan.mtu.unwrap_or(DEFAULT_MTU), &file).await;
    match made {
        Err(error) if error.errno() == Some(nix::errno::Errno::EEXIST) => Err(Error::Conflict {
            subject: format!("the interface {}", plan.container),
            problem: "the container has it already; another network or an ADD without DEL made it".to_owned(),
        }),
        made => {
            made.map_err(Error::kernel(format!("make the interface {}", plan.host)))?;
            link(netlink, &plan.host).await?.ok_or_else(|| gone(&plan.host))
        }
    }
}

/// Plugs the host's end into the bridge: from here on packets pass.
pub async fn plug(netlink: &Netlink, plan: &Veth, host: &Link, bridge: &Link) -> Result<(), Error> {
    let step = || format!("plug {} into the bridge {}", host.name, bridge.name);
    netlink.set_master(host.index, bridge.index).await.map_err(Error::kernel(step()))?;
    if plan.hairpin {
        netlink.set_hairpin(host.index, true).await.map_err(Error::kernel(step()))?;
    }
    netlink.set_up(host.index, true).await.map_err(Error::kernel(step()))
}

/// Deletes a link, and with it the other end; one that is gone is fine.
pub async fn delete_link(netlink: &Netlink, name: &str) -> Result<(), Error> {
    let Some(found) = link(netlink, name).await? else { return Ok(()) };
    netlink.delete_link(found.index).await.map_err(Error::kernel(format!("delete the interface {name}")))
}

/// Looks a link up.
pub async fn link(netlink: &Netlink, name: &str) -> Result<Option<Link>, Error> {
    netlink.link_by_name(name).await.map_err(Error::kernel(format!("look up the interface {name}")))
}

/// Lets an interface have IPv6 addresses that can be used at once, where a host or a runtime had switched that off. Its link-local
/// address is used without a look for a duplicate: with hairpin mode the bridge sends the question back, which looks like one.
pub fn enable_ipv6(interface: &str) -> Result<(), Error> {
    for (setting, value) in [("disable_ipv6", "0"), ("accept_dad", "0")] {
        sysctl::set(&format!("net/ipv6/conf/{interface}/{setting}"), value)
            .map_err(Error::kernel(format!("enable IPv6 on {interface}")))?;
    }
    Ok(())
}

/// A pod that advertises itself as an IPv6 router must not be believed (CVE-2020-10749): every route here is planned.
pub fn refuse_routers(interface: &str) -> Result<(), Error> {
    if !Path::new("/proc/sys/net/ipv6").exists() {
        return Ok(()); // a kernel without IPv6
    }
    sysctl::set(&format!("net/ipv6/conf/{interface}/accept_ra"), "0")
        .map_err(Error::kernel(format!("refuse router advertisements on {interface}")))
}

/// Takes back that 127.0.0.0/8 is routed over a bridge; one that is gone is fine.
pub fn forbid_localnet(bridge: &str) -> Result<(), Error> {
    match sysctl::set(&format!("net/ipv4/conf/{bridge}/route_localnet"), "0") {
        Err(hostnet::Error::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
        set => set.map_err(Error::kernel(format!("keep 127.0.0.0/8 off the bridge {bridge}"))),
    }
}

/// Is this path a namespace that is not the host's?
pub fn require_other_namespace(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::MetadataExt;
    let namespace = |problem: String| Error::Namespace { path: path.to_owned(), problem };
    let theirs = std::fs::metadata(path).map_err(|error| namespace(error.to_string()))?;
    let own = std::path::Path::new("/proc/thread-self/ns/net");
    let ours = std::fs::metadata(own).map_err(Error::io("look at", own))?;
    if (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()) {
        return Err(Error::environment(
            "CNI_NETNS",
            "is the host's own namespace; the plugin connects containers only",
        ));
    }
    netns::run_in(path, || ()).map_err(|error| namespace(format!("{:#}", anyhow::Error::from(error))))
}

fn gone(name: &str) -> Error {
    Error::Kernel {
        step: format!("find the interface {name}"),
        source: anyhow::anyhow!("somebody deleted it meanwhile"),
    }
}
