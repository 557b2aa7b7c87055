//! The two families of addresses. What holds for both is written once, over [`IpAddr`] and [`IpNetwork`]; what a network or a node has
//! of each is a [`Dual`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network};

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// 32 bits.
    V4,
    /// 128 bits.
    V6,
}

impl Family {
    /// Both, in the order in which flannel writes them.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// An address's.
    pub fn of(ip: IpAddr) -> Family {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// The length of an address.
    pub fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }

    /// The address of this number. What does not fit into 32 bits has no IPv4 address: the last one is returned.
    pub fn address(self, number: u128) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX)).into(),
            Family::V6 => Ipv6Addr::from_bits(number).into(),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Family::V4 { "IPv4" } else { "IPv6" })
    }
}

/// An address as a number.
pub fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// A network of this prefix length around an address: its host bits are masked.
pub fn network(ip: IpAddr, prefix: u8) -> Option<IpNetwork> {
    let net = IpNetwork::new(ip, prefix).ok()?;
    IpNetwork::new(net.network(), prefix).ok()
}

/// The address itself as a network.
pub fn host(ip: IpAddr) -> IpNetwork {
    IpNetwork::from(ip)
}

/// The first address of a subnet behind its own: the bridge's.
pub fn first_host(subnet: IpNetwork) -> IpAddr {
    Family::of(subnet.ip()).address(number(subnet.network()).saturating_add(1))
}

/// Something of each family, or of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dual<T> {
    /// Of IPv4.
    pub v4: Option<T>,
    /// Of IPv6.
    pub v6: Option<T>,
}

impl<T> Default for Dual<T> {
    fn default() -> Dual<T> {
        Dual { v4: None, v6: None }
    }
}

impl<T> Dual<T> {
    /// What `make` has of each family.
    pub fn of(mut make: impl FnMut(Family) -> Option<T>) -> Dual<T> {
        Dual { v4: make(Family::V4), v6: make(Family::V6) }
    }

    /// Of IPv4 alone.
    pub fn only_v4(value: T) -> Dual<T> {
        Dual { v4: Some(value), v6: None }
    }

    /// That of a family.
    pub fn get(&self, family: Family) -> Option<&T> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }

    /// What there is of one family; none: of both.
    pub fn only(&self, family: Option<Family>) -> Dual<T>
    where
        T: Copy,
    {
        Dual::of(|each| self.get(each).copied().filter(|_| family.is_none_or(|family| family == each)))
    }

    /// Has this of a family from now on.
    pub fn set(&mut self, family: Family, value: T) {
        match family {
            Family::V4 => self.v4 = Some(value),
            Family::V6 => self.v6 = Some(value),
        }
    }

    /// What there is, with its family.
    pub fn iter(&self) -> impl Iterator<Item = (Family, &T)> {
        Family::BOTH.into_iter().filter_map(|family| Some((family, self.get(family)?)))
    }

    /// What there is, IPv4 first.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.v4.iter().chain(&self.v6)
    }

    /// The same families with something else.
    pub fn map<U>(&self, mut change: impl FnMut(&T) -> U) -> Dual<U> {
        Dual { v4: self.v4.as_ref().map(&mut change), v6: self.v6.as_ref().map(&mut change) }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }
}

impl Dual<IpNetwork> {
    /// The IPv4 network.
    pub fn ipv4(&self) -> Option<Ipv4Network> {
        self.v4.and_then(|net| if let IpNetwork::V4(net) = net { Some(net) } else { None })
    }
}

impl Dual<IpAddr> {
    /// The IPv4 address.
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        self.v4.and_then(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None })
    }

    /// The IPv6 address.
    pub fn ipv6(&self) -> Option<Ipv6Addr> {
        self.v6.and_then(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None })
    }
}

/// As it stands in logs.
impl<T: fmt::Display> fmt::Display for Dual<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.v4, &self.v6) {
            (Some(v4), Some(v6)) => write!(f, "{v4} and {v6}"),
            (Some(one), None) | (None, Some(one)) => one.fmt(f),
            (None, None) => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_addresses() {
        for text in ["0.0.0.0", "10.5.1.0", "255.255.255.255", "::", "fc00:0:0:1::", "ffff::"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(Family::of(ip).address(number(ip)), ip);
        }
        for (subnet, first) in [("10.5.1.0/24", "10.5.1.1"), ("fc00:0:0:1::/64", "fc00:0:0:1::1")] {
            assert_eq!(first_host(subnet.parse().unwrap()), first.parse::<IpAddr>().unwrap());
        }
        assert_eq!(network("10.5.3.7".parse().unwrap(), 16), "10.5.0.0/16".parse().ok());
        assert_eq!(network("10.5.3.7".parse().unwrap(), 33), None);
    }

    #[test]
    fn one_of_each_or_one() {
        let both = Dual { v4: Some(4), v6: Some(6) };
        assert_eq!(both.iter().collect::<Vec<_>>(), [(Family::V4, &4), (Family::V6, &6)]);
        assert_eq!((both.to_string(), Dual::only_v4(4).to_string()), ("4 and 6".into(), "4".into()));
        assert_eq!(Dual::of(|family| (family == Family::V6).then_some(6)).map(|n| n + 1).v6, Some(7));
        assert_eq!((both.only(None), both.only(Some(Family::V4))), (both, Dual::only_v4(4)));
        assert!(Dual::<u8>::default().is_empty());
    }
}
