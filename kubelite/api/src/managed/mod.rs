//! Who owns which fields (`metadata.managedFields`), and server-side apply, which is built on it (KEP-555). Pure.
//!
//! Every write that changes a field makes its manager the owner. Who applies says all that he wants to own: a field that somebody else has
//! set otherwise is a conflict, and one that he leaves out and nobody else owns goes.
//!
//! What doesn't live here: decoding, defaults, and when this is asked (the apiserver's registry).

mod merge;
mod parts;
mod set;
mod walk;

use serde_json::{Value, json};

pub use set::Set;

use crate::object;
use crate::schema::Schema;
use crate::status::ApiError;
use parts::Parts;

/// Of clients that update and don't apply, so many are told apart; those that wrote longest ago are one.
const MOST_UPDATERS: usize = 10;
/// The name of those that are one.
const ANCIENT: &str = "ancient-changes";
/// The owner of what was there before anything was written down.
const BEFORE: &str = "before-first-apply";
const APPLY: &str = "Apply";
const UPDATE: &str = "Update";
const FIELD: &str = "managedFields";

/// What is the server's, or says what the object is, and so has no owner.
const UNOWNED: &[&[&str]] = &[
    &["f:apiVersion"],
    &["f:kind"],
    &["f:metadata", "f:name"],
    &["f:metadata", "f:namespace"],
    &["f:metadata", "f:creationTimestamp"],
    &["f:metadata", "f:selfLink"],
    &["f:metadata", "f:uid"],
    &["f:metadata", "f:clusterName"],
    &["f:metadata", "f:generation"],
    &["f:metadata", "f:managedFields"],
    &["f:metadata", "f:resourceVersion"],
];

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manager<'a> {
    /// The client's name for itself.
    pub name: &'a str,
    /// As it writes it: `apps/v1`.
    pub api_version: &'a str,
    /// E.g. `status`; empty for the object itself.
    pub subresource: &'a str,
    /// RFC 3339.
    pub now: &'a str,
}

/// One element of `managedFields`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    manager: String,
    operation: String,
    api_version: String,
    subresource: String,
    time: String,
    fields: Set,
}

impl Entry {
    fn new(manager: &Manager<'_>, operation: &str) -> Entry {
        Entry {
            manager: manager.name.to_owned(),
            operation: operation.to_owned(),
            api_version: manager.api_version.to_owned(),
            subresource: manager.subresource.to_owned(),
            time: manager.now.to_owned(),
            fields: Set::default(),
        }
    }

    /// The same but for fields and time.
    fn is_of(&self, other: &Entry) -> bool {
        (&self.manager, &self.operation, &self.api_version, &self.subresource)
            == (&other.manager, &other.operation, &other.api_version, &other.subresource)
    }

    fn decode(entry: &Value) -> Option<Entry> {
        let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let operation = text("operation");
        let known = [APPLY, UPDATE].contains(&operation.as_str());
        Some(Entry {
            manager: text("manager"),
            operation: known.then_some(operation)?,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            fields: Set::decode(entry.get("fieldsV1").unwrap_or(&json!({})))?,
        })
    }

    fn encode(&self) -> Value {
        let mut entry = json!({
            "manager": self.manager, "operation": self.operation, "apiVersion": self.api_version,
            "fieldsType": "FieldsV1", "fieldsV1": self.fields.encode(),
        });
        for (field, value) in [("time", &self.time), ("subresource", &self.subresource)] {
            if !value.is_empty() {
                entry[field] = value.as_str().into();
            }
        }
        entry
    }

