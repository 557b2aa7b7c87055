//! Whose a thing in the kernel is. Several flannelds can run on one host, each with its own network and its own subnet file; what they
//! make there (devices, tables of rules, programs) bears the subnet file of its owner, so that none of them uses or removes what is another's.
//! Devices and tables say the network, too: two networks must not overlap, and their pods are kept apart ([`crate::masquerade`]).
//! What bears no such label was left by an earlier version or by flannel, and is anybody's.

use std::path::Path;

use anyhow::{Result, bail};
use hostnet::{Link, Netlink, nft};
use ipnetwork::IpNetwork;

use crate::family::{Dual, Family};
use crate::masquerade::TABLES;

/// How the names of flannel's devices begin, whatever the backend.
pub const DEVICES: &str = "flannel";
/// Networks on one host, at the most.
pub const MOST: usize = 16;
/// How each label begins.
const PREFIX: &str = "flanneld:";
/// In bytes; of a longer path the end counts. nft takes comments of 128 bytes, and the network stands there, too.
const LONGEST_PATH: usize = 72;

/// A flanneld, by what its labels say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    word: String,
    networks: Dual<IpNetwork>,
}

impl Owner {
    /// The flanneld with this subnet file, which carries these networks.
    pub fn new(subnet_file: &Path, networks: Dual<IpNetwork>) -> Owner {
        let path = std::path::absolute(subnet_file).unwrap_or_else(|_| subnet_file.to_owned());
        // Without what would end a text of nft, or a word.
        let plain = |c: char| if c.is_ascii_alphanumeric() || "/._-".contains(c) { c } else { '_' };
        let path: String = path.to_string_lossy().chars().map(plain).collect();
        let word = format!("{PREFIX}{}", &path[path.len().saturating_sub(LONGEST_PATH)..]);
        Owner { word, networks }
    }

    /// What things bear that are of no family.
    pub fn word(&self) -> &str {
        &self.word
    }

    /// What devices and tables of a family bear.
    pub fn label(&self, family: Family) -> String {
        match self.networks.get(family) {
            Some(network) => format!("{} {network}", self.word),
            None => self.word.clone(),
        }
    }

    /// Whether something with this label is its own.
    pub fn owns(&self, label: Option<&str>) -> bool {
        owner_of(label) == Some(&self.word)
    }

    /// Whether something with this label is another flanneld's.
    pub fn is_others(&self, label: Option<&str>) -> bool {
        owner_of(label).is_some_and(|word| word != self.word)
    }

    /// The network of something with this label, if it is another flanneld's.
    pub fn others_network(&self, label: Option<&str>) -> Option<IpNetwork> {
        label.filter(|_| self.is_others(label))?.split(' ').nth(1)?.parse().ok()
    }

    /// Of things that are counted from 0 on, by their labels: the own one, else those that are free, in their order.
    pub fn choose<'a>(&self, labels: impl Iterator<Item = Option<&'a str>> + Clone) -> Vec<usize> {
        let own = labels.clone().position(|label| self.owns(label));
        let free = labels.enumerate().filter(|(_, label)| !self.is_others(*label)).map(|(n, _)| n);
        own.map_or_else(|| free.collect(), |own| vec![own])
    }

    /// The device of this name, if it is there. Another flanneld's is refused; `remedy` is what to do.
    pub async fn device(&self, netlink: &Netlink, name: &str, remedy: &str) -> Result<Option<Link>> {
        let link = netlink.link_by_name(name).await?;
        let alias = link.as_ref().and_then(|link| link.alias.as_deref());
        if self.is_others(alias) {
            let alias = alias.unwrap_or_default();
            bail!(
                "{name} is the device of another flanneld on this host (it is labelled {alias}): {remedy}; or, if the other one is gone for \
                 good, delete it (ip link delete {name})"
            );
        }
        Ok(link)
    }

    /// Labels a device of a family.
    pub async fn mark(&self, netlink: &Netlink, link: &Link, family: Family) -> hostnet::Result<()> {
        let label = self.label(family);
        if link.alias.as_ref() == Some(&label) {
            return Ok(());
        }
        netlink.set_alias(link.index, &label).await
    }

    /// Refuses networks of which another flanneld of this host has a part: each would take the other's routes away.
    pub async fn check_networks(&self, netlink: &Netlink) -> Result<()> {
        // Each with how it is taken away.
        let devices = netlink.links().await?.into_iter();
        let mut things: Vec<(String, Option<String>)> =
            devices.map(|link| (format!("ip link delete {}", link.name), link.alias)).collect();
        for (family, word) in TABLES {
            let tables = nft::tables(family)?.into_iter();
            let remedy = |name| format!("nft delete table {word} {name}");
            things.extend(tables.map(|table| (remedy(table.name), table.comment)));
        }
        for (remedy, label) in &things {
            let Some(there) = self.others_network(label.as_deref()) else { continue };
            let overlaps = |own: &&IpNetwork| own.contains(there.network()) || there.contains(own.network());
            if let Some(own) = self.networks.values().find(overlaps) {
                bail!(
                    "the network {own} overlaps {there}, which another flanneld on this host carries (its label is {}). Give this one \
                     another --etcd-prefix with another network; or, if the other one is gone for good, take away what it left ({remedy})",
                    label.as_deref().unwrap_or_default()
                );
            }
        }
        Ok(())
    }
}

