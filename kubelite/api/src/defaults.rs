//! Defaults: what a field is when nobody gave it.
//!
//! `LITERALS` is one table for all kinds; the few defaults that depend on other fields are functions in `computed`,
//! run on an object before its literals, so that what they leave open is filled by the table.

mod computed;
mod literals;

use serde_json::{Map, Value};

use crate::custom::definition;
use crate::schema::{Schema, Shape};
use literals::LITERALS;

/// The definition of what defines custom resources.
const DEFINITION: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition";

/// The literal of a field, if it has one.
pub(crate) fn literal(definition: &str, field: &str) -> Option<&'static str> {
    let short = definition.strip_prefix("io.k8s.api.")?;
    LITERALS.iter().find(|(d, f, _)| *d == short && *f == field).map(|(_, _, literal)| *literal)
}

impl Schema {
    /// Fills in what isn't given, in `value` and in everything below.
    pub fn apply_defaults(&self, value: &mut Value) {
        if self.name() == DEFINITION {
            definition::fill(value);
        }
        let (Shape::Object(fields), Value::Object(map)) = (self.shape(), &mut *value) else { return };
        computed::before(self.name(), map);
        for field in fields {
            if let (Some(literal), true) = (&field.default, is_absent(map, &field.name))
                && let Ok(literal) = serde_json::from_str(literal)
            {
                map.insert(field.name.to_string(), literal);
            }
            if let Some(value) = map.get_mut(field.name.as_ref()) {
                below(&field.shape, value);
            }
        }
        computed::after(self.name(), map);
    }
}

/// Whether a field is to be defaulted: Go can't tell an empty string from none.
fn is_absent(map: &Map<String, Value>, field: &str) -> bool {
    match map.get(field) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(_) => false,
    }
}

fn below(shape: &Shape, value: &mut Value) {
    match (shape, value) {
        (Shape::Ref(_) | Shape::Inline(_), value) => {
            if let Some(definition) = shape.definition() {
                definition.apply_defaults(value);
            }
        }
        (Shape::List(inner), Value::Array(list)) => list.iter_mut().for_each(|item| below(inner, item)),
        (Shape::Map(inner), Value::Object(map)) => map.values_mut().for_each(|item| below(inner, item)),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
