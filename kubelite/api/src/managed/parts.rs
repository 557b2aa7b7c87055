//! What the parts of a value are, each of which may have an owner of its own: by the schema's list and map types.

use serde_json::Value;

use super::set::{field_element, key_element, value_element};
use crate::merge_keys::{self, ListRule};
use crate::schema::{Schema, Shape};

/// How a value comes apart.
#[derive(Debug, Clone, Copy)]
pub(super) enum Parts<'a> {
    /// Not at all: a scalar, an atomic list or object.
    Whole,
    /// Into its fields.
    Fields(&'a Schema),
    /// Into the entries of a map.
    Entries(&'a Shape),
    /// Into the items of a list that are told apart by keys.
    Items(&'a Shape, &'static [&'static str]),
    /// Into the items of a set.
    Scalars,
}

/// A part: its path element, its value, and its own parts.
pub(super) type Part<'a, 'v> = (Box<str>, &'v Value, Parts<'a>);

impl<'a> Parts<'a> {
    /// Those of a kind's objects.
    pub fn of_kind(schema: &'a Schema) -> Parts<'a> {
        Parts::Fields(schema)
    }

    /// Those of a value of this shape; what its field says of it counts first.
    fn of(shape: &'a Shape, owner: Option<(&Schema, &str)>, rule: Option<&'static ListRule>) -> Parts<'a> {
        let field = |is: fn(&str, &str) -> bool| owner.is_some_and(|(schema, name)| is(schema.name(), name));
        match shape {
            _ if field(merge_keys::is_atomic_field) => Parts::Whole,
            Shape::Ref(name) if merge_keys::is_atomic(name) && !field(merge_keys::is_granular_field) => {
                Parts::Whole
            }
            Shape::Ref(_) | Shape::Inline(_) => match shape.definition() {
                Some(schema) if matches!(schema.shape(), Shape::Object(_)) => Parts::Fields(schema),
                Some(schema) => Parts::of(schema.shape(), None, None),
                None => Parts::Whole,
            },
            Shape::Map(values) => Parts::Entries(values),
            Shape::List(items) => match rule.map(|rule| (rule.list_type, rule.list_map_keys)) {
                Some(("map", keys)) => Parts::Items(items, keys),
                Some(("set", _)) => Parts::Scalars,
                _ => Parts::Whole,
            },
            _ => Parts::Whole,
        }
    }

    /// Those of one field or map entry.
    pub fn field(self, name: &str) -> Parts<'a> {
        match self {
            Parts::Fields(schema) => schema
                .field(name)
                .map_or(Parts::Whole, |field| Parts::of(&field.shape, Some((schema, name)), field.merge)),
            Parts::Entries(values) => Parts::of(values, None, None),
            _ => Parts::Whole,
        }
    }

    /// Those of a list's items.
    pub fn item(self) -> Parts<'a> {
        match self {
            Parts::Items(items, _) => Parts::of(items, None, None),
            _ => Parts::Whole,
        }
    }

    /// The path element of a list's item; none if a key is missing that has no default.
    pub fn element(self, item: &Value) -> Option<Box<str>> {
        let Parts::Items(items, keys) = self else { return Some(value_element(item)) };
        let value =
            |key: &&'static str| Some((*key, item.get(*key).cloned().or_else(|| default(items, key))?));
        let found: Vec<(&str, Value)> = keys.iter().map(value).collect::<Option<_>>()?;
        Some(key_element(found.iter().map(|(key, value)| (*key, value))))
    }

    /// The parts of a value; none of a value that is no whole of the kind. Items without keys are left out.
    pub fn split<'v>(self, value: &'v Value) -> Vec<Part<'a, 'v>> {
        match (self, value) {
            (Parts::Fields(_) | Parts::Entries(_), Value::Object(map)) => {
                map.iter().map(|(name, value)| (field_element(name), value, self.field(name))).collect()
            }
            (Parts::Items(..) | Parts::Scalars, Value::Array(list)) => {
                list.iter().filter_map(|item| Some((self.element(item)?, item, self.item()))).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether each part is owned itself, and not only what is below it.
    pub fn own_their_parts(self) -> bool {
        !matches!(self, Parts::Fields(_))
    }
}

/// What a key is if an item doesn't say: a port's protocol.
fn default(items: &Shape, key: &str) -> Option<Value> {
    let default = items.definition()?.field(key)?.default.as_deref()?;
    serde_json::from_str(default).ok()
}