/// The flanneld that a label names.
fn owner_of(label: Option<&str>) -> Option<&str> {
    label?.split(' ').next().filter(|word| word.starts_with(PREFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(file: &str, network: &str) -> Owner {
        Owner::new(file.as_ref(), Dual::only_v4(network.parse().unwrap()))
    }

    #[test]
    fn a_label_is_two_words_and_not_too_long() {
        let there = owner("/run/flannel/subnet.env", "10.5.0.0/16");
        assert_eq!(there.label(Family::V4), "flanneld:/run/flannel/subnet.env 10.5.0.0/16");
        assert_eq!(there.label(Family::V6), "flanneld:/run/flannel/subnet.env");
        assert_eq!(
            owner("/a \"; flush ruleset/ü.env", "10.5.0.0/16").word(),
            "flanneld:/a____flush_ruleset/_.env"
        );
        let v6 = "fd00:1111:2222:3333:4444:5555:6666:7777/128".parse().ok();
        let long = Owner::new(format!("/{}/blue.env", "x".repeat(300)).as_ref(), Dual { v4: None, v6 });
        let label = long.label(Family::V6);
        assert!(label.len() <= 128 && label.contains("x/blue.env fd00:"), "{label}");
    }

    #[test]
    fn a_label_says_whose_and_of_which_network() {
        let (mine, other) = (owner("/a.env", "10.5.0.0/16"), owner("/b.env", "10.6.0.0/16"));
        let label = mine.label(Family::V4);
        assert!(mine.owns(Some(&label)) && mine.owns(Some(mine.word())) && !other.owns(Some(&label)));
        assert!(other.is_others(Some(&label)) && !mine.is_others(Some(&label)));
        assert_eq!(other.others_network(Some(&label)), "10.5.0.0/16".parse().ok());
        assert_eq!(mine.others_network(Some(&label)), None);
        for nobodys in [None, Some(""), Some("rules for flannel"), Some("my flanneld:/a.env")] {
            assert!(!mine.owns(nobodys) && !mine.is_others(nobodys), "{nobodys:?}");
        }
    }

    #[test]
    fn the_own_thing_counts_before_those_that_are_free() {
        let owner = owner("/blue.env", "10.5.0.0/16");
        let label = owner.label(Family::V4);
        let (own, other, flannels) =
            (Some(label.as_str()), Some("flanneld:/red.env 10.6.0.0/16"), Some("rules for flannel"));
        for (labels, chosen) in [
            (&[None, None][..], &[0, 1][..]),
            (&[other, None, flannels], &[1, 2]),
            (&[None, own, None], &[1]),
            (&[other, other], &[]),
        ] {
            assert_eq!(owner.choose(labels.iter().copied()), chosen, "{labels:?}");
        }
    }
}
