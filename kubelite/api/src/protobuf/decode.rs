//! From a message to an object, along its schema.

use serde_json::{Map, Value};

use super::numbers::{self, Meaning, Numbers};
use super::presence::is_by_pointer;
use super::special::{int_or_string, quantity, raw, text_value, time};
use super::wire::{Fields, Wire, varint};
use super::{ProtobufError, utf8};
use crate::scalar;
use crate::schema::{Schema, Shape};

/// No object of the API is half as deep.
pub(super) const MAX_DEPTH: usize = 64;
/// Two bytes on the wire can become a hundred in a tree, so values are counted as well.
pub(super) const MAX_VALUES: usize = 250_000;

type Object = Map<String, Value>;

/// The object in `bytes`, a message of the type `definition`.
pub(super) fn object(
    definition: &'static Schema,
    numbers: &'static Numbers,
    bytes: &[u8],
) -> Result<Object, ProtobufError> {
    let mut object = Object::new();
    Decoder { values: 0, depth: 0 }.message(definition, numbers, bytes, &mut object)?;
    Ok(object)
}

/// A value doesn't have its field's type; the field's name is put beside it by who knows it.
pub(super) enum Problem {
    Type,
    Other(ProtobufError),
}

impl From<ProtobufError> for Problem {
    fn from(error: ProtobufError) -> Self {
        Problem::Other(error)
    }
}

struct Decoder {
    values: usize,
    depth: usize,
}

