//! Host ports and masquerading: the nftables table of one network, as a pure function of its attachments.
//!
//! ```text
//!  from outside ─► prerouting ┐                 ┌─ dnat to the container's port
//!  from the node ────► output ┴─► hostports ────┘
//!  what leaves ──► postrouting: a reply must come back by way of the node where the client would otherwise be answered by a stranger
//! ```
//!
//! The table is written anew as a whole, in one transaction, from the records on disk. So there is no rule to search for on DEL, what a
//! killed plugin left behind goes with the next change, and connections that exist already are not touched.

use std::fmt::Write;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::config::{PortMapping, Protocol};
use crate::record::Record;

/// nftables' limit for a comment.
const MAX_COMMENT: usize = 127;

/// The table's name, in family `inet`.
pub fn table(network: &str) -> String {
    format!("cni-{network}")
}

/// The transaction that makes the table of `network` be what `records` need, and nothing else.
pub fn ruleset(network: &str, records: &[Record]) -> String {
    let table = table(network);
    // "add" makes "delete" succeed where there was no table.
    let mut text = format!("add table inet {table}\ndelete table inet {table}\n");
    if !records.iter().any(Record::needs_nat) {
        return text;
    }
    let _ = write!(text, "table inet {table} {{\n chain hostports {{\n{}}}\n", rules(records, destination));
    text.push_str(HOOKS);
    let _ = write!(text, "{}{} }}\n}}\n", rules(records, replies), rules(records, masquerade));
    text
}

