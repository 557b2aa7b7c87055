//! Decoding: checks types, removes unknown fields and nulls, and brings special scalars into canonical form.

use serde_json::{Map, Value};

use super::{Schema, Shape};
use crate::{quantity::Quantity, scalar};

/// What was found while decoding. The object is usable if `errors` is empty.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The paths of the fields that were removed because the schema doesn't know them: `spec.containers[0].foo`.
    pub unknown: Vec<String>,
    /// The values that have the wrong type.
    pub errors: Vec<DecodeError>,
}

/// A value of the wrong type, in the words of a Go decoder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DecodeError {
    /// Where: `spec.containers[0].ports`.
    pub path: String,
    /// What: `json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container`.
    pub message: String,
}

impl Schema {
    /// Checks and prunes `value` in place.
    pub fn decode(&self, value: &mut Value) -> Decoded {
        let mut walk = Walk { at: String::new(), owner: self, found: Decoded::default() };
        walk.shape(&self.shape, value);
        walk.found
    }
}

/// The way through an object: where it is, and in which definition.
struct Walk<'a> {
    at: String,
    owner: &'a Schema,
    found: Decoded,
}

impl<'a> Walk<'a> {
    fn shape(&mut self, shape: &'a Shape, value: &mut Value) {
        match (shape, &mut *value) {
            (Shape::Any, _) => {}
            (Shape::Ref(_) | Shape::Inline(_), value) => self.reference(shape, value),
            (Shape::Object(_), Value::Object(map)) => self.fields(map),
            (Shape::Map(inner), Value::Object(map)) => {
                for (key, value) in map.iter_mut() {
                    self.inside(&format!(".{key}"), |walk| walk.item(inner, value));
                }
            }
            (Shape::List(inner), Value::Array(list)) => {
                for (i, value) in list.iter_mut().enumerate() {
                    self.inside(&format!("[{i}]"), |walk| walk.item(inner, value));
                }
            }
            (scalar, value) => self.scalar(scalar, value),
        }
    }

    fn reference(&mut self, shape: &'a Shape, value: &mut Value) {
        // A reference to nothing can only be a mistake of the catalogue, and tests look for it.
        if let Some(definition) = shape.definition() {
            let outer = std::mem::replace(&mut self.owner, definition);
            if matches!((&definition.shape, &*value), (Shape::Object(_), v) if !v.is_object()) {
                self.owner = outer;
                self.mismatch(shape, value);
            } else {
                self.shape(&definition.shape, value);
            }
            self.owner = outer;
        }
    }

    fn fields(&mut self, map: &mut Map<String, Value>) {
        let owner = self.owner;
        map.retain(|name, value| {
            let Some(field) = owner.field(name) else {
                let path = if self.at.is_empty() { name.clone() } else { format!("{}.{name}", self.at) };
                self.found.unknown.push(path);
                return false;
            };
            if value.is_null() && !matches!(field.shape, Shape::Any) {
                return false;
            }
            self.inside(&format!(".{name}"), |walk| walk.shape(&field.shape, value));
            true
        });
    }

    /// A null among items is the type's zero value.
    fn item(&mut self, shape: &'a Shape, value: &mut Value) {
        if value.is_null() {
            *value = zero(shape);
        }
        self.shape(shape, value);
    }

    fn scalar(&mut self, shape: &Shape, value: &mut Value) {
        let outcome = match (shape, &*value) {
            (Shape::String, Value::String(_)) | (Shape::Bool, Value::Bool(_)) => Ok(None),
            (Shape::Number, Value::Number(_)) | (Shape::IntOrString, Value::String(_)) => Ok(None),
            (Shape::Int32 | Shape::IntOrString, Value::Number(n)) if is_int32(n) => Ok(None),
            (Shape::Int64, Value::Number(n)) if n.as_i64().is_some() => Ok(None),
            (Shape::Bytes, Value::String(text)) => scalar::check_base64(text).map(|()| None),
            (Shape::Time, Value::String(text)) => scalar::canonical_time(text).map(Some),
            (Shape::MicroTime, Value::String(text)) => scalar::canonical_micro_time(text).map(Some),
            (Shape::Quantity, Value::String(text)) => quantity(text),
            (Shape::Quantity, Value::Number(number)) => quantity(&number.to_string()),
            _ => return self.mismatch(shape, value),
        };
        match outcome {
            Ok(None) => {}
            Ok(Some(canonical)) => *value = Value::String(canonical),
            Err(message) => self.error(message),
        }
    }