    /// As conflicts name it.
    fn readable(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == UPDATE {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

/// An object's entries; none if they cannot be read, or there are none.
fn entries(object: &Value) -> Option<Vec<Entry>> {
    let list = object::metadata(object)?.get(FIELD)?.as_array().filter(|list| !list.is_empty())?;
    // So a client takes all owners away.
    if matches!(list.as_slice(), [only] if *only == json!({})) {
        return Some(Vec::new());
    }
    list.iter().map(Entry::decode).collect()
}

fn store(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.fields.is_empty());
    join_ancient(&mut entries);
    entries.sort_by(|a, b| {
        let key = |e: &Entry| (e.operation.clone(), e.time.clone(), e.manager.clone(), e.subresource.clone());
        key(a).cmp(&key(b))
    });
    match entries.is_empty() {
        true => drop(object::remove_meta(object, FIELD)),
        false => object::set_meta(object, FIELD, entries.iter().map(Entry::encode).collect::<Value>()),
    }
}

fn join_ancient(entries: &mut Vec<Entry>) {
    loop {
        let updaters =
            entries.iter().enumerate().filter(|(_, e)| e.operation == UPDATE && e.manager != ANCIENT);
        if updaters.clone().count() <= MOST_UPDATERS {
            return;
        }
        let Some((oldest, _)) = updaters.min_by_key(|(_, e)| e.time.clone()) else { return };
        let mut old = entries.remove(oldest);
        old.manager = ANCIENT.to_owned();
        match entries.iter_mut().find(|e| e.is_of(&old)) {
            Some(known) => {
                known.fields.add(&old.fields);
                known.time = known.time.clone().max(old.time);
            }
            None => entries.push(old),
        }
    }
}

fn without_unowned(mut set: Set) -> Set {
    UNOWNED.iter().for_each(|path| set.remove(path));
    set
}

/// Writes down who owns what after a change that is no apply; `old` is null for a new object. What `new` says of owners counts if
/// `trusted`, and if it can be read; else what `old` does.
pub fn update(schema: &Schema, old: &Value, new: &mut Value, manager: &Manager<'_>, trusted: bool) {
    let given = if trusted { entries(new) } else { None };
    let mut all = given.or_else(|| entries(old)).unwrap_or_default();
    let walk::Difference { changed, removed } = walk::difference(Parts::of_kind(schema), old, new);
    let (changed, removed) = (without_unowned(changed), without_unowned(removed));
    let mut own = Entry::new(manager, UPDATE);
    let known = all.iter().position(|entry| entry.is_of(&own)).map(|at| all.swap_remove(at));
    for other in &mut all {
        other.fields.subtract(&changed);
        other.fields.subtract_whole(&removed);
    }
    own.fields = known.as_ref().map(|known| known.fields.clone()).unwrap_or_default();
    own.fields.subtract_whole(&removed);
    own.fields.add(&changed);
    let same = known.filter(|known| known.fields == own.fields);
    all.push(same.unwrap_or(own));
    store(new, all);
}

/// Applies `applied`, which has what its manager wants to own and nothing else, to what is there; null if there is nothing. The result has
/// its owners written down, and no defaults for what is new.
pub fn apply(
    schema: &Schema,
    live: &Value,
    applied: &Value,
    manager: &Manager<'_>,
    force: bool,
) -> Result<Value, ApiError> {
    let parts = Parts::of_kind(schema);
    if let Some(fault) = merge::fault(parts, applied, "") {
        let (kind, name) = (schema.type_name(), object::name(applied));
        return Err(ApiError::bad_request(format!(
            "failed to create typed patch object ({}/{name}; {}, Kind={kind}): {fault}",
            object::namespace(applied),
            manager.api_version
        )));
    }
    let mut all = entries(live).unwrap_or_default();
    if all.is_empty() && !live.is_null() {
        let fields = without_unowned(walk::said(parts, live));
        all.push(Entry { manager: BEFORE.to_owned(), fields, ..Entry::new(manager, UPDATE) });
    }
    let mut own = Entry::new(manager, APPLY);
    own.fields = without_unowned(walk::said(parts, applied));
    let known = all.iter().position(|entry| entry.is_of(&own)).map(|at| all.swap_remove(at));
    let mut result = merge::merged(parts, Some(live), applied);
    if let Some(known) = &known {
        let mut owned = own.fields.clone();
        all.iter().for_each(|other| owned.add(&other.fields));
        merge::prune(parts, &mut result, &known.fields, &owned);
    }
    let walk::Difference { changed, removed } = walk::difference(parts, live, &result);
    let (changed, removed) = (without_unowned(changed), without_unowned(removed));
    if !force {
        check(&all, &changed)?;
    }
    for other in &mut all {
        other.fields.subtract(&changed);
        other.fields.subtract_whole(&removed);
    }
    let same = known.filter(|known| known.fields == own.fields);
    all.push(same.unwrap_or(own));
    store(&mut result, all);
    Ok(result)
}

/// Refuses a change of what others own.
fn check(others: &[Entry], changed: &Set) -> Result<(), ApiError> {
    let mut causes: Vec<(String, Vec<String>)> = Vec::new();
    for other in others {
        let paths = other.fields.intersection(changed).paths();
        if !paths.is_empty() {
            causes.push((other.readable(), paths));
        }
    }
    causes.sort();
    let count: usize = causes.iter().map(|(_, paths)| paths.len()).sum();
    let text = match causes.as_slice() {
        [] => return Ok(()),
        [(manager, paths)] if count == 1 => format!("conflict with {manager}: {}", paths.concat()),
        many => {
            let told = |(manager, paths): &(String, Vec<String>)| {
                format!("conflicts with {manager}:\n- {}", paths.join("\n- "))
            };
            many.iter().map(told).collect::<Vec<_>>().join("\n")
        }
    };
    let plural = if count == 1 { "" } else { "s" };
    let mut error =
        ApiError::new(409, "Conflict", format!("Apply failed with {count} conflict{plural}: {text}"));
    let cause = |manager: &str, path: &str| json!({"reason": "FieldManagerConflict", "message": format!("conflict with {manager}"), "field": path});
    let listed =
        causes.iter().flat_map(|(manager, paths)| paths.iter().map(move |path| cause(manager, path)));
    error.details["causes"] = listed.collect();
    Err(error)
}

#[cfg(test)]
mod tests;