/// Priorities: host ports before Services (-100 is where they are resolved), masquerading where it belongs.
const HOOKS: &str = "\
 chain prerouting {
  type nat hook prerouting priority -101; policy accept;
  fib daddr type local jump hostports
 }
 chain output {
  type nat hook output priority -101; policy accept;
  fib daddr type local jump hostports
 }
 chain postrouting {
  type nat hook postrouting priority 99; policy accept;
";

fn rules(records: &[Record], of: fn(&Record) -> Vec<String>) -> String {
    let mut text = String::new();
    for record in records {
        let mut comment = format!("{}/{}", record.container, record.interface);
        comment.truncate(MAX_COMMENT); // container ids are ASCII
        for rule in of(record) {
            let _ = writeln!(text, "  {rule} comment \"{comment}\"");
        }
    }
    text
}

/// Every mapping with every address of the container that it may lead to.
fn targets(record: &Record) -> impl Iterator<Item = (&PortMapping, IpNetwork)> {
    let fits = |mapping: &PortMapping, address: &IpNetwork| {
        mapping.host_ip.is_none_or(|host| host.is_ipv4() == address.is_ipv4())
    };
    record.port_mappings.iter().flat_map(move |mapping| {
        record
            .addresses
            .iter()
            .filter(move |address| fits(mapping, address))
            .map(move |address| (mapping, *address))
    })
}

fn destination(record: &Record) -> Vec<String> {
    let rule = |(mapping, address): (&PortMapping, IpNetwork)| {
        let (family, protocol) = (family(address.ip()), protocol(mapping.protocol));
        let host = mapping.host_ip.map(|host| format!("{family} daddr {host} ")).unwrap_or_default();
        let nfproto = if address.is_ipv4() { "ipv4" } else { "ipv6" };
        let target = match address.ip() {
            IpAddr::V4(ip) => format!("{ip}:{}", mapping.container_port),
            IpAddr::V6(ip) => format!("[{ip}]:{}", mapping.container_port),
        };
        format!(
            "meta nfproto {nfproto} {host}{protocol} dport {} dnat {family} to {target}",
            mapping.host_port
        )
    };
    targets(record).map(rule).collect()
}

/// A client in the container's own subnet would get its answer straight over the bridge, from an address that it never asked; one that
/// asked 127.0.0.1 would get none.
fn replies(record: &Record) -> Vec<String> {
    let mut rules = Vec::new();
    for (mapping, address) in targets(record) {
        let (family, protocol, ip) = (family(address.ip()), protocol(mapping.protocol), address.ip());
        let subnet = IpNetwork::new(address.network(), address.prefix()).unwrap_or(address);
        let local = if address.is_ipv4() { "127.0.0.0/8" } else { "::1/128" };
        for source in [subnet.to_string(), local.to_owned()] {
            rules.push(format!(
                "{family} saddr {source} {family} daddr {ip} {protocol} dport {} ct status dnat ct original proto-dst {} masquerade",
                mapping.container_port, mapping.host_port
            ));
        }
    }
    rules
}

fn masquerade(record: &Record) -> Vec<String> {
    let rule = |address: &IpNetwork| {
        let family = family(address.ip());
        let same = |network: &&IpNetwork| network.is_ipv4() == address.is_ipv4();
        let mut inside: Vec<String> =
            record.masquerade_outside.iter().filter(same).map(IpNetwork::to_string).collect();
        if inside.is_empty() {
            return None;
        }
        inside.push(if address.is_ipv4() { "224.0.0.0/4" } else { "ff00::/8" }.to_owned());
        // One match per prefix: a set would have to be free of overlaps.
        let outside: Vec<String> =
            inside.iter().map(|network| format!("{family} daddr != {network}")).collect();
        Some(format!("{family} saddr {} {} masquerade", address.ip(), outside.join(" ")))
    };
    record.addresses.iter().filter_map(rule).collect()
}

/// Two attachments cannot have the same port of the same address: the first rule would win and the other pod would wait for ever.
pub fn port_conflict(records: &[Record], new: &Record) -> Option<(PortMapping, Record)> {
    let clashes = |a: &PortMapping, b: &PortMapping| {
        let same_host = match (a.host_ip, b.host_ip) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        a.host_port == b.host_port && a.protocol == b.protocol && same_host
    };
    let others = records.iter().filter(|record| record.attachment() != new.attachment());
    others
        .flat_map(|record| record.port_mappings.iter().map(move |mapping| (mapping, record)))
        .find(|(theirs, _)| new.port_mappings.iter().any(|ours| clashes(ours, theirs)))
        .map(|(mapping, record)| (mapping.clone(), record.clone()))
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}

/// As nftables and people write it.
pub fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(container: &str, host_port: u16) -> Record {
        let mapping = PortMapping { host_port, container_port: 80, protocol: Protocol::Tcp, host_ip: None };
        Record {
            boot: String::new(),
            container: container.into(),
            interface: "eth0".into(),
            host_interface: "veth0".into(),
            bridge: "cni0".into(),
            addresses: vec!["10.5.1.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()],
            masquerade_outside: vec!["10.5.0.0/16".parse().unwrap()],
            port_mappings: vec![mapping],
        }
    }

    #[test]
    fn nothing_to_do_leaves_no_table() {
        assert_eq!(ruleset("cbr0", &[]), "add table inet cni-cbr0\ndelete table inet cni-cbr0\n");
    }

    #[test]
    fn a_mapping_leads_to_every_address_of_the_container() {
        let text = ruleset("cbr0", &[record("one", 8080)]);
        for rule in [
            "meta nfproto ipv4 tcp dport 8080 dnat ip to 10.5.1.2:80 comment \"one/eth0\"",
            "meta nfproto ipv6 tcp dport 8080 dnat ip6 to [fd00::2]:80 comment \"one/eth0\"",
            "ip saddr 10.5.1.0/24 ip daddr 10.5.1.2 tcp dport 80 ct status dnat ct original proto-dst 8080 masquerade",
            "ip saddr 10.5.1.2 ip daddr != 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade comment \"one/eth0\"",
        ] {
            assert!(text.contains(rule), "{rule}\n{text}");
        }
        assert!(!text.contains("ip6 saddr fd00::2 "), "IPv6 was not asked to be masqueraded\n{text}");
    }

    #[test]
    fn a_host_address_narrows_the_rule() {
        let mut record = record("one", 8080);
        record.port_mappings[0].host_ip = "192.0.2.1".parse().ok();
        let text = ruleset("cbr0", &[record]);
        assert!(text.contains("meta nfproto ipv4 ip daddr 192.0.2.1 tcp dport 8080 dnat"), "{text}");
        assert!(!text.contains("dnat ip6"), "{text}");
    }

    #[test]
    fn one_port_has_one_owner() {
        assert!(port_conflict(&[record("one", 8080)], &record("two", 8080)).is_some());
        assert!(port_conflict(&[record("one", 8080)], &record("two", 8081)).is_none());
        assert!(port_conflict(&[record("one", 8080)], &record("one", 8080)).is_none());
    }
}
