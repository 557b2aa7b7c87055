//! The interface to the other nodes.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use hostnet::{Address, Link, Netlink, Route, Standing};
use regex_lite::Regex;

use crate::config::{Given, IfaceChoice};
use crate::family::{Dual, Family};
use crate::owner::DEVICES;

/// The interface and addresses by which other nodes are reached and reach this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// The interface.
    pub link: Link,
    /// Its own addresses, of the families that the network has: where outer packets come from.
    pub address: Dual<IpAddr>,
    /// What other nodes are told; differs behind a NAT.
    pub public: Dual<IpAddr>,
}

/// What is asked of it.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Of these families it must have an address.
    pub families: &'a [Family],
    /// What other nodes are told in place of its own addresses.
    pub public: &'a Dual<IpAddr>,
    /// Addresses that are used already: they stay those that are used, as long as the interface has them.
    pub used: &'a Dual<IpAddr>,
}

/// What of the host is looked at.
struct Host {
    links: Vec<Link>,
    addresses: Vec<Address>,
    used: Dual<IpAddr>,
}

/// Finds it, with an address of each wanted family.
pub async fn find(netlink: &Netlink, choice: &IfaceChoice, wanted: &Wanted<'_>) -> Result<External> {
    let (links, addresses) = (netlink.links().await?, netlink.addresses(None).await?);
    let host = Host { links, addresses, used: *wanted.used };
    let Wanted { families, public, .. } = *wanted;
    let (index, named) = match choice {
        IfaceChoice::Given(given) => match (host.given(given, families), given.can_reach) {
            (Some(found), _) => found,
            (None, Some(ip)) => {
                let route = netlink.route_to(ip).await.with_context(|| format!("--iface-can-reach {ip}"))?;
                (route.oif.with_context(|| format!("the way to {ip} has no interface"))?, one(route.src))
            }
            (None, None) => {
                let wanted: Vec<String> = families.iter().map(|family| format!("an {family}")).collect();
                let (given, there) = (text(given), host.text());
                bail!(
                    "no interface is as the flags say, with {} address: {given}; there are: {there}",
                    wanted.join(" and ")
                )
            }
        },
        IfaceChoice::PublicIp => (host.owner_of(public, families)?, *public),
        IfaceChoice::Default => {
            (default_interface(&netlink.default_routes().await?, families)?, Dual::default())
        }
    };
    let link = host.links.iter().find(|link| link.index == index).context("the interface vanished")?;
    let address = Dual::of(|family| {
        let chosen = named.get(family).copied();
        families.contains(&family).then(|| chosen.or(host.address(index, family)))?
    });
    if let Some(family) = families.iter().find(|family| address.get(**family).is_none()) {
        bail!("{} has no {family} address", link.name);
    }
    let public = Dual::of(|family| address.get(family).map(|own| *public.get(family).unwrap_or(own)));
    Ok(External { link: link.clone(), address, public })
}

/// An address as that of its family.
fn one(ip: Option<IpAddr>) -> Dual<IpAddr> {
    Dual::of(|family| ip.filter(|ip| Family::of(*ip) == family))
}

/// The flags again, for a message.
fn text(given: &Given) -> String {
    let names = given.names.iter().map(|name| format!("--iface={name}"));
    names.chain(given.patterns.iter().map(|p| format!("--iface-regex={p}"))).collect::<Vec<_>>().join(" ")
}

impl Host {
    /// By names first, and then by patterns, each in their order.
    fn given(&self, given: &Given, wanted: &[Family]) -> Option<(u32, Dual<IpAddr>)> {
        if let Some(used) = self.still_given(given, wanted) {
            return Some(used);
        }
        let named = given.names.iter().find_map(|name| self.named(name, wanted));
        let patterns = || given.patterns.iter().filter_map(|text| Regex::new(text).ok());
        named.or_else(|| patterns().find_map(|pattern| self.matching(&pattern, wanted)))
    }

