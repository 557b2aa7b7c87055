//! A set of fields of an object, as `managedFields` holds it (`FieldsV1`): a tree of path elements.
//!
//! An element is kept as it is written: `f:replicas` for a field, `k:{"name":"web"}` for a list item by its keys, `v:"x"` for an item of a
//! set. Keys stand in their alphabetical order, so that equal elements are equal texts.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// In `FieldsV1`: what holds the other fields is owned itself.
const ITSELF: &str = ".";

/// Fields by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set(BTreeMap<Box<str>, Node>);

/// What is in the set of one element.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// The element itself.
    pub member: bool,
    /// What is below it.
    pub below: Set,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl Set {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is in it of an element.
    pub fn get(&self, element: &str) -> Option<&Node> {
        self.0.get(element)
    }

    /// Puts a node there, if there is anything in it.
    pub fn put(&mut self, element: Box<str>, node: Node) {
        if !node.is_empty() {
            self.0.insert(element, node);
        }
    }

    /// The elements at this level.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(element, node)| (element.as_ref(), node))
    }

    /// Takes an element out, with all that is below it.
    pub fn remove(&mut self, path: &[&str]) {
        let [first, rest @ ..] = path else { return };
        if rest.is_empty() {
            self.0.remove(*first);
        } else if let Some(node) = self.0.get_mut(*first) {
            node.below.remove(rest);
            if node.is_empty() {
                self.0.remove(*first);
            }
        }
    }

    /// Takes over all that is in another set.
    pub fn add(&mut self, other: &Set) {
        for (element, theirs) in &other.0 {
            let node = self.0.entry(element.clone()).or_default();
            node.member |= theirs.member;
            node.below.add(&theirs.below);
        }
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Set) -> Set {
        let mut both = Set::default();
        for (element, ours) in &self.0 {
            if let Some(theirs) = other.0.get(element) {
                let node = Node {
                    member: ours.member && theirs.member,
                    below: ours.below.intersection(&theirs.below),
                };
                both.put(element.clone(), node);
            }
        }
        both
    }

    /// Takes out the members of another set; what is below them stays.
    pub fn subtract(&mut self, other: &Set) {
        self.less(other, false);
    }

    /// Takes out the members of another set with all that is below them.
    pub fn subtract_whole(&mut self, other: &Set) {
        self.less(other, true);
    }

    fn less(&mut self, other: &Set, whole: bool) {
        self.0.retain(|element, node| {
            let Some(theirs) = other.0.get(element) else { return true };
            if theirs.member && whole {
                return false;
            }
            node.member &= !theirs.member;
            node.below.less(&theirs.below, whole);
            !node.is_empty()
        });
    }

    /// The members as people read them: `.spec.containers[name="web"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, above: &str, paths: &mut Vec<String>) {
        for (element, node) in &self.0 {
            let path = format!("{above}{}", readable(element));
            node.below.collect(&path, paths);
            if node.member {
                paths.push(path);
            }
        }
    }

    /// As `FieldsV1`.
    pub fn encode(&self) -> Value {
        let encode = |node: &Node| {
            let Value::Object(mut fields) = node.below.encode() else { return Value::Null };
            if node.member && !fields.is_empty() {
                fields.insert(ITSELF.to_owned(), Value::Object(Map::new()));
            }
            Value::Object(fields)
        };
        Value::Object(self.0.iter().map(|(element, node)| (element.to_string(), encode(node))).collect())
    }

    /// From `FieldsV1`; none if it is no such thing.
    pub fn decode(fields: &Value) -> Option<Set> {
        let mut set = Set::default();
        for (element, below) in fields.as_object()?.iter().filter(|(element, _)| *element != ITSELF) {
            let member = below.as_object()?.is_empty() || below.get(ITSELF).is_some();
            let node = Node { member, below: Set::decode(below)? };
            set.put(canonical(element)?, node);
        }
        Some(set)
    }
}

