//! Server-side apply's merge: what is applied goes over what is there, and what an applier has given up goes, unless somebody else owns it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::parts::Parts;
use super::set::{Set, field_element};

/// What is applied over what is there.
pub(super) fn merged(parts: Parts<'_>, live: Option<&Value>, applied: &Value) -> Value {
    match (parts, applied) {
        (Parts::Fields(_) | Parts::Entries(_), Value::Object(applied)) => {
            let mut result = live.and_then(Value::as_object).cloned().unwrap_or_else(Map::new);
            for (name, value) in applied {
                let value = merged(parts.field(name), result.get(name), value);
                result.insert(name.clone(), value);
            }
            Value::Object(result)
        }
        (Parts::Items(..) | Parts::Scalars, Value::Array(applied)) => {
            let live = live.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            Value::Array(merged_list(parts, live, applied))
        }
        _ => applied.clone(),
    }
}

/// Items stand as the applier has them; those that he doesn't have keep their place among those that were there.
fn merged_list(parts: Parts<'_>, live: &[Value], applied: &[Value]) -> Vec<Value> {
    // By element, once: a client's list may have thousands of items. Of two that are alike the first one counts.
    let mut places = BTreeMap::new();
    for (at, item) in live.iter().enumerate() {
        places.entry(parts.element(item)).or_insert(at);
    }
    let place = |item: &Value| places.get(&parts.element(item)).copied();
    let known: BTreeSet<usize> = applied.iter().filter_map(place).collect();
    let mut others = (0..live.len()).filter(|at| !known.contains(at)).peekable();
    let mut result = Vec::with_capacity(live.len() + applied.len());
    for item in applied {
        let at = place(item);
        while let Some(other) = others.next_if(|other| at.is_some_and(|at| *other < at)) {
            result.extend(live.get(other).cloned());
        }
        result.push(merged(parts.item(), at.and_then(|at| live.get(at)), item));
    }
    result.extend(others.filter_map(|other| live.get(other).cloned()));
    result
}

/// Takes out what is in `before`, an applier's last word, and which nobody owns any more.
pub(super) fn prune(parts: Parts<'_>, value: &mut Value, before: &Set, owned: &Set) {
    let nothing = Set::default();
    // Whether a part stays, after what is below it was looked at.
    let stays = |element: &str, inner: Parts<'_>, part: &mut Value| {
        let Some(node) = before.get(element) else { return true };
        let owner = owned.get(element);
        if node.member && owner.is_none() {
            return false;
        }
        let had = !is_empty(part);
        prune(inner, part, &node.below, owner.map_or(&nothing, |owner| &owner.below));
        owner.is_some() || !(had && is_empty(part))
    };
    match (parts, value) {
        (Parts::Fields(_) | Parts::Entries(_), Value::Object(map)) => {
            map.retain(|name, part| stays(&field_element(name), parts.field(name), part));
        }
        (Parts::Items(..) | Parts::Scalars, Value::Array(list)) => {
            list.retain_mut(|item| match parts.element(item) {
                Some(element) => stays(&element, parts.item(), item),
                None => true,
            });
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// Why something cannot be applied: a list whose items cannot be told apart.
pub(super) fn fault(parts: Parts<'_>, value: &Value, path: &str) -> Option<String> {
    match (parts, value) {
        (Parts::Fields(_) | Parts::Entries(_), Value::Object(map)) => {
            map.iter().find_map(|(name, value)| fault(parts.field(name), value, &format!("{path}.{name}")))
        }
        (Parts::Items(..) | Parts::Scalars, Value::Array(list)) => {
            let mut seen = BTreeSet::new();
            list.iter().enumerate().find_map(|(at, item)| {
                let Some(element) = parts.element(item) else {
                    let keys = if let Parts::Items(_, keys) = parts { keys } else { &[] };
                    let missing = keys.iter().find(|key| item.get(**key).is_none()).unwrap_or(&"");
                    return Some(format!(
                        "{path}: element {at}: associative list with keys has an element that omits key field \"{missing}\" (and doesn't have default value)"
                    ));
                };
                let mut one = Set::default();
                one.put(element.clone(), super::set::Node { member: true, below: Set::default() });
                let readable = one.paths().concat();
                if !seen.insert(element) {
                    return Some(format!("{path}: duplicate entries for key {readable}"));
                }
                fault(parts.item(), item, &format!("{path}{readable}"))
            })
        }
        _ => None,
    }
}
