//! Masquerade and forwarding: flannel's rules in nftables, in tables of flannel's names. Pure but for the last line.
//!
//! The order is that of flannel's iptables rules. Its nftables rules differ from them by accident: the mark is compared whole,
//! and traffic from a host to pods of others keeps the host's address; these rules mean what the iptables rules mean.

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
    /// Accept forwarded packets of the network.
    pub forward: bool,
}

impl Rules {
    /// The ruleset, as one transaction that replaces whatever stands there.
    pub fn ruleset(&self) -> String {
        let (net, subnet) = (self.network, self.subnet);
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
    ip saddr {net} ip daddr != 224.0.0.0/4 masquerade fully-random
    ip saddr != {net} ip daddr {net} masquerade fully-random
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

    /// Puts them in place if the table is not there (or `always`).
    pub fn ensure(&self, always: bool) -> hostnet::Result<()> {
        if always || (self.masquerade || self.forward) && !hostnet::nft::has_table("ip", TABLE)? {
            hostnet::nft::apply(&self.ruleset())?;
        }
        Ok(())
    }
}