/// An element as we would write it.
fn canonical(element: &str) -> Option<Box<str>> {
    match element.split_once(':')? {
        ("f", _) => Some(element.into()),
        ("i", number) => number.parse::<u32>().ok().map(|_| element.into()),
        ("v", value) => Some(value_element(&serde_json::from_str(value).ok()?)),
        ("k", keys) => {
            let Value::Object(keys) = serde_json::from_str(keys).ok()? else { return None };
            Some(key_element(keys.iter().map(|(name, value)| (name.as_str(), value))))
        }
        _ => None,
    }
}

/// A field of an object, or a key of a map.
pub fn field_element(name: &str) -> Box<str> {
    format!("f:{name}").into()
}

/// An item of a set.
pub fn value_element(value: &Value) -> Box<str> {
    format!("v:{value}").into()
}

/// An item of a list by its keys.
pub fn key_element<'a>(keys: impl Iterator<Item = (&'a str, &'a Value)>) -> Box<str> {
    let mut keys: Vec<_> = keys.map(|(name, value)| format!("{}:{value}", Value::from(name))).collect();
    keys.sort();
    format!("k:{{{}}}", keys.join(",")).into()
}

fn readable(element: &str) -> String {
    let (kind, rest) = element.split_once(':').unwrap_or(("f", element));
    match (kind, serde_json::from_str(rest)) {
        ("k", Ok(Value::Object(keys))) => {
            let keys: Vec<_> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("[{}]", keys.join(","))
        }
        ("v", _) => format!("[={rest}]"),
        ("i", _) => format!("[{rest}]"),
        _ => format!(".{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(fields: &Value) -> Set {
        Set::decode(fields).unwrap()
    }

    #[test]
    fn what_is_read_is_written_alike() {
        let fields = json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}, "f:finalizers": {"v:\"x\"": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}}}, "f:replicas": {}}});
        assert_eq!(set(&fields).encode(), fields);
        let other = json!({"k:{ \"protocol\": \"TCP\", \"port\":80}": {}});
        assert_eq!(set(&other).encode(), json!({"k:{\"port\":80,\"protocol\":\"TCP\"}": {}}));
        assert_eq!(set(&json!({})), Set::default());
        for wrong in [json!({"x": {}}), json!({"f:a": 1}), json!({"k:1": {}}), json!({"v:": {}}), json!([])] {
            assert_eq!(Set::decode(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn paths_are_readable() {
        let fields = json!({"f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}}}, "f:x": {"v:\"a\"": {}}}});
        assert_eq!(
            set(&fields).paths(),
            [
                ".spec.ports[port=80,protocol=\"TCP\"].name",
                ".spec.ports[port=80,protocol=\"TCP\"]",
                ".spec.x[=\"a\"]"
            ]
        );
    }

    #[test]
    fn sets_are_added_and_subtracted() {
        let a = set(&json!({"f:a": {".": {}, "f:x": {}, "f:y": {}}, "f:b": {}}));
        let b = set(&json!({"f:a": {".": {}, "f:y": {}, "f:z": {}}, "f:c": {}}));
        assert_eq!(a.intersection(&b), set(&json!({"f:a": {".": {}, "f:y": {}}})));
        let mut sum = a.clone();
        sum.add(&b);
        assert_eq!(
            sum,
            set(&json!({"f:a": {".": {}, "f:x": {}, "f:y": {}, "f:z": {}}, "f:b": {}, "f:c": {}}))
        );
        let mut rest = a.clone();
        rest.subtract(&b);
        assert_eq!(rest, set(&json!({"f:a": {"f:x": {}}, "f:b": {}})));
        let mut rest = a.clone();
        rest.subtract_whole(&b);
        assert_eq!(rest, set(&json!({"f:b": {}})));
        let mut rest = a;
        rest.remove(&["f:a", "f:x"]);
        rest.remove(&["f:b"]);
        assert_eq!(rest, set(&json!({"f:a": {".": {}, "f:y": {}}})));
    }
}
