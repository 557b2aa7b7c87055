//! Strategic merge patch: a merge patch that knows how each list is merged, with directives.
//!
//! `$patch: replace|delete|merge` in an object or a list item, `$retainKeys`, `$deleteFromPrimitiveList/<field>` and
//! `$setElementOrder/<field>`. Which list is merged by which key stands in `merge_keys`.

use serde_json::{Map, Value};

use crate::merge_keys::ListRule;
use crate::schema::{Schema, Shape};
use crate::status::ApiError;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

type Fields = Map<String, Value>;

/// Applies `patch` to `target`, an object of the kind that `schema` describes.
pub fn strategic(schema: &Schema, target: &Value, patch: &Value) -> Result<Value, ApiError> {
    let (Value::Object(target), Value::Object(patch)) = (target, patch) else {
        return Err(ApiError::bad_request(
            "error decoding patch: a strategic merge patch must be a JSON object",
        ));
    };
    Ok(Value::Object(object(Some(schema), target.clone(), patch)?))
}

fn object(schema: Option<&Schema>, mut target: Fields, patch: &Fields) -> Result<Fields, ApiError> {
    match patch.get(PATCH) {
        None => {}
        Some(directive) if directive == "merge" => {}
        Some(directive) if directive == "replace" => {
            target.clear();
        }
        Some(directive) if directive == "delete" => return Ok(Fields::new()),
        Some(other) => {
            return Err(ApiError::bad_request(format!(
                "unrecognized strategic merge patch directive: {other}"
            )));
        }
    }
    retain_keys(&mut target, patch)?;
    for (name, value) in patch {
        let order = patch.get(&format!("{SET_ORDER}{name}"));
        if let Some(field) = name.strip_prefix(DELETE_PRIMITIVES) {
            delete_primitives(&mut target, field, value)?;
        } else if let Some(field) = name.strip_prefix(SET_ORDER) {
            if !patch.contains_key(field) {
                reorder(schema, &mut target, field, value)?;
            }
        } else if value.is_null() {
            target.remove(name);
        } else if name != PATCH && name != RETAIN_KEYS {
            let old = target.remove(name);
            if let Some(merged) = field(schema, name, old, value, order)? {
                target.insert(name.clone(), merged);
            }
        }
    }
    Ok(target)
}

/// One field: merged, or replaced. None if the patch deletes it.
fn field(
    schema: Option<&Schema>,
    name: &str,
    old: Option<Value>,
    patch: &Value,
    order: Option<&Value>,
) -> Result<Option<Value>, ApiError> {
    let known = schema.and_then(|s| s.field(name));
    let rule = known.and_then(|f| f.merge);
    let merged = match patch {
        Value::Object(patch) if patch.get(PATCH).is_some_and(|d| d == "delete") => return Ok(None),
        Value::Object(patch) => {
            let inner = known.and_then(|f| inner(&f.shape));
            let old = if rule.is_some_and(ListRule::replaces) { None } else { old };
            let old = if let Some(Value::Object(old)) = old { old } else { Fields::new() };
            Value::Object(object(inner, old, patch)?)
        }
        Value::Array(patch) => {
            let old = if let Some(Value::Array(old)) = old { old } else { Vec::new() };
            Value::Array(match rule.filter(|r| r.merges()) {
                Some(rule) => list(known.and_then(|f| inner(&f.shape)), rule, &old, patch, order)?,
                None => patch.clone(),
            })
        }
        scalar => scalar.clone(),
    };
    Ok(Some(merged))
}

/// The definition of an object, or of a list's or map's items.
fn inner(shape: &Shape) -> Option<&Schema> {
    match shape {
        Shape::List(items) => items.definition(),
        other => other.definition(),
    }
}

