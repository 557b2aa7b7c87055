//! From one set of rules to another, as commands for nftables. Pure.
//!
//! The order within a transaction matters: a set can go only when no rule refers to it, a chain only when no element leads to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::SocketAddrV4;

use crate::ruleset::{MARK, Ruleset, TABLE};

/// How many elements stand in one command.
const CHUNK: usize = 500;

impl Ruleset {
    /// All of it in one transaction, in place of whatever stands there.
    pub fn whole(&self, only_by_service: &[SocketAddrV4]) -> String {
        let mut text = format!("table {TABLE}\ndelete table {TABLE}\n{}", base());
        for address in only_by_service {
            let (ip, port) = (address.ip(), address.port());
            let _ = writeln!(
                text,
                "insert rule {TABLE} filter-input ip daddr {ip} meta l4proto {{ tcp, udp }} th dport {port} ct status & dnat != dnat drop"
            );
        }
        text.push_str(&self.from(&Ruleset::default()));
        text
    }

    /// The commands that make these rules out of those before; empty if nothing changes.
    pub fn from(&self, before: &Ruleset) -> String {
        let mut text = String::new();
        let stale = |name: &&String| self.clients.get(*name) != before.clients.get(*name);
        // A set whose time changed is made anew; what refers to it goes first.
        let gone: Vec<&String> = before.clients.keys().filter(stale).collect();
        let changed = |name: &&String| {
            self.chains.get(*name) != before.chains.get(*name)
                || self.chains[*name].iter().any(|rule| gone.iter().any(|set| rule.contains(set.as_str())))
        };
        let changed: Vec<&String> = self.chains.keys().filter(changed).collect();
        for name in &changed {
            let _ = writeln!(text, "add chain {TABLE} {name}\nflush chain {TABLE} {name}");
        }
        self.elements_from(before, &mut text);
        let left: Vec<&String> =
            before.chains.keys().filter(|name| !self.chains.contains_key(*name)).collect();
        for name in &left {
            let _ = writeln!(text, "flush chain {TABLE} {name}");
        }
        for name in &gone {
            let _ = writeln!(text, "delete set {TABLE} {name}");
        }
        for (name, seconds) in self.clients.iter().filter(|(name, _)| stale(name)) {
            let _ = writeln!(
                text,
                "add set {TABLE} {name} {{ type ipv4_addr; flags dynamic,timeout; timeout {seconds}s; size 65536; }}"
            );
        }
        for name in &changed {
            for rule in &self.chains[*name] {
                let _ = writeln!(text, "add rule {TABLE} {name} {rule}");
            }
        }
        for name in &left {
            let _ = writeln!(text, "delete chain {TABLE} {name}");
        }
        text
    }

    fn elements_from(&self, before: &Ruleset, text: &mut String) {
        let none = BTreeMap::new();
        let maps: BTreeSet<&&str> = self.elements.keys().chain(before.elements.keys()).collect();
        for map in maps {
            let (new, old) =
                (self.elements.get(*map).unwrap_or(&none), before.elements.get(*map).unwrap_or(&none));
            let gone =
                old.iter().filter(|(key, value)| new.get(*key) != Some(value)).map(|(key, _)| key.clone());
            let come = new.iter().filter(|(key, value)| old.get(*key) != Some(value));
            let come = come
                .map(|(key, value)| if value.is_empty() { key.clone() } else { format!("{key} : {value}") });
            for (verb, elements) in [("delete", gone.collect::<Vec<_>>()), ("add", come.collect())] {
                for chunk in elements.chunks(CHUNK) {
                    let _ = writeln!(text, "{verb} element {TABLE} {map} {{ {} }}", chunk.join(", "));
                }
            }
        }
    }
}

/// The maps, and the hooks that look into them.
fn base() -> String {
    let address = "type ipv4_addr . inet_proto . inet_service : verdict";
    let port = "type inet_proto . inet_service : verdict";
    let to_service = "ip daddr . meta l4proto . th dport vmap";
    let to_node = "fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap";
    format!(
        "table {TABLE} {{
  map services {{ {address}; }}
  map nodeports {{ {port}; }}
  map refused {{ {address}; }}
  map refused-nodeports {{ {port}; }}
  set cluster-ips {{ type ipv4_addr; }}
  set hairpin {{ type ipv4_addr . ipv4_addr; }}
  chain refuse {{
    reject
  }}
  chain services {{
    {to_service} @services
    {to_node} @nodeports
  }}
  chain without-endpoints {{
    {to_service} @refused
    {to_node} @refused-nodeports
    ip daddr @cluster-ips goto refuse
  }}
  chain nat-prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    goto services
  }}
  chain nat-output {{
    type nat hook output priority -100; policy accept;
    goto services
  }}
  chain nat-postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    meta mark & {MARK} == {MARK} meta mark set meta mark xor {MARK} masquerade fully-random
    ct status & dnat == dnat ip saddr . ip daddr @hairpin masquerade fully-random
  }}
  chain filter-input {{
    type filter hook input priority -10; policy accept;
    ct state new goto without-endpoints
  }}
  chain filter-forward {{
    type filter hook forward priority -10; policy accept;
    ct state new goto without-endpoints
  }}
  chain filter-output {{
    type filter hook output priority -10; policy accept;
    ct state new goto without-endpoints
  }}
}}
"
    )
}
