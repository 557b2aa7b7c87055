//! Addresses of the node's subnet, reserved on disk exactly as host-local does it, so that either plugin can take over from the other:
//!
//! ```text
//! <dataDir>/<network>/10.5.43.7            "<container id>\r\n<interface>"
//! <dataDir>/<network>/last_reserved_ip.0   "10.5.43.7": the search goes on behind it, so that an address rests before it is used again
//! <dataDir>/<network>/lock                 flock
//! ```

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;

use crate::error::Error;
use crate::files::{self, Lock};
use crate::request::Attachment;

/// The reservations of one network on this node.
#[derive(Debug)]
pub struct Pool {
    network: String,
    dir: PathBuf,
}

impl Pool {
    /// The pool of `network` under host-local's `dataDir`.
    pub fn new(data_dir: &Path, network: &str) -> Pool {
        Pool { network: network.to_owned(), dir: data_dir.join(network) }
    }

    /// Reserves one address in each subnet, or none at all.
    pub fn reserve(&self, owner: &Attachment, subnets: &[IpNetwork]) -> Result<Vec<IpNetwork>, Error> {
        let _lock = Lock::take(&self.dir)?;
        let (mut taken, mut own) = (BTreeSet::new(), None);
        for (address, file) in self.reservations()? {
            taken.insert(address);
            if owns(owner, &files::read(&file)?.unwrap_or_default()) {
                own = Some(address);
            }
        }
        if let Some(address) = own {
            let problem =
                format!("it is reserved for this container's {} already; DEL it first", owner.interface);
            return Err(Error::address_conflict(address, problem));
        }
        let mut chosen = Vec::new();
        for (index, subnet) in subnets.iter().enumerate() {
            let last = files::read(&self.last(index))?.and_then(|text| text.trim().parse().ok());
            let address = choose(subnet, last, &taken).ok_or_else(|| self.exhausted(subnet, &taken))?;
            chosen.push((index, subnet, address));
        }
        let written = chosen.iter().try_for_each(|(index, _, address)| {
            let content = format!("{}\r\n{}", owner.container, owner.interface);
            files::write(&self.dir.join(address.to_string()), content.as_bytes())?;
            files::write(&self.last(*index), address.to_string().as_bytes())
        });
        if let Err(error) = written {
            let undone = self.release_where(|content| owns(owner, content));
            return Err(undone.err().unwrap_or(error));
        }
        let with_length =
            |(_, subnet, address): (usize, &IpNetwork, IpAddr)| IpNetwork::new(address, subnet.prefix()).ok();
        Ok(chosen.into_iter().filter_map(with_length).collect())
    }

    /// Gives back what `owner` has; nothing is fine too.
    pub fn release(&self, owner: &Attachment) -> Result<(), Error> {
        if !self.dir.exists() {
            return Ok(());
        }
        let _lock = Lock::take(&self.dir)?;
        self.release_where(|content| owns(owner, content))
    }

    /// GC: gives back what none of `valid` owns.
    pub fn retain(&self, valid: &BTreeSet<Attachment>) -> Result<(), Error> {
        if !self.dir.exists() {
            return Ok(());
        }
        let _lock = Lock::take(&self.dir)?;
        self.release_where(|content| !valid.iter().any(|owner| owns(owner, content)))
    }

    /// The addresses that `owner` has.
    pub fn owned_by(&self, owner: &Attachment) -> Result<BTreeSet<IpAddr>, Error> {
        let mut owned = BTreeSet::new();
        for (address, file) in self.reservations()? {
            if owns(owner, &files::read(&file)?.unwrap_or_default()) {
                owned.insert(address);
            }
        }
        Ok(owned)
    }

    fn release_where(&self, unwanted: impl Fn(&str) -> bool) -> Result<(), Error> {
        for (_, file) in self.reservations()? {
            if files::read(&file)?.is_some_and(|content| unwanted(&content)) {
                files::remove(&file)?;
            }
        }
        Ok(())
    }

    fn reservations(&self) -> Result<Vec<(IpAddr, PathBuf)>, Error> {
        let address = |(name, path): (String, PathBuf)| Some((name.parse().ok()?, path));
        Ok(files::list(&self.dir)?.into_iter().filter_map(address).collect())
    }

    fn last(&self, index: usize) -> PathBuf {
        self.dir.join(format!("last_reserved_ip.{index}"))
    }

    fn exhausted(&self, subnet: &IpNetwork, taken: &BTreeSet<IpAddr>) -> Error {
        Error::Exhausted {
            subnet: *subnet,
            network: self.network.clone(),
            taken: taken.iter().filter(|address| subnet.contains(**address)).count(),
            dir: self.dir.clone(),
        }
    }
}

/// host-local before 0.8 wrote the container's id alone: then it stands for every interface.
fn owns(owner: &Attachment, content: &str) -> bool {
    match content.trim().split_once("\r\n") {
        Some((container, interface)) => container == owner.container && interface == owner.interface,
        None => content.trim() == owner.container,
    }
}

/// The bridge's address: the subnet's first.
pub fn gateway(subnet: &IpNetwork) -> IpAddr {
    address(subnet, number(subnet.network()).saturating_add(1))
}

