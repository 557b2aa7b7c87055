//! Masquerade and forwarding: flannel's rules in nftables, in tables of flannel's names. What they are is pure; [`Guard`] keeps them.
//!
//! The order is that of flannel's iptables rules. Its nftables rules differ from them by accident: the mark is compared whole,
//! and traffic from a host to pods of others keeps the host's address; these rules mean what the iptables rules mean.

use hostnet::nft::{self, Fingerprint};
use ipnetwork::IpNetwork;

use crate::family::{Dual, Family};
use crate::owner::{self, Owner};

/// kube-proxy and others mark packets that they masquerade themselves.
const MASQUERADED: &str = "0x4000";

/// nf_tables' families of ours, and how nft calls them.
pub const TABLES: [(nft::Family, &str); 2] = [(nft::Family::Ip, "ip"), (nft::Family::Ip6, "ip6")];

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The whole network of each family.
    pub networks: Dual<IpNetwork>,
    /// The own subnets.
    pub subnets: Dual<IpNetwork>,
    /// Masquerade what leaves the network.
    pub masquerade: bool,
    /// Choose source ports by chance.
    pub random_ports: bool,
    /// Accept forwarded packets of the network; of other flannelds' networks on this host, none.
    pub forward: bool,
    /// Whose they are.
    pub owner: Owner,
}

/// A family's table, as flannel calls it; those of the host's further networks are counted.
fn table(family: Family, network: usize) -> (nft::Family, &'static str, String) {
    let ((of, ip), name) = match family {
        Family::V4 => (TABLES[0], "flannel-ipv4"),
        Family::V6 => (TABLES[1], "flannel-ipv6"),
    };
    (of, ip, if network == 0 { name.to_owned() } else { format!("{name}-{network}") })
}

/// What else there is on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Neighbours {
    /// Which of the host's networks has its tables by this owner, or is to have them.
    network: usize,
    /// Families of which such a table is there.
    there: Vec<Family>,
    /// Other flannelds' networks.
    others: Vec<IpNetwork>,
}

impl Neighbours {
    fn look(owner: &Owner) -> hostnet::Result<Neighbours> {
        let tables = [nft::tables(nft::Family::Ip)?, nft::tables(nft::Family::Ip6)?];
        let find = |family, network| {
            let (_, _, name) = table(family, network);
            tables[usize::from(family == Family::V6)].iter().find(|table| table.name == name)
        };
        let label = |network| {
            let there = Family::BOTH.into_iter().filter_map(|family| find(family, network));
            there.filter_map(|table| table.comment.as_deref()).next()
        };
        let full = || hostnet::Error::Nft(format!("there are tables of {} other flannelds", owner::MOST));
        let network = *owner.choose((0..owner::MOST).map(label)).first().ok_or_else(full)?;
        let there = Family::BOTH.into_iter().filter(|family| find(*family, network).is_some()).collect();
        let labels = tables.iter().flatten().map(|table| table.comment.as_deref());
        let others = labels.filter_map(|label| owner.others_network(label)).collect();
        Ok(Neighbours { network, there, others })
    }
}

impl Rules {
    /// The ruleset, as one transaction that replaces whatever stands there in the tables of these families; `network` counts this one among
    /// the host's, and `others` are those of other flannelds.
    pub fn ruleset(&self, network: usize, families: &[Family], others: &[IpNetwork]) -> String {
        families.iter().map(|family| self.of(*family, network, others)).collect()
    }

    /// One family's table.
    fn of(&self, family: Family, network: usize, others: &[IpNetwork]) -> String {
        let (_, ip, table) = table(family, network);
        let mut text = format!("table {ip} {table}\ndelete table {ip} {table}\n");
        let (Some(net), Some(subnet)) = (self.networks.get(family), self.subnets.get(family)) else {
            return text;
        };
        if !self.masquerade && !self.forward {
            return text;
        }
        let random = if self.random_ports { " fully-random" } else { "" };
        let multicast = if family == Family::V4 { "224.0.0.0/4" } else { "ff00::/8" };
        text.push_str(&format!("table {ip} {table} {{\n  comment \"{}\";\n", self.owner.label(family)));
        if self.masquerade {
            text.push_str(&format!(
                "  chain postrtg {{
    type nat hook postrouting priority srcnat; policy accept;
    meta mark & {MASQUERADED} == {MASQUERADED} return
    {ip} saddr {subnet} {ip} daddr {net} return
    {ip} saddr {net} {ip} daddr {subnet} return
    {ip} saddr != {net} {ip} daddr {subnet} return
    {ip} saddr {net} {ip} daddr != {multicast} masquerade{random}
    {ip} saddr != {net} {ip} daddr {net} masquerade{random}
  }}\n"
            ));
        }
        if self.forward {
            let apart = others.iter().filter(|other| Family::of(other.ip()) == family).map(|other| {
                format!(
                    "    {ip} saddr {net} {ip} daddr {other} drop\n    {ip} saddr {other} {ip} daddr {net} drop\n"
                )
            });
            text.push_str(&format!(
                "  chain forward {{
    type filter hook forward priority filter; policy accept;
{}    {ip} saddr {net} accept
    {ip} daddr {net} accept
  }}\n",
                apart.collect::<String>()
            ));
        }
        text.push_str("}\n");
        text
    }
}

