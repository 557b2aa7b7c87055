//! Schemas: what the fields of every kind are, as one compact tree without descriptions.
//!
//! All definitions are made once, at first use, from k8s-openapi's JSON schemas (`roots`); a reference is resolved by
//! name when a tree is walked. `decode` checks and prunes an object, `defaults` fills it in, `merge_keys` says how its
//! lists are merged. The documents for clients, which have descriptions, are made on demand in `openapi`.

mod build;
mod decode;
pub(crate) mod roots;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

pub use decode::{DecodeError, Decoded};

use crate::merge_keys::ListRule;

/// A definition, e.g. that of `io.k8s.api.core.v1.Pod`.
#[derive(Debug)]
pub struct Schema {
    name: Box<str>,
    shape: Shape,
}

/// What a value must look like.
#[derive(Debug)]
pub enum Shape {
    /// An object with known fields, sorted by name.
    Object(Box<[Field]>),
    /// An object with free keys.
    Map(Box<Shape>),
    /// A list.
    List(Box<Shape>),
    /// Another definition, by name.
    Ref(Box<str>),
    /// A definition that stands nowhere else: an object of a custom resource.
    Inline(Box<Schema>),
    /// Text.
    String,
    /// Base64.
    Bytes,
    /// A 32-bit integer.
    Int32,
    /// A 64-bit integer.
    Int64,
    /// Any number.
    Number,
    /// True or false.
    Bool,
    /// A [`crate::quantity::Quantity`].
    Quantity,
    /// RFC 3339, seconds.
    Time,
    /// RFC 3339, microseconds.
    MicroTime,
    /// A 32-bit integer or text.
    IntOrString,
    /// Anything at all.
    Any,
}

/// A field of an object.
#[derive(Debug)]
pub struct Field {
    /// Its name.
    pub name: Box<str>,
    /// What it must look like.
    pub shape: Shape,
    /// How it is merged, if not the usual way.
    pub merge: Option<&'static ListRule>,
    /// What it is if it isn't given: a JSON literal.
    pub default: Option<Cow<'static, str>>,
}

impl Schema {
    /// The definition of an object with these fields.
    pub(crate) fn new(name: &str, mut fields: Vec<Field>) -> Schema {
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        Schema { name: name.into(), shape: Shape::Object(fields.into()) }
    }

    /// The definition's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type's name as Go would say it: the last part of the definition's name.
    pub fn type_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }

    /// What a value must look like.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// A field by its name; none if there is no such field or this is no object with fields.
    pub fn field(&self, name: &str) -> Option<&Field> {
        let Shape::Object(fields) = &self.shape else { return None };
        let at = fields.binary_search_by(|f| f.name.as_ref().cmp(name)).ok()?;
        fields.get(at)
    }
}

impl Shape {
    /// The definition behind a reference.
    pub fn definition(&self) -> Option<&Schema> {
        match self {
            Shape::Ref(name) => lookup(name),
            Shape::Inline(schema) => Some(schema),
            _ => None,
        }
    }
}

struct Catalogue {
    definitions: BTreeMap<String, Schema>,
    kinds: HashMap<(&'static str, &'static str, &'static str), String>,
}

fn catalogue() -> &'static Catalogue {
    static CATALOGUE: OnceLock<Catalogue> = OnceLock::new();
    CATALOGUE.get_or_init(|| {
        let mut definitions = BTreeMap::new();
        roots::each_definition(|name, json| {
            definitions.insert(name.to_owned(), build::schema(name, json));
        });
        Catalogue {
            definitions,
            kinds: roots::ROOTS.iter().map(|r| ((r.group, r.version, r.kind), (r.definition)())).collect(),
        }
    })
}

/// A definition by its name, e.g. `io.k8s.api.core.v1.Pod`.
pub fn lookup(name: &str) -> Option<&'static Schema> {
    catalogue().definitions.get(name)
}

/// The definition of a kind; `group` is empty for core.
pub fn for_kind(group: &str, version: &str, kind: &str) -> Option<&'static Schema> {
    lookup(catalogue().kinds.get(&(group, version, kind))?)
}

/// All root kinds: group, version, kind, definition.
pub fn kinds() -> impl Iterator<Item = (&'static str, &'static str, &'static str, &'static str)> {
    catalogue().kinds.iter().map(|((group, version, kind), name)| (*group, *version, *kind, name.as_str()))
}

/// The names of all definitions.
pub fn names() -> impl Iterator<Item = &'static str> {
    catalogue().definitions.keys().map(String::as_str)
}

#[cfg(test)]
mod tests;