    fn mismatch(&mut self, shape: &Shape, value: &Value) {
        let got = match value {
            Value::Number(number) => format!("number {number}"),
            Value::Object(_) => "object".into(),
            Value::Array(_) => "array".into(),
            Value::Bool(_) => "bool".into(),
            Value::Null => "null".into(),
            Value::String(_) => "string".into(),
        };
        // A number is only quoted when it is a number that the type can't hold.
        let numeric = matches!(shape, Shape::Int32 | Shape::Int64 | Shape::IntOrString);
        let got = if value.is_number() && !numeric { "number".to_owned() } else { got };
        let path = without_indexes(&self.at);
        let (owner, kind) = (self.owner.type_name(), go_type(shape));
        self.error(format!(
            "json: cannot unmarshal {got} into Go struct field {owner}.{path} of type {kind}"
        ));
    }

    fn error(&mut self, message: String) {
        self.found.errors.push(DecodeError { path: self.at.clone(), message });
    }

    fn inside(&mut self, step: &str, run: impl FnOnce(&mut Self)) {
        let length = self.at.len();
        self.at.push_str(if length == 0 { step.trim_start_matches('.') } else { step });
        run(self);
        self.at.truncate(length);
    }
}

fn is_int32(number: &serde_json::Number) -> bool {
    number.as_i64().is_some_and(|n| i32::try_from(n).is_ok())
}

fn quantity(text: &str) -> Result<Option<String>, String> {
    text.parse::<Quantity>().map(|q| Some(q.to_string())).map_err(|e| e.to_string())
}

fn zero(shape: &Shape) -> Value {
    match shape {
        Shape::Ref(_) | Shape::Inline(_) => shape.definition().map_or(Value::Null, |d| zero(&d.shape)),
        Shape::Object(_) | Shape::Map(_) => Value::Object(Map::new()),
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::String | Shape::Bytes => Value::from(""),
        Shape::Int32 | Shape::Int64 | Shape::Number | Shape::IntOrString => Value::from(0),
        Shape::Quantity => Value::from("0"),
        Shape::Bool => Value::Bool(false),
        Shape::Time | Shape::MicroTime | Shape::Any => Value::Null,
    }
}

/// The type as Go writes it.
fn go_type(shape: &Shape) -> String {
    match shape {
        Shape::Ref(name) => {
            let mut parts = name.rsplit('.');
            let (kind, package) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            format!("{package}.{kind}")
        }
        Shape::List(inner) => format!("[]{}", go_type(inner)),
        Shape::Map(inner) => format!("map[string]{}", go_type(inner)),
        Shape::Bytes => "[]uint8".into(),
        Shape::Int32 => "int32".into(),
        Shape::Int64 => "int64".into(),
        Shape::Number => "float64".into(),
        Shape::Bool => "bool".into(),
        Shape::Quantity => "resource.Quantity".into(),
        Shape::Time => "v1.Time".into(),
        Shape::MicroTime => "v1.MicroTime".into(),
        Shape::IntOrString => "intstr.IntOrString".into(),
        Shape::Object(_) | Shape::Inline(_) | Shape::Any => "object".into(),
        Shape::String => "string".into(),
    }
}

/// `spec.containers[0].image` → `spec.containers.image`
fn without_indexes(path: &str) -> String {
    let mut depth = 0;
    path.chars()
        .filter(|c| {
            depth += i32::from(*c == '[');
            let keep = depth == 0;
            depth -= i32::from(*c == ']');
            keep
        })
        .collect()
}
