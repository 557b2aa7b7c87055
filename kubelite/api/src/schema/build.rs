//! From a JSON schema to the compact tree.

use serde_json::{Map, Value};

use super::{Field, Schema, Shape};
use crate::{defaults, merge_keys};

const REFERENCE: &str = "#/components/schemas/";

type Special = fn() -> Shape;

/// Definitions whose JSON schema says less than their type.
const SPECIAL: &[(&str, Special)] = &[
    ("io.k8s.apimachinery.pkg.api.resource.Quantity", || Shape::Quantity),
    ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", || Shape::IntOrString),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", || Shape::Time),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", || Shape::MicroTime),
];

/// One definition.
pub(super) fn schema(name: &str, json: &Value) -> Schema {
    let special = SPECIAL.iter().find(|(special, _)| *special == name);
    let shape = special.map_or_else(|| shape(name, json), |(_, shape)| shape());
    Schema { name: name.into(), shape }
}

fn shape(definition: &str, json: &Value) -> Shape {
    if let Some(reference) = reference(json) {
        return Shape::Ref(reference.strip_prefix(REFERENCE).unwrap_or(reference).into());
    }
    let text = |key| json.get(key).and_then(Value::as_str).unwrap_or_default();
    match (text("type"), text("format")) {
        ("object", _) => object(definition, json),
        ("array", _) => {
            let items = json.get("items").map_or(Shape::Any, |items| shape(definition, items));
            Shape::List(Box::new(items))
        }
        ("string", "byte") => Shape::Bytes,
        ("string", _) => Shape::String,
        ("integer", "int32") => Shape::Int32,
        ("integer", _) => Shape::Int64,
        ("number", _) => Shape::Number,
        ("boolean", _) => Shape::Bool,
        _ => Shape::Any,
    }
}

fn object(definition: &str, json: &Value) -> Shape {
    if let Some(values) = json.get("additionalProperties").filter(|v| v.is_object()) {
        return Shape::Map(Box::new(shape(definition, values)));
    }
    match json.get("properties").and_then(Value::as_object) {
        Some(properties) => Shape::Object(fields(definition, properties)),
        None => Shape::Any,
    }
}

fn fields(definition: &str, properties: &Map<String, Value>) -> Box<[Field]> {
    let mut fields: Vec<Field> = properties
        .iter()
        .map(|(name, json)| Field {
            name: name.as_str().into(),
            shape: shape(definition, json),
            merge: merge_keys::lookup(definition, name),
            default: defaults::literal(definition, name).map(Into::into),
        })
        .collect();
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    fields.into()
}

/// A reference stands plainly, or in `allOf` where a description stands beside it.
fn reference(json: &Value) -> Option<&str> {
    let plain = json.get("$ref").and_then(Value::as_str);
    plain.or_else(|| json.get("allOf")?.as_array()?.first()?.get("$ref")?.as_str())
}
