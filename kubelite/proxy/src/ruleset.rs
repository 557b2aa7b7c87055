//! The rules for all service ports, as nftables names and texts; the way from one set of rules to another is in `change`. Pure.
//!
//! A packet's cost doesn't grow with the number of services: one lookup in a map by address, protocol and port leads to the port's
//! chain, and one more by a random number to the endpoint. A change of a service changes its chain and its elements, nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::model::{Outside, Port, Target};

/// The table that is ours; nothing else of the host is touched.
pub const TABLE: &str = "ip kubelite-proxy";
/// What kube-proxy marks packets with that are to be masqueraded; flannel and others leave those alone.
pub(crate) const MARK: &str = "0x4000";

/// What is in the table beside the hooks.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// Chains by name: a rule each line.
    pub(crate) chains: BTreeMap<String, Vec<String>>,
    /// Elements by map or set: key, and value if it is a map.
    pub(crate) elements: BTreeMap<&'static str, BTreeMap<String, String>>,
    /// Sets of clients that stay with their endpoint, with the seconds for which they do.
    pub(crate) clients: BTreeMap<String, i32>,
}

impl Ruleset {
    /// The rules for these ports.
    pub fn new<'a>(ports: impl Iterator<Item = &'a Port>) -> Ruleset {
        let mut rules = Ruleset::default();
        ports.for_each(|port| rules.add(port));
        rules
    }

    fn add(&mut self, port: &Port) {
        let key = |ip: &Ipv4Addr| format!("{ip} . {} . {}", port.protocol, port.port);
        for ip in &port.cluster_ips {
            self.element("cluster-ips", ip.to_string(), String::new());
        }
        if port.internal.is_empty() {
            port.cluster_ips.iter().for_each(|ip| self.element("refused", key(ip), "goto refuse".into()));
        } else {
            let chain = self.balance(port, "svc", &port.internal, true);
            port.cluster_ips.iter().for_each(|ip| self.element("services", key(ip), format!("goto {chain}")));
        }
        if port.external.is_empty() && port.node_port.is_none() {
            return;
        }
        let outside = self.outside(port);
        for external in &port.external {
            match &outside {
                Ok(chain) => {
                    let chain = if external.balancer { self.firewall(port, chain) } else { chain.clone() };
                    self.element("services", key(&external.ip), format!("goto {chain}"));
                }
                Err(verdict) => self.element("refused", key(&external.ip), (*verdict).to_owned()),
            }
        }
        if let Some(node_port) = port.node_port {
            let key = format!("{} . {node_port}", port.protocol);
            match outside {
                Ok(chain) => self.element("nodeports", key, format!("goto {chain}")),
                Err(verdict) => self.element("refused-nodeports", key, verdict.to_owned()),
            }
        }
    }

    /// The chain for clients outside of the cluster, or what happens to their packets without one.
    fn outside(&mut self, port: &Port) -> Result<String, &'static str> {
        let name = format!("ext/{}", port.id);
        let rules = match &port.outside {
            Outside::Cluster(any) | Outside::Local(_, any) if any.is_empty() => return Err("goto refuse"),
            Outside::Cluster(any) => {
                vec![mark(), format!("goto {}", self.balance(port, "any", any, false))]
            }
            Outside::Local(here, any) => {
                let any = self.balance(port, "any", any, false);
                let own = format!("fib saddr type local {}", mark());
                let own = vec![own, format!("fib saddr type local goto {any}")];
                let rest = match here.is_empty() {
                    // Another node may have endpoints: the balancer is to notice by its health check, not by refusals.
                    true => "drop".to_owned(),
                    false => format!("goto {}", self.balance(port, "here", here, false)),
                };
                own.into_iter().chain([rest]).collect()
            }
        };
        self.chains.insert(name.clone(), rules);
        Ok(name)
    }

    /// Before a chain: only these sources pass.
    fn firewall(&mut self, port: &Port, chain: &str) -> String {
        if port.source_ranges.is_empty() {
            return chain.to_owned();
        }
        let ranges: Vec<String> = port.source_ranges.iter().map(ToString::to_string).collect();
        let name = format!("lb/{}", port.id);
        let rules = vec![format!("ip saddr != {{ {} }} drop", ranges.join(", ")), format!("goto {chain}")];
        self.chains.insert(name.clone(), rules);
        name
    }

    /// A chain that spreads packets over the targets.
    fn balance(&mut self, port: &Port, kind: &str, targets: &BTreeSet<Target>, mark_own: bool) -> String {
        let name = format!("{kind}/{}", port.id);
        let mut rules = Vec::new();
        if mark_own {
            // What this host sends itself has an address that the pod network doesn't lead back to.
            rules.push(format!("fib saddr type local {}", mark()));
        }
        for (ip, _) in targets {
            self.element("hairpin", format!("{ip} . {ip}"), String::new());
        }
        if let Some(seconds) = port.affinity {
            self.stick(port, targets, seconds, &mut rules);
        } else {
            let to = |(ip, to): &Target| format!("{ip} . {to}");
            let to = match targets.iter().collect::<Vec<_>>().as_slice() {
                [(ip, port)] => format!("{ip}:{port}"),
                many => format!(
                    "numgen random mod {} map {{ {} }}",
                    many.len(),
                    numbered(many.iter().map(|t| to(t)))
                ),
            };
            rules.push(format!("meta l4proto {} dnat to {to}", port.protocol));
        }
        self.chains.insert(name.clone(), rules);
        name
    }

    /// A chain and a set per target: whoever is in the set goes there again.
    fn stick(&mut self, port: &Port, targets: &BTreeSet<Target>, seconds: i32, rules: &mut Vec<String>) {
        let mut verdicts = Vec::new();
        for (ip, to) in targets {
            // One set for all chains of the port, so that a client stays however it comes.
            let clients = format!("clients/{}/{ip}/{to}", port.id);
            let chain = format!("ep/{}/{ip}/{to}", port.id);
            let update = format!("update @{clients} {{ ip saddr }}");
            let dnat = format!("meta l4proto {} dnat to {ip}:{to}", port.protocol);
            self.chains.insert(chain.clone(), vec![update, dnat]);
            rules.push(format!("ip saddr @{clients} goto {chain}"));
            self.clients.insert(clients, seconds);
            verdicts.push(format!("goto {chain}"));
        }
        rules.push(format!(
            "numgen random mod {} vmap {{ {} }}",
            verdicts.len(),
            numbered(verdicts.into_iter())
        ));
    }

    fn element(&mut self, of: &'static str, key: String, value: String) {
        // The first service that claims an address keeps it.
        self.elements.entry(of).or_default().entry(key).or_insert(value);
    }
}

