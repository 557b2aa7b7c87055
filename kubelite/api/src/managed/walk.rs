//! Which fields a value has, and which differ between two values.

use std::collections::BTreeMap;

use serde_json::Value;

use super::parts::Parts;
use super::set::{Node, Set};

/// Fields whose objects and lists are always there for Go, so that nobody owns them, only what is below.
const ALWAYS_THERE: &[&str] = &[
    "f:containers",
    "f:jobTemplate",
    "f:metadata",
    "f:resources",
    "f:spec",
    "f:status",
    "f:strategy",
    "f:template",
    "f:updateStrategy",
];

/// What a client says who sends `value`.
pub(super) fn said(parts: Parts<'_>, value: &Value) -> Set {
    let mut set = Set::default();
    for (element, value, inner) in parts.split(value) {
        let whole = matches!(inner, Parts::Whole) || value.as_object().is_some_and(serde_json::Map::is_empty);
        let node = Node { member: whole || parts.own_their_parts(), below: said(inner, value) };
        set.put(element, node);
    }
    set
}

/// All that is new with a value: what it says, and what holds that.
fn all(parts: Parts<'_>, value: &Value) -> Set {
    let mut set = Set::default();
    for (element, value, inner) in parts.split(value) {
        set.put(element.clone(), new(&element, parts, value, inner));
    }
    set
}

fn new(element: &str, parts: Parts<'_>, value: &Value, inner: Parts<'_>) -> Node {
    let below = all(inner, value);
    let hidden =
        !parts.own_their_parts() && ALWAYS_THERE.binary_search(&element).is_ok() && !below.is_empty();
    Node { member: !hidden, below }
}

/// The difference between two values.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Added, or of another value.
    pub changed: Set,
    /// Gone, with all that was below.
    pub removed: Set,
}

/// What is different in `new`.
pub(super) fn difference(parts: Parts<'_>, old: &Value, new_value: &Value) -> Difference {
    let mut found = Difference::default();
    if old == new_value {
        return found;
    }
    let mut before = BTreeMap::new();
    for (element, value, _) in parts.split(old) {
        before.entry(element).or_insert(value);
    }
    for (element, value, inner) in parts.split(new_value) {
        match before.remove(&element) {
            None => found.changed.put(element.clone(), new(&element, parts, value, inner)),
            Some(old) if old == value => {}
            Some(_) if matches!(inner, Parts::Whole) => {
                found.changed.put(element, Node { member: true, below: Set::default() });
            }
            Some(old) => {
                let Difference { changed, removed } = difference(inner, old, value);
                found.changed.put(element.clone(), Node { member: false, below: changed });
                found.removed.put(element, Node { member: false, below: removed });
            }
        }
    }
    for element in before.into_keys() {
        found.removed.put(element, Node { member: true, below: Set::default() });
    }
    found
}