    /// The interface that is used, if it is there and one of the patterns is like it: another one is not taken because it came later. Names
    /// say which they mean, so they are looked at anew.
    fn still_given(&self, given: &Given, wanted: &[Family]) -> Option<(u32, Dual<IpAddr>)> {
        if given.names.iter().any(|name| self.named(name, wanted).is_some()) {
            return None;
        }
        let used = self.addresses.iter().find(|a| self.used.values().any(|ip| a.net.ip() == *ip))?;
        let link = self.links.iter().find(|link| link.index == used.index)?;
        let only = Host { links: vec![link.clone()], addresses: self.addresses.clone(), used: self.used };
        let patterns = given.patterns.iter().filter_map(|text| Regex::new(text).ok());
        patterns.into_iter().find_map(|pattern| only.matching(&pattern, wanted))
    }

    /// The first interface with an address that is like a pattern, or else with such a name.
    fn matching(&self, pattern: &Regex, wanted: &[Family]) -> Option<(u32, Dual<IpAddr>)> {
        // Once flannel runs, its own devices and the pods' bridge have addresses that a pattern may be like: what is used stays, and flannel's
        // devices are never the way to other nodes.
        let has_all = |link: &Link| wanted.iter().all(|family| self.address(link.index, *family).is_some());
        let serves = |link: &&Link| !link.name.starts_with(DEVICES) && has_all(link);
        let like =
            |a: &&Address| a.standing != Standing::Unusable && pattern.is_match(&a.net.ip().to_string());
        let by_address = self.links.iter().filter(serves).find_map(|link| {
            let ips = self.addresses.iter().filter(|a| a.index == link.index && !a.net.ip().is_loopback());
            let ip = ips.filter(like).map(|a| a.net.ip()).find(|ip| wanted.contains(&Family::of(*ip)));
            Some((link.index, one(Some(ip?))))
        });
        let mut by_name = self.links.iter().filter(serves).filter(|link| pattern.is_match(&link.name));
        by_address.or_else(|| by_name.next().map(|link| (link.index, Dual::default())))
    }

    /// What there is, for a message: `eth0 192.0.2.1 fd00::1, eth1 (no address)`.
    fn text(&self) -> String {
        let one = |link: &Link| {
            let ips = self.addresses.iter().filter(|a| a.index == link.index).map(|a| a.net.ip().to_string());
            let ips = ips.collect::<Vec<_>>().join(" ");
            format!("{} {}", link.name, if ips.is_empty() { "(no address)" } else { &ips })
        };
        self.links.iter().filter(|link| link.name != "lo").map(one).collect::<Vec<_>>().join(", ")
    }

    /// An interface by its name or by an address of it; the address, if it is that.
    fn named(&self, name: &str, wanted: &[Family]) -> Option<(u32, Dual<IpAddr>)> {
        let (index, ip) = match name.parse::<IpAddr>() {
            Ok(ip) => (self.addresses.iter().find(|a| a.net.ip() == ip)?.index, Some(ip)),
            Err(_) => (self.links.iter().find(|link| link.name == name)?.index, None),
        };
        wanted.iter().all(|family| self.address(index, *family).is_some()).then_some((index, one(ip)))
    }

    /// The interface that has the public addresses.
    fn owner_of(&self, public: &Dual<IpAddr>, wanted: &[Family]) -> Result<u32> {
        let mut found = None;
        for (family, ip) in public.iter().filter(|(family, _)| wanted.contains(family)) {
            let flag = if family == Family::V4 { "public-ip" } else { "public-ipv6" };
            let owner = self.addresses.iter().find(|a| a.net.ip() == *ip);
            let owner = owner.with_context(|| {
                format!("no interface has the address {ip} of --{flag}; name it by --iface")
            })?;
            if found.is_some_and(|index| index != owner.index) {
                bail!("--public-ip and --public-ipv6 are addresses of two interfaces; name one by --iface");
            }
            found = Some(owner.index);
        }
        found.context("the network has not the family of --public-ip; name the interface by --iface")
    }

