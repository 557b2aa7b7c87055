//! From a structural schema to the compact tree by which owners are told apart.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::Structural;
use super::structural::List;
use crate::merge_keys::ListRule;
use crate::schema::{Field, Schema, Shape};

/// How many different ways to tell a list's items apart are remembered: rules live as long as the program.
const RULES: usize = 4096;

/// The tree of a whole object.
pub(super) fn schema(name: &str, root: &Structural) -> Schema {
    let mut fields = fields(root);
    fields.retain(|field| !["apiVersion", "kind", "metadata"].contains(&field.name.as_ref()));
    let meta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    for (name, shape) in
        [("apiVersion", Shape::String), ("kind", Shape::String), ("metadata", Shape::Ref(meta.into()))]
    {
        fields.push(Field { name: name.into(), shape, merge: None, default: None });
    }
    Schema::new(name, fields)
}

fn fields(schema: &Structural) -> Vec<Field> {
    let field = |(name, below): (&String, &Structural)| Field {
        name: name.as_str().into(),
        shape: shape(below),
        merge: rule(&below.list),
        default: below.default.as_ref().map(|default| default.to_string().into()),
    };
    schema.properties.iter().map(field).collect()
}

fn shape(schema: &Structural) -> Shape {
    match schema.kind.as_str() {
        _ if schema.int_or_string => Shape::IntOrString,
        _ if schema.atomic => Shape::Any,
        _ if !schema.properties.is_empty() => Shape::Inline(Box::new(Schema::new("", fields(schema)))),
        "object" => {
            let values = schema.additional.as_deref().map_or(Shape::Any, shape);
            Shape::Map(Box::new(values))
        }
        "array" => Shape::List(Box::new(schema.items.as_deref().map_or(Shape::Any, shape))),
        "string" => Shape::String,
        "integer" => Shape::Int64,
        "number" => Shape::Number,
        "boolean" => Shape::Bool,
        _ => Shape::Any,
    }
}

/// One rule for all lists of a type.
fn rule(list: &List) -> Option<&'static ListRule> {
    static KNOWN: Mutex<BTreeMap<Vec<String>, &'static ListRule>> = Mutex::new(BTreeMap::new());
    let keys = match list {
        List::Atomic => return None,
        List::Set => &Vec::new(),
        List::Map(keys) => keys,
    };
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(rule) = known.get(keys) {
        return Some(*rule);
    }
    if known.len() >= RULES {
        return None;
    }
    let names: Vec<&'static str> = keys.iter().map(|key| &*key.clone().leak()).collect();
    let rule: &'static ListRule = Box::leak(Box::new(ListRule {
        definition: "",
        field: "",
        patch_strategy: "",
        merge_key: "",
        list_type: if keys.is_empty() { "set" } else { "map" },
        list_map_keys: names.leak(),
    }));
    known.insert(keys.clone(), rule);
    Some(rule)
}
