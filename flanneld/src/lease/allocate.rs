//! Which subnet to try. Pure: what is taken and a source of chance come as arguments.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;

use crate::config::network::Pool;
use crate::family::{Family, network, number};

/// Among so many free subnets one is chosen by chance, so that nodes that start together seldom want the same.
const CANDIDATES: usize = 100;

/// The subnet to try: the one of the last time if it is free, or else one of the first free ones. None if all are taken.
///
/// `chance` yields an index below its argument.
pub fn choose(
    pool: &Pool,
    taken: &BTreeSet<IpNetwork>,
    previous: Option<IpNetwork>,
    chance: impl FnOnce(usize) -> usize,
) -> Option<IpNetwork> {
    let free = |subnet: &IpNetwork| !taken.iter().any(|other| overlap(*other, *subnet));
    if let Some(previous) = previous.filter(|p| pool.hands_out(*p) && free(p)) {
        return Some(previous);
    }
    let family = Family::of(pool.subnet_min);
    let size = 1u128 << (family.bits() - pool.subnet_len);
    let (first, last) = (number(pool.subnet_min), number(pool.subnet_max));
    let starts =
        std::iter::successors(Some(first), |start| start.checked_add(size).filter(|next| *next <= last));
    let subnets = starts.filter_map(|start| network(family.address(start), pool.subnet_len));
    let candidates: Vec<IpNetwork> = subnets.filter(free).take(CANDIDATES).collect();
    if candidates.is_empty() {
        return None;
    }
    candidates.get(chance(candidates.len())).copied()
}

/// Whether two subnets share addresses.
pub fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    a.contains(b.network()) || b.contains(a.network())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::network::NetworkConfig;
    use crate::family::Dual;

    fn pools() -> Dual<Pool> {
        let v6 = r#""EnableIPv6":true,"IPv6Network":"fc00::/62","Backend":{"Type":"vxlan"}"#;
        let text = format!(r#"{{"Network":"10.5.0.0/24","SubnetLen":26,{v6}}}"#);
        NetworkConfig::parse(&text).unwrap().pools
    }

    fn config() -> Pool {
        pools().v4.unwrap()
    }

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    #[test]
    fn both_families_are_chosen_from_alike() {
        let pool = pools().v6.unwrap();
        let mut taken = BTreeSet::from([net("10.5.0.0/24")]);
        for (chance, expected) in [
            (2, Some("fc00:0:0:3::/64")),
            (0, Some("fc00:0:0:1::/64")),
            (0, Some("fc00:0:0:2::/64")),
            (0, None),
        ] {
            let chosen = choose(&pool, &taken, None, |_| chance);
            assert_eq!(chosen, expected.map(net));
            taken.extend(chosen);
        }
        // To the very end of the address space.
        let text = r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"ffff:ffff:ffff:fffc::/62","Backend":{"Type":"vxlan"}}"#;
        let pool = NetworkConfig::parse(text).unwrap().pools.v6.unwrap();
        assert_eq!(choose(&pool, &taken, None, |count| count - 1), Some(net("ffff:ffff:ffff:ffff::/64")));
    }

    #[test]
    fn the_first_subnet_is_left_out_and_chance_decides() {
        let none = BTreeSet::new();
        assert_eq!(choose(&config(), &none, None, |n| n - 1), Some(net("10.5.0.192/26")));
        assert_eq!(choose(&config(), &none, None, |_| 0), Some(net("10.5.0.64/26")));
    }

    #[test]
    fn the_previous_one_is_kept_if_it_can_be() {
        let taken = BTreeSet::from([net("10.5.0.64/26")]);
        assert_eq!(choose(&config(), &taken, Some(net("10.5.0.128/26")), |_| 1), Some(net("10.5.0.128/26")));
        assert_eq!(choose(&config(), &taken, Some(net("10.5.0.64/26")), |_| 0), Some(net("10.5.0.128/26")));
        assert_eq!(choose(&config(), &taken, Some(net("10.9.0.0/26")), |_| 0), Some(net("10.5.0.128/26")));
    }

    #[test]
    fn a_larger_lease_takes_all_that_it_covers() {
        let taken = BTreeSet::from([net("10.5.0.0/25"), net("10.5.0.192/27")]);
        assert_eq!(choose(&config(), &taken, None, |_| 0), Some(net("10.5.0.128/26")));
        let taken = BTreeSet::from([net("10.5.0.0/24")]);
        assert_eq!(choose(&config(), &taken, None, |_| 0), None);
    }
}