    /// An interface's address of a family that others can reach: the one that is used, or else the most lasting; of IPv4 a link-local one only if there is no other, of
    /// IPv6 none, since it says nothing without its link.
    fn address(&self, index: u32, family: Family) -> Option<IpAddr> {
        let used = self.used.get(family);
        let rank = |address: &&Address| {
            let ip = address.net.ip();
            (used != Some(&ip), is_link_local(ip), address.standing)
        };
        let usable = |address: &&Address| {
            let ip = address.net.ip();
            let far = family == Family::V4 || !is_link_local(ip);
            address.index == index
                && Family::of(ip) == family
                && far
                && address.standing != Standing::Unusable
        };
        self.addresses.iter().filter(usable).min_by_key(rank).map(|address| address.net.ip())
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// The interface of the default routes, which must be one for all wanted families. Pure.
fn default_interface(routes: &[Route], wanted: &[Family]) -> Result<u32> {
    let mut found = None;
    for family in wanted {
        let route = routes.iter().find(|route| Family::of(route.dst.ip()) == *family);
        let route = route.with_context(|| {
            format!("there is no default route of {family}: name the interface by --iface")
        })?;
        let index = route.oif.context("the default route has no interface: name one by --iface")?;
        if found.is_some_and(|other| other != index) {
            bail!("the default routes of IPv4 and IPv6 are on two interfaces: name one by --iface");
        }
        found = Some(index);
    }
    found.context("the network has no family")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(addresses: &[(u32, &str, Standing)]) -> Host {
        let link = |(index, name): (u32, &str)| Link {
            index,
            name: name.into(),
            mtu: 1500,
            up: true,
            mac: Vec::new(),
            kind: None,
            master: None,
            alias: None,
        };
        let address = |(index, net, standing): &(u32, &str, Standing)| Address {
            index: *index,
            net: net.parse().unwrap(),
            standing: *standing,
        };
        Host {
            links: [(2, "eth0"), (3, "eth1")].map(link).to_vec(),
            addresses: addresses.iter().map(address).collect(),
            used: Dual::default(),
        }
    }

    fn ip(text: &str) -> Option<IpAddr> {
        text.parse().ok()
    }

    #[test]
    fn names_go_before_patterns_and_addresses_before_names() {
        let host = host(&[
            (2, "192.0.2.1/24", Standing::Permanent),
            (2, "192.0.2.9/24", Standing::Dynamic),
            (3, "198.51.100.9/24", Standing::Unusable),
            (3, "198.51.100.1/24", Standing::Permanent),
        ]);
        for (names, patterns, expected, why) in [
            (&["eth9", "eth1", "eth0"][..], &[][..], Some((3, None)), "the first that is there"),
            (&["eth9"], &["eth.*"], Some((2, None)), "a pattern, since no name matched"),
            (&["eth1"], &["eth0"], Some((3, None)), "a name goes before a pattern"),
            (
                &[],
                &["^no", "198\\.51"],
                Some((3, ip("198.51.100.1"))),
                "the second pattern; a usable address",
            ),
            (&[], &["9$"], Some((2, ip("192.0.2.9"))), "it is that address"),
            (&[], &["(?i)^ETH1$"], Some((3, None)), "by name"),
            (&["eth9"], &["^wl"], None, "nothing"),
        ] {
            let strings = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
            let given = Given { names: strings(names), patterns: strings(patterns), can_reach: None };
            let expected = expected.map(|(index, ip)| (index, one(ip)));
            assert_eq!(host.given(&given, &[Family::V4]), expected, "{why}");
        }
        assert_eq!(host.text(), "eth0 192.0.2.1 192.0.2.9, eth1 198.51.100.9 198.51.100.1");
    }

    #[test]
    fn the_most_lasting_address_is_taken() {
        let mut host = host(&[
            (2, "169.254.7.7/16", Standing::Permanent),
            (2, "192.0.2.1/24", Standing::Dynamic),
            (2, "fe80::1/64", Standing::Permanent),
            (2, "fd00::dead/64", Standing::Unusable),
            (2, "fd00::a/64", Standing::Temporary),
            (2, "fd00::b/64", Standing::Dynamic),
            (2, "fd00::1/64", Standing::Permanent),
            (3, "169.254.8.8/16", Standing::Permanent),
            (3, "fe80::2/64", Standing::Permanent),
        ]);
        assert_eq!(host.address(2, Family::V4), ip("192.0.2.1"));
        assert_eq!(host.address(2, Family::V6), ip("fd00::1"));
        assert_eq!(host.address(3, Family::V4), ip("169.254.8.8"));
        assert_eq!(host.address(3, Family::V6), None, "link-local says nothing to others");
        host.used = Dual { v4: ip("169.254.7.7"), v6: ip("fd00::b") };
        assert_eq!(
            (host.address(2, Family::V4), host.address(2, Family::V6)),
            (ip("169.254.7.7"), ip("fd00::b"))
        );
        host.used = Dual { v4: ip("192.0.2.77"), v6: ip("fd00::dead") };
        assert_eq!(
            (host.address(2, Family::V4), host.address(2, Family::V6)),
            (ip("192.0.2.1"), ip("fd00::1"))
        );
    }

    #[test]
    fn a_name_counts_if_it_has_all_that_is_wanted() {
        let host = host(&[
            (2, "192.0.2.1/24", Standing::Permanent),
            (3, "192.0.3.1/24", Standing::Permanent),
            (3, "fd00::1/64", Standing::Permanent),
        ]);
        let both = &Family::BOTH[..];
        for (name, wanted, expected) in [
            ("eth0", &[Family::V4][..], Some((2, None))),
            ("eth0", both, None),
            ("eth1", both, Some((3, None))),
            ("fd00::1", both, Some((3, ip("fd00::1")))),
            ("fd00::1", &[Family::V4], Some((3, ip("fd00::1")))),
            ("192.0.2.1", both, None),
            ("eth9", &[Family::V4], None),
        ] {
            let expected = expected.map(|(index, ip)| (index, one(ip)));
            assert_eq!(host.named(name, wanted), expected, "{name} {wanted:?}");
        }
        let owner = |v4: &str, v6: &str| host.owner_of(&Dual { v4: ip(v4), v6: ip(v6) }, both);
        assert_eq!(owner("192.0.3.1", "fd00::1").unwrap(), 3);
        assert_eq!(owner("", "fd00::1").unwrap(), 3);
        for (v4, v6, words) in [
            ("192.0.2.1", "fd00::1", "two interfaces"),
            ("", "fd00::9", "--public-ipv6"),
            ("", "", "--iface"),
        ] {
            let error = owner(v4, v6).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn default_routes_of_both_families_share_their_interface() {
        let route = |dst: &str, oif| Route { oif: Some(oif), ..Route::to(dst.parse().unwrap()) };
        let (v4, v6) = (route("0.0.0.0/0", 2), route("::/0", 2));
        let both = &Family::BOTH[..];
        assert_eq!(default_interface(&[v4.clone(), v6.clone()], both).unwrap(), 2);
        assert_eq!(default_interface(&[v4.clone(), route("::/0", 3)], &[Family::V4]).unwrap(), 2);
        assert_eq!(default_interface(&[v4.clone(), route("0.0.0.0/0", 3)], &[Family::V4]).unwrap(), 2);
        for (routes, words) in [
            (vec![v4.clone(), route("::/0", 3)], "on two interfaces"),
            (vec![v4], "no default route of IPv6"),
        ] {
            let error = default_interface(&routes, both).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