impl Decoder {
    fn message(
        &mut self,
        definition: &'static Schema,
        numbers: &'static Numbers,
        bytes: &[u8],
        into: &mut Object,
    ) -> Result<(), ProtobufError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(ProtobufError::Depth);
        }
        for field in Fields(bytes) {
            let (number, wire) = field?;
            match (numbers.get(number), wire) {
                (Some(Meaning::Embedded(inner)), Wire::Bytes(bytes)) => {
                    self.message(definition, inner, bytes, into)?;
                }
                (Some(Meaning::Field(name)), wire) => {
                    self.field(definition, name, wire, into).map_err(|problem| match problem {
                        Problem::Type => ProtobufError::Type {
                            definition: definition.type_name().to_owned(),
                            field: (*name).to_owned(),
                        },
                        Problem::Other(error) => error,
                    })?;
                }
                // A newer client's field.
                _ => {}
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Adds what stands in one occurrence of a field.
    fn field(
        &mut self,
        definition: &'static Schema,
        name: &str,
        wire: Wire<'_>,
        into: &mut Object,
    ) -> Result<(), Problem> {
        let Some(field) = definition.field(name) else { return Ok(()) };
        match resolve(&field.shape) {
            (_, Shape::List(item)) => {
                let list = into.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                list.as_array_mut().map_or(Ok(()), |list| self.items(item, wire, list))
            }
            (_, Shape::Map(value)) => {
                let map = into.entry(name).or_insert_with(|| Value::Object(Object::new()));
                map.as_object_mut().map_or(Ok(()), |map| self.entry(value, wire, map))
            }
            // A message that comes in pieces is merged.
            (Some(inner), Shape::Object(_)) => {
                let known = into.remove(name);
                let object = self.nested(inner, wire, known)?;
                into.insert(name.to_owned(), object);
                Ok(())
            }
            (_, shape) => {
                let value = self.value(shape, wire)?;
                if value.is_null() || (is_zero(&value) && !is_by_pointer(definition.name(), name)) {
                    into.remove(name);
                } else {
                    into.insert(name.to_owned(), value);
                }
                Ok(())
            }
        }
    }

    fn nested(
        &mut self,
        definition: &'static Schema,
        wire: Wire<'_>,
        known: Option<Value>,
    ) -> Result<Value, Problem> {
        self.count()?;
        let Wire::Bytes(bytes) = wire else { return Err(Problem::Type) };
        let mut object = match known {
            Some(Value::Object(object)) => object,
            _ => Object::new(),
        };
        if let Some(numbers) = numbers::of(definition.name()) {
            self.message(definition, numbers, bytes, &mut object)?;
        }
        Ok(Value::Object(object))
    }

    /// One item, or several packed numbers.
    fn items(&mut self, shape: &'static Shape, wire: Wire<'_>, list: &mut Vec<Value>) -> Result<(), Problem> {
        if let (Shape::Int32 | Shape::Int64 | Shape::Bool, Wire::Bytes(mut packed)) = (shape, wire) {
            while !packed.is_empty() {
                list.push(self.value(shape, Wire::Varint(varint(&mut packed)?))?);
            }
            return Ok(());
        }
        list.push(self.item(shape, wire)?);
        Ok(())
    }

    /// An entry of a map is a message of its key (1) and its value (2).
    fn entry(&mut self, shape: &'static Shape, wire: Wire<'_>, map: &mut Object) -> Result<(), Problem> {
        let Wire::Bytes(bytes) = wire else { return Err(Problem::Type) };
        let (mut key, mut value) = (String::new(), None);
        for field in Fields(bytes) {
            match field? {
                (1, Wire::Bytes(text)) => key = utf8(text).map_err(|_| Problem::Type)?,
                (2, wire) => value = Some(wire),
                _ => {}
            }
        }
        let absent = match shape {
            Shape::Int32 | Shape::Int64 | Shape::Bool => Wire::Varint(0),
            Shape::Number => Wire::Fixed64(0),
            _ => Wire::Bytes(&[]),
        };
        let value = self.item(shape, value.unwrap_or(absent))?;
        map.insert(key, value);
        Ok(())
    }

    /// A value in a list or a map: its zero is a value.
    fn item(&mut self, shape: &'static Shape, wire: Wire<'_>) -> Result<Value, Problem> {
        match resolve(shape) {
            (Some(definition), Shape::Object(_)) => self.nested(definition, wire, None),
            // A list in a list or a map is wrapped in a message with the one field `items`.
            (_, Shape::List(inner)) => {
                let (Wire::Bytes(bytes), mut list) = (wire, Vec::new()) else { return Err(Problem::Type) };
                self.count()?;
                for field in Fields(bytes) {
                    if let (1, wire) = field? {
                        list.push(self.value(inner, wire)?);
                    }
                }
                Ok(Value::Array(list))
            }
            (_, shape) => self.value(shape, wire),
        }
    }

    /// A value without fields of its own. Null if nothing was said.
    fn value(&mut self, shape: &Shape, wire: Wire<'_>) -> Result<Value, Problem> {
        self.count()?;
        let number = |wire| match wire {
            Wire::Varint(n) => Ok(n.cast_signed()),
            _ => Err(Problem::Type),
        };
        Ok(match (shape, wire) {
            (Shape::String, Wire::Bytes(text)) => text_value(text)?,
            (Shape::Bytes, Wire::Bytes(bytes)) => scalar::to_base64(bytes).into(),
            (Shape::Bool, wire) => (number(wire)? != 0).into(),
            (Shape::Int64, wire) => number(wire)?.into(),
            (Shape::Int32, wire) => i32::try_from(number(wire)?).map_err(|_| Problem::Type)?.into(),
            (Shape::Number, Wire::Fixed64(bits)) => f64::from_bits(bits).into(),
            (Shape::Number, Wire::Fixed32(bits)) => f64::from(f32::from_bits(bits)).into(),
            (Shape::Quantity, Wire::Bytes(bytes)) => quantity(bytes)?,
            (Shape::IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes)?,
            (Shape::Time, Wire::Bytes(bytes)) => time(bytes)?.map(scalar::format_time).into(),
            (Shape::MicroTime, Wire::Bytes(bytes)) => time(bytes)?.map(scalar::format_micro_time).into(),
            (Shape::Any, Wire::Bytes(bytes)) => raw(bytes)?,
            _ => return Err(Problem::Type),
        })
    }

    fn count(&mut self) -> Result<(), ProtobufError> {
        self.values += 1;
        if self.values > MAX_VALUES { Err(ProtobufError::Size) } else { Ok(()) }
    }
}

/// The shape behind a reference, and the definition if it is one.
fn resolve(shape: &'static Shape) -> (Option<&'static Schema>, &'static Shape) {
    shape.definition().map_or((None, shape), |definition| (Some(definition), definition.shape()))
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Bool(bool) => !bool,
        _ => false,
    }
}
