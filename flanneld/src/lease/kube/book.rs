//! All nodes as records, as etcd would hold them: a node's record has its part of the pods' network as its key. Of two nodes with one part the
//! older one has it, on every node that looks. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::annotations::Annotations;
use super::node::Node;
use crate::lease::store::{Event, Record};

/// See the module.
#[derive(Debug)]
pub struct Book {
    names: Annotations,
    /// By the nodes' names: since when each is there, and its record.
    nodes: BTreeMap<String, (i64, Record)>,
    /// Who has each key: since when, and its name.
    claims: BTreeMap<String, BTreeSet<(i64, String)>>,
}

impl Book {
    /// Of no nodes.
    pub fn new(names: Annotations) -> Book {
        Book { names, nodes: BTreeMap::new(), claims: BTreeMap::new() }
    }

    /// The records that count.
    pub fn records(&self) -> Vec<Record> {
        self.claims.keys().filter_map(|key| self.owner(key).cloned()).collect()
    }

    /// Takes over a node as it is now. Most changes of a node concern nobody here.
    pub fn put(&mut self, node: &Node) -> Vec<Event> {
        let name = &node.metadata.name;
        let Some(record) = node.record(&self.names) else { return self.delete(name) };
        let (new, key) = ((node.created(), record.clone()), record.key);
        if self.nodes.get(name) == Some(&new) {
            return Vec::new();
        }
        let claim = (new.0, name.clone());
        let moved = self.release(name).filter(|before| *before != key);
        self.nodes.insert(name.clone(), new);
        self.claims.entry(key.clone()).or_default().insert(claim);
        moved.into_iter().chain([key]).map(|key| self.event(&key)).collect()
    }

    /// A node is gone.
    pub fn delete(&mut self, name: &str) -> Vec<Event> {
        self.release(name).map(|key| self.event(&key)).into_iter().collect()
    }

    /// Takes a node's claim away; the key that it had.
    fn release(&mut self, name: &str) -> Option<String> {
        let (created, Record { key, .. }) = self.nodes.remove(name)?;
        if let Some(claims) = self.claims.get_mut(&key) {
            claims.remove(&(created, name.to_owned()));
            if claims.is_empty() {
                self.claims.remove(&key);
            }
        }
        Some(key)
    }

    /// What is to be told of a key now.
    fn event(&self, key: &str) -> Event {
        self.owner(key).cloned().map_or_else(|| Event::Delete(key.to_owned()), Event::Put)
    }

    /// The record of the oldest node with this part.
    fn owner(&self, key: &str) -> Option<&Record> {
        let (_, oldest) = self.claims.get(key)?.first()?;
        self.nodes.get(oldest).map(|(_, record)| record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, year: u16, cidr: &str, managed: bool) -> Node {
        let annotations = json!({"flannel.alpha.coreos.com/kube-subnet-manager": managed.to_string(),
            "flannel.alpha.coreos.com/public-ip": format!("192.0.2.{}", &name[1..])});
        let object = json!({"metadata": {"name": name, "creationTimestamp": format!("{year}-01-01T00:00:00Z"),
            "annotations": annotations}, "spec": {"podCIDR": cidr}});
        serde_json::from_value(object).unwrap()
    }

    fn told(events: &[Event]) -> Vec<String> {
        let line = |event: &Event| match event {
            Event::Put(record) => {
                let value = String::from_utf8(record.value.clone()).unwrap();
                format!("+{} {}", record.key, value.split('"').nth(3).unwrap())
            }
            Event::Delete(key) => format!("-{key}"),
        };
        events.iter().map(line).collect()
    }

    #[test]
    fn nodes_come_change_and_go() {
        let mut book = Book::new(Annotations::new("flannel.alpha.coreos.com").unwrap());
        for (node, expected) in [
            (node("n1", 2020, "10.5.1.0/24", true), &["+10.5.1.0-24 192.0.2.1"][..]),
            (node("n2", 2021, "10.5.2.0/24", false), &[]),
            (node("n2", 2021, "10.5.2.0/24", true), &["+10.5.2.0-24 192.0.2.2"]),
            (node("n2", 2021, "10.5.3.0/24", true), &["-10.5.2.0-24", "+10.5.3.0-24 192.0.2.2"]),
            (node("n4", 2022, "", true), &["+n4 192.0.2.4"]),
            (node("n4", 2022, "10.5.4.0/24", true), &["-n4", "+10.5.4.0-24 192.0.2.4"]),
            (node("n2", 2021, "10.5.3.0/24", false), &["-10.5.3.0-24"]),
        ] {
            assert_eq!(told(&book.put(&node)), expected, "{}", node.metadata.name);
        }
        assert!(book.put(&node("n1", 2020, "10.5.1.0/24", true)).is_empty(), "as before");
        assert_eq!(told(&book.delete("n1")), ["-10.5.1.0-24"]);
        assert!(book.delete("n1").is_empty());
        assert_eq!(book.records().len(), 1);
    }

    #[test]
    fn of_two_nodes_with_one_part_the_older_has_it() {
        let (old, young) = (node("n9", 2020, "10.5.1.0/24", true), node("n1", 2021, "10.5.1.0/24", true));
        for order in [[&old, &young], [&young, &old]] {
            let mut book = Book::new(Annotations::new("flannel.alpha.coreos.com").unwrap());
            let last = order.map(|node| book.put(node));
            assert_eq!(told(&last[1]), ["+10.5.1.0-24 192.0.2.9"]);
            assert_eq!(book.records().len(), 1);
            assert_eq!(told(&book.delete("n9")), ["+10.5.1.0-24 192.0.2.1"]);
        }
    }
}
