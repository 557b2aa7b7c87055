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

/// Finds it. An address that is used already stays the one that is used, as long as the interface has it.
pub async fn find(
    netlink: &Netlink,
    choice: &IfaceChoice,
    public: Option<Ipv4Addr>,
    used: Option<Ipv4Addr>,
) -> Result<External> {
    let links = netlink.links().await?;
    let addresses = netlink.addresses(None).await?;
    let (index, address) = match choice {
        IfaceChoice::Named(names) => {
            let found = names.iter().find_map(|name| named(name, &links, &addresses, used));
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
    let Some(address) = address.or_else(|| best_address(index, &addresses, used)) else {
        bail!("{} has no IPv4 address", link.name);
    };
    Ok(External { link, address, public: public.unwrap_or(address) })
}

fn named(
    name: &str,
    links: &[Link],
    addresses: &[Address],
    used: Option<Ipv4Addr>,
) -> Option<(u32, Option<Ipv4Addr>)> {
    if let Ok(ip) = name.parse::<Ipv4Addr>() {
        let owner = addresses.iter().find(|a| a.net.ip() == IpAddr::V4(ip))?;
        return Some((owner.index, Some(ip)));
    }
    let link = links.iter().find(|link| link.name == name)?;
    best_address(link.index, addresses, used).map(|ip| (link.index, Some(ip)))
}

/// The address that is used already, or else an interface's first one that others can reach; link-local ones only if there is no other.
fn best_address(index: u32, addresses: &[Address], used: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
    let v4 = addresses.iter().filter(|a| a.index == index).filter_map(|a| match a.net.ip() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    });
    v4.min_by_key(|ip| (Some(*ip) != used, ip.is_link_local()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_used_stays_and_else_the_first_global_one_is_taken() {
        let address = |index, net: &str| Address { index, net: net.parse().unwrap() };
        let all = [
            address(2, "169.254.7.7/16"),
            address(2, "192.0.2.1/24"),
            address(2, "fd00::1/64"),
            address(2, "192.0.2.9/24"),
            address(3, "169.254.8.8/16"),
        ];
        let ip = |last| Ipv4Addr::new(192, 0, 2, last);
        for (index, used, best) in [
            (2, None, Some(ip(1))),
            (2, Some(ip(9)), Some(ip(9))),
            (2, Some(ip(77)), Some(ip(1))),
            (3, Some(ip(9)), Some(Ipv4Addr::new(169, 254, 8, 8))),
            (4, None, None),
        ] {
            assert_eq!(best_address(index, &all, used), best, "{index} {used:?}");
        }
    }
}
