//! The interface to the other nodes.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, bail};
use hostnet::{Address, Link, Netlink};

use crate::config::IfaceChoice;

/// The interface and addresses by which other nodes are reached and reach this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// The interface.
    pub link: Link,
    /// Its own address: what the socket is bound to.
    pub address: Ipv4Addr,
    /// What other nodes are told; differs behind a NAT.
    pub public: Ipv4Addr,
}

/// Finds it.
pub async fn find(netlink: &Netlink, choice: &IfaceChoice, public: Option<Ipv4Addr>) -> Result<External> {
    let links = netlink.links().await?;
    let addresses = netlink.addresses(None).await?;
    let (index, address) = match choice {
        IfaceChoice::Named(names) => {
            let found = names.iter().find_map(|name| named(name, &links, &addresses));
            found
                .with_context(|| format!("none of the interfaces {names:?} is there with an IPv4 address"))?
        }
        IfaceChoice::PublicIp(ip) => {
            let owner = addresses.iter().find(|a| a.net.ip() == IpAddr::V4(*ip));
            (
                owner
                    .with_context(|| {
                        format!("no interface has the address {ip} of --public-ip; name it by --iface")
                    })?
                    .index,
                Some(*ip),
            )
        }
        IfaceChoice::CanReach(ip) => {
            let route = netlink.route_to(*ip).await.with_context(|| format!("--iface-can-reach {ip}"))?;
            let source = route.src.and_then(|src| if let IpAddr::V4(ip) = src { Some(ip) } else { None });
            (route.oif.with_context(|| format!("the way to {ip} has no interface"))?, source)
        }
        IfaceChoice::Default => {
            let route = netlink
                .default_route()
                .await?
                .context("there is no default route: name the interface by --iface")?;
            (route.oif.context("the default route has no interface: name one by --iface")?, None)
        }
    };
    let link = links.into_iter().find(|link| link.index == index).context("the interface vanished")?;
    let Some(address) = address.or_else(|| first_address(index, &addresses)) else {
        bail!("{} has no IPv4 address", link.name);
    };
    Ok(External { link, address, public: public.unwrap_or(address) })
}

fn named(name: &str, links: &[Link], addresses: &[Address]) -> Option<(u32, Option<Ipv4Addr>)> {
    if let Ok(ip) = name.parse::<Ipv4Addr>() {
        let owner = addresses.iter().find(|a| a.net.ip() == IpAddr::V4(ip))?;
        return Some((owner.index, Some(ip)));
    }
    let link = links.iter().find(|link| link.name == name)?;
    first_address(link.index, addresses).map(|ip| (link.index, Some(ip)))
}

/// An interface's first address that others can reach; link-local ones only if there is no other.
fn first_address(index: u32, addresses: &[Address]) -> Option<Ipv4Addr> {
    let v4 = addresses.iter().filter(|a| a.index == index).filter_map(|a| match a.net.ip() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    });
    v4.min_by_key(|ip| ip.is_link_local())
}