fn mark() -> String {
    format!("meta mark set meta mark or {MARK}")
}

fn numbered(values: impl Iterator<Item = String>) -> String {
    values.enumerate().map(|(i, value)| format!("{i} : {value}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, targets: &[u8]) -> Port {
        let targets: BTreeSet<Target> =
            targets.iter().map(|n| (Ipv4Addr::new(10, 42, 0, *n), 8080)).collect();
        Port {
            id: format!("ns/{name}/tcp/80"),
            protocol: "tcp",
            port: 80,
            cluster_ips: vec![Ipv4Addr::new(10, 43, 0, 9)],
            external: Vec::new(),
            node_port: None,
            source_ranges: Vec::new(),
            affinity: None,
            internal: targets.clone(),
            outside: Outside::Cluster(targets),
        }
    }

    fn rules(ports: &[Port]) -> Ruleset {
        Ruleset::new(ports.iter())
    }

    #[test]
    fn one_change_changes_one_chain() {
        let before = rules(&[
            port("a", &[1, 2]),
            Port { cluster_ips: vec![[10, 43, 0, 10].into()], ..port("b", &[3]) },
        ]);
        let after = rules(&[
            port("a", &[1, 2, 4]),
            Port { cluster_ips: vec![[10, 43, 0, 10].into()], ..port("b", &[3]) },
        ]);
        assert_eq!(after.from(&after), "");
        let text = after.from(&before);
        assert!(!text.contains("/b/"), "{text}");
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(text.contains(
            "numgen random mod 3 map { 0 : 10.42.0.1 . 8080, 1 : 10.42.0.2 . 8080, 2 : 10.42.0.4 . 8080 }"
        ));
    }

    #[test]
    fn without_endpoints_it_is_refused() {
        let text = rules(&[port("a", &[])]).from(&rules(&[port("a", &[1])]));
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines.contains(&"delete element ip kubelite-proxy services { 10.43.0.9 . tcp . 80 }"),
            "{text}"
        );
        assert!(
            lines.contains(&"add element ip kubelite-proxy refused { 10.43.0.9 . tcp . 80 : goto refuse }"),
            "{text}"
        );
        assert_eq!(lines.last(), Some(&"delete chain ip kubelite-proxy svc/ns/a/tcp/80"));
    }

    #[test]
    fn a_deleted_service_leaves_nothing() {
        let all = Port { affinity: Some(5), node_port: Some(30000), ..port("a", &[1, 2]) };
        let text = rules(&[]).from(&rules(&[all]));
        for gone in [
            "delete set",
            "delete chain ip kubelite-proxy ext/ns/a/tcp/80",
            "delete element ip kubelite-proxy nodeports { tcp . 30000 }",
        ] {
            assert!(text.contains(gone), "{gone}: {text}");
        }
        assert!(!text.contains("add "), "{text}");
    }

    #[test]
    fn local_traffic_keeps_its_source_and_none_is_dropped() {
        let any: BTreeSet<Target> = [(Ipv4Addr::new(10, 42, 0, 1), 8080)].into();
        let local =
            Port { node_port: Some(30000), outside: Outside::Local(BTreeSet::new(), any), ..port("a", &[1]) };
        let set = rules(&[local]);
        let chain = &set.chains["ext/ns/a/tcp/80"];
        assert_eq!(chain.last().map(String::as_str), Some("drop"));
        assert!(chain[1].starts_with("fib saddr type local goto any/"), "{chain:?}");
    }
}