/// Keeps the rules as they should be. A look costs one small message as long as nobody changes any rules, and no program is run
/// unless something has to be mended.
#[derive(Debug, Default)]
pub struct Guard {
    right: Option<Seen>,
}

/// How it was when it was right.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    /// Of the namespace's whole ruleset.
    generation: u32,
    neighbours: Neighbours,
    /// Of our tables; none where none is wanted.
    tables: Dual<Fingerprint>,
}

impl Guard {
    /// Puts the rules in place, whatever stands there.
    pub fn put(&mut self, rules: &Rules) -> hostnet::Result<()> {
        self.right = None;
        let Neighbours { network, there, others } = Neighbours::look(&rules.owner)?;
        // A table of a family that the network had once goes; where there is none, a kernel without that family is not asked to make one.
        let wanted = |family: &Family| rules.networks.get(*family).is_some() || there.contains(family);
        let families: Vec<Family> = Family::BOTH.into_iter().filter(wanted).collect();
        nft::apply(&rules.ruleset(network, &families, &others))?;
        let seen = Seen::now(&rules.owner)?;
        // What came between is seen at the next look.
        let same = (seen.neighbours.network, &seen.neighbours.others) == (network, &others);
        self.right = same.then_some(seen);
        Ok(())
    }

    /// Puts the rules in place if they aren't as they were put; whether that was so.
    pub fn ensure(&mut self, rules: &Rules) -> hostnet::Result<bool> {
        let Some(right) = &self.right else { return self.put(rules).map(|()| true) };
        if nft::generation()? == right.generation {
            return Ok(false);
        }
        // Somebody changed something: ours, or only theirs?
        let now = Seen::now(&rules.owner)?;
        let (same, others) = (now.tables == right.tables, now.neighbours.others == right.neighbours.others);
        if same && others {
            self.right = Some(now);
            return Ok(false);
        }
        if same {
            tracing::info!(networks = ?now.neighbours.others, "the other networks on this host are others now");
        }
        self.put(rules)?;
        Ok(!same)
    }
}

impl Seen {
    fn now(owner: &Owner) -> hostnet::Result<Seen> {
        // In this order: a change in between makes the next look see another generation.
        let generation = nft::generation()?;
        let neighbours = Neighbours::look(owner)?;
        let print = |family| {
            let (of, _, name) = table(family, neighbours.network);
            nft::fingerprint(of, &name)
        };
        let tables = Dual { v4: print(Family::V4)?, v6: print(Family::V6)? };
        Ok(Seen { generation, neighbours, tables })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_has_its_table() {
        let networks = Dual { v4: "10.5.0.0/16".parse().ok(), v6: "fc00::/48".parse().ok() };
        let mut rules = Rules {
            networks,
            subnets: Dual { v4: "10.5.1.0/24".parse().ok(), v6: "fc00:0:0:1::/64".parse().ok() },
            masquerade: true,
            random_ports: true,
            forward: true,
            owner: Owner::new("/run/flannel/subnet.env".as_ref(), networks),
        };
        let text = rules.ruleset(0, &Family::BOTH, &[]);
        for line in [
            "table ip flannel-ipv4 {\n  comment \"flanneld:/run/flannel/subnet.env 10.5.0.0/16\";",
            "ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random",
            "table ip6 flannel-ipv6 {",
            "ip6 saddr fc00:0:0:1::/64 ip6 daddr fc00::/48 return",
            "ip6 saddr != fc00::/48 ip6 daddr fc00:0:0:1::/64 return",
            "ip6 saddr fc00::/48 ip6 daddr != ff00::/8 masquerade fully-random",
            "ip6 saddr != fc00::/48 ip6 daddr fc00::/48 masquerade fully-random",
            "ip6 daddr fc00::/48 accept",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        rules.networks.v6 = None;
        let text = rules.ruleset(0, &Family::BOTH, &[]);
        assert!(
            text.contains("delete table ip6 flannel-ipv6\n") && !text.contains("table ip6 flannel-ipv6 {")
        );
        let second = rules.ruleset(1, &[Family::V4], &[]);
        assert!(second.contains("delete table ip flannel-ipv4-1\n") && !second.contains("ip6"));
        assert!(!second.contains("drop"), "nobody else is there");
    }

    #[test]
    fn networks_of_one_host_are_kept_apart() {
        let networks = Dual { v4: "10.5.0.0/16".parse().ok(), v6: "fc00::/48".parse().ok() };
        let rules = Rules {
            networks,
            subnets: Dual { v4: "10.5.1.0/24".parse().ok(), v6: "fc00:0:0:1::/64".parse().ok() },
            masquerade: false,
            random_ports: true,
            forward: true,
            owner: Owner::new("/run/flannel/subnet.env".as_ref(), networks),
        };
        let others = ["10.6.0.0/16", "fc00:1::/48"].map(|net| net.parse().unwrap());
        let text = rules.ruleset(0, &Family::BOTH, &others);
        for line in [
            "ip saddr 10.5.0.0/16 ip daddr 10.6.0.0/16 drop\n    ip saddr 10.6.0.0/16 ip daddr 10.5.0.0/16 drop\n    ip saddr",
            "ip6 saddr fc00:1::/48 ip6 daddr fc00::/48 drop",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert_eq!(text.matches("drop").count(), 4, "{text}");
    }
}