/// The first free address behind `last`, around the whole subnet. The network's address, the gateway and the broadcast address are nobody's.
///
/// Among one more candidates than there are reservations one must be free, so the search ends early also in an IPv6 subnet.
pub fn choose(subnet: &IpNetwork, last: Option<IpAddr>, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let bits = if subnet.is_ipv4() { 32 } else { 128 };
    let host_bits = u32::from(bits - subnet.prefix());
    let first = number(subnet.network()).checked_add(2)?;
    // The last address is IPv4's broadcast; host-local leaves it free in IPv6 too. All ones minus one, without overflow for ::/0.
    let end = number(subnet.network()) | u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
    let count = end.checked_sub(first).filter(|count| *count > 0)?;
    let start = match last.filter(|last| subnet.contains(*last)).map(number) {
        Some(last) if (first..end).contains(&last) => (last - first + 1) % count,
        _ => 0,
    };
    let candidates = count.min(taken.len() as u128 + 1);
    (0..candidates)
        .map(|step| address(subnet, first + (start + step) % count))
        .find(|address| !taken.contains(address))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn address(subnet: &IpNetwork, number: u128) -> IpAddr {
    match subnet {
        IpNetwork::V4(_) => Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        IpNetwork::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn owner(container: &str) -> Attachment {
        Attachment { container: container.into(), interface: "eth0".into() }
    }

    #[test]
    fn goes_round_and_leaves_out_network_gateway_and_broadcast() {
        let subnet = "10.5.1.0/29".parse().unwrap();
        let (mut taken, mut last, mut seen) = (BTreeSet::new(), None, Vec::new());
        while let Some(address) = choose(&subnet, last, &taken) {
            taken.insert(address);
            seen.push(address);
            last = Some(address);
        }
        assert_eq!(seen, ["10.5.1.2", "10.5.1.3", "10.5.1.4", "10.5.1.5", "10.5.1.6"].map(ip));
        taken.remove(&ip("10.5.1.4"));
        assert_eq!(choose(&subnet, last, &taken), Some(ip("10.5.1.4")));
    }

    #[test]
    fn knows_the_extremes() {
        for (subnet, expected) in [
            ("10.0.0.0/30", Some("10.0.0.2")),
            ("10.0.0.0/31", None),
            ("10.0.0.0/32", None),
            ("0.0.0.0/0", Some("0.0.0.2")),
            ("fd00::/64", Some("fd00::2")),
            ("::/0", Some("::2")),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", None),
        ] {
            assert_eq!(
                choose(&subnet.parse().unwrap(), None, &BTreeSet::new()),
                expected.map(ip),
                "{subnet}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_chosen_is_free_and_inside(prefix in 20u8..=30, offset: u32, taken in proptest::collection::btree_set(0u32..64, 0..40)) {
            let subnet = IpNetwork::new(ip("10.9.0.0"), prefix).unwrap();
            let at = |offset: u32| IpAddr::from(Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 9, 0, 0)).wrapping_add(offset)));
            let taken: BTreeSet<IpAddr> = taken.into_iter().map(at).collect();
            let size = 1u32 << (32 - prefix);
            let free = (2..size - 1).map(at).any(|address| !taken.contains(&address));
            match choose(&subnet, Some(at(offset)), &taken) {
                Some(address) => prop_assert!(subnet.contains(address) && !taken.contains(&address) && address != gateway(&subnet)
                    && address != subnet.broadcast() && address != subnet.network()),
                None => prop_assert!(!free),
            }
        }
    }

    #[test]
    fn keeps_host_locals_layout() {
        let dir = tempfile::tempdir().unwrap();
        let pool = Pool::new(dir.path(), "cbr0");
        let subnet = "10.5.1.0/24".parse().unwrap();
        assert_eq!(pool.reserve(&owner("one"), &[subnet]).unwrap(), ["10.5.1.2/24".parse().unwrap()]);
        let read = |name: &str| std::fs::read_to_string(dir.path().join("cbr0").join(name)).unwrap();
        assert_eq!(read("10.5.1.2"), "one\r\neth0");
        assert_eq!(read("last_reserved_ip.0"), "10.5.1.2");
        assert!(dir.path().join("cbr0/lock").exists());
        pool.release(&owner("one")).unwrap();
        assert_eq!(pool.reserve(&owner("two"), &[subnet]).unwrap(), ["10.5.1.3/24".parse().unwrap()]);
    }

    #[test]
    fn takes_both_families_or_neither() {
        let dir = tempfile::tempdir().unwrap();
        let pool = Pool::new(dir.path(), "cbr0");
        let (roomy, full) = ("10.5.1.0/24".parse().unwrap(), "fd00::/128".parse().unwrap());
        assert!(matches!(pool.reserve(&owner("one"), &[roomy, full]), Err(Error::Exhausted { .. })));
        assert!(pool.owned_by(&owner("one")).unwrap().is_empty());
    }

    #[test]
    fn gc_keeps_what_is_valid() {
        let dir = tempfile::tempdir().unwrap();
        let pool = Pool::new(dir.path(), "cbr0");
        let subnet = ["10.5.1.0/24".parse().unwrap()];
        pool.reserve(&owner("one"), &subnet).unwrap();
        pool.reserve(&owner("two"), &subnet).unwrap();
        pool.retain(&BTreeSet::from([owner("two")])).unwrap();
        assert!(pool.owned_by(&owner("one")).unwrap().is_empty());
        assert_eq!(pool.owned_by(&owner("two")).unwrap().len(), 1);
    }

    #[test]
    fn a_second_add_is_a_conflict() {
        let dir = tempfile::tempdir().unwrap();
        let pool = Pool::new(dir.path(), "cbr0");
        let subnet = ["10.5.1.0/24".parse().unwrap()];
        pool.reserve(&owner("one"), &subnet).unwrap();
        assert!(matches!(pool.reserve(&owner("one"), &subnet), Err(Error::Conflict { .. })));
    }
}
