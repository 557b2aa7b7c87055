//! Masquerade and forwarding: flannel's rules in nftables, in tables of flannel's names. What they are is pure; [`Guard`] keeps them.
//!
//! The order is that of flannel's iptables rules. Its nftables rules differ from them by accident: the mark is compared whole,
//! and traffic from a host to pods of others keeps the host's address; these rules mean what the iptables rules mean.

use hostnet::nft::{self, Family, Fingerprint};
use ipnetwork::Ipv4Network;

const TABLE: &str = "flannel-ipv4";
/// kube-proxy and others mark packets that they masquerade themselves.
const MASQUERADED: &str = "0x4000";

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The whole network.
    pub network: Ipv4Network,
    /// The own subnet.
    pub subnet: Ipv4Network,
    /// Masquerade what leaves the network.
    pub masquerade: bool,
    /// Choose source ports by chance.
    pub random_ports: bool,
    /// Accept forwarded packets of the network.
    pub forward: bool,
}

impl Rules {
    /// The ruleset, as one transaction that replaces whatever stands there.
    pub fn ruleset(&self) -> String {
        let (net, subnet) = (self.network, self.subnet);
        let random = if self.random_ports { " fully-random" } else { "" };
        let mut text = format!("table ip {TABLE}\ndelete table ip {TABLE}\n");
        if !self.masquerade && !self.forward {
            return text;
        }
        text.push_str(&format!("table ip {TABLE} {{\n"));
        if self.masquerade {
            text.push_str(&format!(
                "  chain postrtg {{
    type nat hook postrouting priority srcnat; policy accept;
    meta mark & {MASQUERADED} == {MASQUERADED} return
    ip saddr {subnet} ip daddr {net} return
    ip saddr {net} ip daddr {subnet} return
    ip saddr != {net} ip daddr {subnet} return
    ip saddr {net} ip daddr != 224.0.0.0/4 masquerade{random}
    ip saddr != {net} ip daddr {net} masquerade{random}
  }}\n"
            ));
        }
        if self.forward {
            text.push_str(&format!(
                "  chain forward {{
    type filter hook forward priority filter; policy accept;
    ip saddr {net} accept
    ip daddr {net} accept
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
    /// Of our table; none if none is wanted.
    table: Option<Fingerprint>,
}

impl Guard {
    /// Puts the rules in place, whatever stands there.
    pub fn put(&mut self, rules: &Rules) -> hostnet::Result<()> {
        self.right = None;
        nft::apply(&rules.ruleset())?;
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
            if now.table == right.table {
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
        Ok(Seen { generation, table: nft::fingerprint(Family::Ip, TABLE)? })
    }
}
