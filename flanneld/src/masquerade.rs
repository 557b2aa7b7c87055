//! Masquerade and forwarding: flannel's rules in nftables, in tables of flannel's names. What they are is pure; [`Guard`] keeps them.
//!
//! The order is that of flannel's iptables rules. Its nftables rules differ from them by accident: the mark is compared whole,
//! and traffic from a host to pods of others keeps the host's address; these rules mean what the iptables rules mean.

use hostnet::nft::{self, Fingerprint};
use ipnetwork::IpNetwork;

use crate::family::{Dual, Family};

/// kube-proxy and others mark packets that they masquerade themselves.
const MASQUERADED: &str = "0x4000";

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
    /// Accept forwarded packets of the network.
    pub forward: bool,
}

/// A family's table, as flannel calls it.
fn table(family: Family) -> (nft::Family, &'static str) {
    match family {
        Family::V4 => (nft::Family::Ip, "flannel-ipv4"),
        Family::V6 => (nft::Family::Ip6, "flannel-ipv6"),
    }
}

impl Rules {
    /// The ruleset, as one transaction that replaces whatever stands there in the tables of these families.
    pub fn ruleset(&self, families: &[Family]) -> String {
        families.iter().map(|family| self.of(*family)).collect()
    }

    /// One family's table.
    fn of(&self, family: Family) -> String {
        let ((_, table), ip) = (table(family), if family == Family::V4 { "ip" } else { "ip6" });
        let mut text = format!("table {ip} {table}\ndelete table {ip} {table}\n");
        let (Some(net), Some(subnet)) = (self.networks.get(family), self.subnets.get(family)) else {
            return text;
        };
        if !self.masquerade && !self.forward {
            return text;
        }
        let random = if self.random_ports { " fully-random" } else { "" };
        let multicast = if family == Family::V4 { "224.0.0.0/4" } else { "ff00::/8" };
        text.push_str(&format!("table {ip} {table} {{\n"));
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
            text.push_str(&format!(
                "  chain forward {{
    type filter hook forward priority filter; policy accept;
    {ip} saddr {net} accept
    {ip} daddr {net} accept
  }}\n"
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// Of the namespace's whole ruleset.
    generation: u32,
    /// Of our tables; none where none is wanted.
    tables: Dual<Fingerprint>,
}

impl Guard {
    /// Puts the rules in place, whatever stands there.
    pub fn put(&mut self, rules: &Rules) -> hostnet::Result<()> {
        self.right = None;
        // A table of a family that the network had once goes; where there is none, a kernel without that family is not asked to make one.
        let mut families = Vec::new();
        for family in Family::BOTH {
            let (of, name) = table(family);
            if rules.networks.get(family).is_some() || nft::has_table(of, name)? {
                families.push(family);
            }
        }
        nft::apply(&rules.ruleset(&families))?;
        self.right = Some(Seen::now()?);
        Ok(())
    }

    /// Puts the rules in place if they aren't as they were put; whether that was so.
    pub fn ensure(&mut self, rules: &Rules) -> hostnet::Result<bool> {
        if let Some(right) = self.right {
            if nft::generation()? == right.generation {
                return Ok(false);
            }
            // Somebody changed something: ours, or only theirs?
            let now = Seen::now()?;
            if now.tables == right.tables {
                self.right = Some(now);
                return Ok(false);
            }
        }
        self.put(rules)?;
        Ok(true)
    }
}

impl Seen {
    fn now() -> hostnet::Result<Seen> {
        // In this order: a change in between makes the next look see another generation.
        let generation = nft::generation()?;
        let print = |family| {
            let (of, name) = table(family);
            nft::fingerprint(of, name)
        };
        Ok(Seen { generation, tables: Dual { v4: print(Family::V4)?, v6: print(Family::V6)? } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_has_its_table() {
        let mut rules = Rules {
            networks: Dual { v4: "10.5.0.0/16".parse().ok(), v6: "fc00::/48".parse().ok() },
            subnets: Dual { v4: "10.5.1.0/24".parse().ok(), v6: "fc00:0:0:1::/64".parse().ok() },
            masquerade: true,
            random_ports: true,
            forward: true,
        };
        let text = rules.ruleset(&Family::BOTH);
        for line in [
            "table ip flannel-ipv4 {",
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
        let text = rules.ruleset(&Family::BOTH);
        assert!(
            text.contains("delete table ip6 flannel-ipv6\n") && !text.contains("table ip6 flannel-ipv6 {")
        );
        assert!(!rules.ruleset(&[Family::V4]).contains("ip6"));
    }
}