fn list(
    schema: Option<&Schema>,
    rule: &ListRule,
    old: &[Value],
    patch: &[Value],
    order: Option<&Value>,
) -> Result<Vec<Value>, ApiError> {
    let mut merged =
        if patch.iter().any(|item| directive(item) == Some("replace")) { Vec::new() } else { old.to_vec() };
    for item in patch {
        if rule.merge_key.is_empty() {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
            continue;
        }
        let Value::Object(fields) = item else {
            return Err(ApiError::bad_request(format!(
                "{}: a list item of the patch is no object",
                rule.field
            )));
        };
        if directive(item) == Some("replace") && !fields.contains_key(rule.merge_key) {
            continue;
        }
        let key = key_of(item, rule)?;
        let at = merged.iter().position(|have| have.get(rule.merge_key) == Some(key));
        if directive(item) == Some("delete") {
            merged.retain(|have| have.get(rule.merge_key) != Some(key));
            continue;
        }
        match at.and_then(|at| merged.get_mut(at)) {
            Some(slot) => {
                let have = if let Value::Object(have) = slot.take() { have } else { Fields::new() };
                *slot = Value::Object(object(schema, have, fields)?);
            }
            None => merged.push(Value::Object(object(schema, Fields::new(), fields)?)),
        }
    }
    Ok(match order.and_then(Value::as_array) {
        Some(order) => ordered(rule, old, merged, order),
        None => merged,
    })
}

fn directive(item: &Value) -> Option<&str> {
    item.get(PATCH)?.as_str()
}

fn key_of<'a>(item: &'a Value, rule: &ListRule) -> Result<&'a Value, ApiError> {
    item.get(rule.merge_key).ok_or_else(|| {
        ApiError::bad_request(format!("map: {item} does not contain declared merge key: {}", rule.merge_key))
    })
}

/// Puts a list into the order that the client wants. Items that the client doesn't know keep their place among those
/// that it does, by their position in the old list.
fn ordered(rule: &ListRule, old: &[Value], merged: Vec<Value>, order: &[Value]) -> Vec<Value> {
    let identity = |item: &Value| -> Value {
        if rule.merge_key.is_empty() {
            item.clone()
        } else {
            item.get(rule.merge_key).cloned().unwrap_or_default()
        }
    };
    let wanted: Vec<Value> = order.iter().map(identity).collect();
    let rank = |item: &Value| wanted.iter().position(|w| *w == identity(item));
    let place = |item: &Value| old.iter().position(|o| identity(o) == identity(item));
    let (mut known, unknown): (Vec<Value>, Vec<Value>) = merged.into_iter().partition(|i| rank(i).is_some());
    known.sort_by_key(|item| rank(item));
    let (mut known, mut unknown) = (known.into_iter().peekable(), unknown.into_iter().peekable());
    let mut result = Vec::new();
    loop {
        let take_known = match (known.peek(), unknown.peek()) {
            (None, None) => return result,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            // A new item has no place yet: it comes right after its predecessor.
            (Some(k), Some(u)) => place(k).is_none_or(|k| Some(k) < place(u)),
        };
        result.extend(if take_known { known.next() } else { unknown.next() });
    }
}

fn reorder(schema: Option<&Schema>, target: &mut Fields, field: &str, order: &Value) -> Result<(), ApiError> {
    let Some(order) = order.as_array() else {
        return Err(ApiError::bad_request(format!("{SET_ORDER}{field} must be a list")));
    };
    let rule = schema.and_then(|s| s.field(field)).and_then(|f| f.merge).filter(|r| r.merges());
    if let (Some(rule), Some(Value::Array(list))) = (rule, target.get_mut(field)) {
        let old = list.clone();
        *list = ordered(rule, &old, std::mem::take(list), order);
    }
    Ok(())
}

fn delete_primitives(target: &mut Fields, field: &str, gone: &Value) -> Result<(), ApiError> {
    let Some(gone) = gone.as_array() else {
        return Err(ApiError::bad_request(format!("{DELETE_PRIMITIVES}{field} must be a list")));
    };
    if let Some(Value::Array(list)) = target.get_mut(field) {
        list.retain(|item| !gone.contains(item));
    }
    Ok(())
}

/// Drops what `$retainKeys` doesn't list; every key of the patch must be in it.
fn retain_keys(target: &mut Fields, patch: &Fields) -> Result<(), ApiError> {
    let Some(keys) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let Some(keys) = keys.as_array() else {
        return Err(ApiError::bad_request("invalid patch format of $retainKeys: a list is expected"));
    };
    let listed = |name: &str| keys.iter().any(|key| key == name);
    if patch.iter().any(|(name, value)| !name.starts_with('$') && !value.is_null() && !listed(name)) {
        return Err(ApiError::bad_request(
            "invalid patch format of $retainKeys: every field of the patch must be in the list",
        ));
    }
    target.retain(|name, _| listed(name));
    Ok(())
}
