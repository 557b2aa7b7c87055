//! Which subnet to try. Pure: what is taken and a source of chance come as arguments.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use crate::config::network::NetworkConfig;

/// Among so many free subnets one is chosen by chance, so that nodes that start together seldom want the same.
const CANDIDATES: usize = 100;

/// The subnet to try: the one of the last time if it is free, or else one of the first free ones. None if all are taken.
///
/// `chance` yields an index below its argument.
pub fn choose(
    config: &NetworkConfig,
    taken: &BTreeSet<Ipv4Network>,
    previous: Option<Ipv4Network>,
    chance: impl FnOnce(usize) -> usize,
) -> Option<Ipv4Network> {
    let free = |subnet: &Ipv4Network| !taken.iter().any(|other| overlap(*other, *subnet));
    if let Some(previous) = previous.filter(|p| config.hands_out(*p) && free(p)) {
        return Some(previous);
    }
    let size = 1u32 << (32 - config.subnet_len);
    let range = (u32::from(config.subnet_min)..=u32::from(config.subnet_max)).step_by(size as usize);
    let subnets = range.filter_map(|start| Ipv4Network::new(Ipv4Addr::from(start), config.subnet_len).ok());
    let candidates: Vec<Ipv4Network> = subnets.filter(free).take(CANDIDATES).collect();
    if candidates.is_empty() {
        return None;
    }
    candidates.get(chance(candidates.len())).copied()
}

fn overlap(a: Ipv4Network, b: Ipv4Network) -> bool {
    a.contains(b.network()) || b.contains(a.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NetworkConfig {
        NetworkConfig::parse(r#"{"Network":"10.5.0.0/24","SubnetLen":26}"#).unwrap()
    }

    fn net(text: &str) -> Ipv4Network {
        text.parse().unwrap()
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
