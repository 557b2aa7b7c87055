//! A structural schema (KEP-1979): read from `openAPIV3Schema`, with what makes it not structural told in upstream's words.

use std::collections::BTreeMap;

use regex_lite::Regex;
use serde_json::{Map, Value};

use crate::validate::report::Report;

/// What a value may be, and what is in it.
#[derive(Debug, Default)]
pub struct Structural {
    /// `array`, `boolean`, `integer`, `number`, `object`, `string`; empty if any will do.
    pub(super) kind: String,
    pub(super) nullable: bool,
    /// `x-kubernetes-preserve-unknown-fields`
    pub(super) preserve: bool,
    /// `x-kubernetes-embedded-resource`
    pub(super) embedded: bool,
    /// `x-kubernetes-int-or-string`
    pub(super) int_or_string: bool,
    pub(super) default: Option<Value>,
    pub(super) properties: BTreeMap<String, Structural>,
    /// What free keys hold.
    pub(super) additional: Option<Box<Structural>>,
    /// Whether free keys may hold anything.
    pub(super) anything: bool,
    pub(super) items: Option<Box<Structural>>,
    pub(super) list: List,
    /// `x-kubernetes-map-type: atomic`
    pub(super) atomic: bool,
    pub(super) limits: Limits,
    pub(super) all_of: Vec<Structural>,
    pub(super) any_of: Vec<Structural>,
    pub(super) one_of: Vec<Structural>,
    pub(super) not: Option<Box<Structural>>,
}

/// `x-kubernetes-list-type`
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) enum List {
    /// Owned and replaced as a whole.
    #[default]
    Atomic,
    /// No scalar twice.
    Set,
    /// No two items with the same keys.
    Map(Vec<String>),
}

/// What a scalar, a list or an object must fulfil.
#[derive(Debug, Default)]
pub(super) struct Limits {
    pub(super) one_of: Option<Vec<Value>>,
    pub(super) pattern: Option<(String, Regex)>,
    pub(super) format: String,
    pub(super) least: Option<(f64, bool)>,
    pub(super) most: Option<(f64, bool)>,
    pub(super) multiple_of: Option<f64>,
    pub(super) length: Range,
    pub(super) items: Range,
    pub(super) properties: Range,
    pub(super) required: Vec<String>,
}

/// How many there may be.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Range {
    pub(super) least: Option<u64>,
    pub(super) most: Option<u64>,
}

const KINDS: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
/// What may only stand where a value is described, and not where it is only limited (in `allOf` and the like).
const DESCRIBING: [&str; 6] = ["type", "default", "additionalProperties", "nullable", "title", "description"];

impl Structural {
    /// Reads the schema of a whole object, which stands at `path` of the definition.
    pub(crate) fn read(schema: &Value, path: &str, report: &mut Report) -> Structural {
        match schema["type"].as_str() {
            None | Some("") => report.required(format!("{path}.type"), "must not be empty at the root"),
            Some("object") => {}
            Some(_) => report.invalid(format!("{path}.type"), &schema["type"], "must be object at the root"),
        }
        Structural::at(schema, path, "", report)
    }

    /// Reads the schema of a value; `place` says of what it is one: `specified object fields`.
    fn at(schema: &Value, path: &str, place: &str, report: &mut Report) -> Structural {
        let mut read = Structural::limited(schema, path, report);
        let yes = |field: &str| schema[field] == true;
        read.kind = schema["type"].as_str().unwrap_or_default().to_owned();
        read.nullable = yes("nullable");
        read.preserve = yes("x-kubernetes-preserve-unknown-fields");
        read.embedded = yes("x-kubernetes-embedded-resource");
        read.int_or_string = yes("x-kubernetes-int-or-string");
        read.atomic = schema["x-kubernetes-map-type"] == "atomic";
        read.default = schema.get("default").filter(|default| !default.is_null()).cloned();
        if read.kind.is_empty() && !read.int_or_string && !read.preserve && !place.is_empty() {
            report.required(format!("{path}.type"), &format!("must not be empty for {place}"));
        } else if !read.kind.is_empty() {
            report.one_of(format!("{path}.type"), &read.kind, &KINDS);
        }
        for (name, field) in fields(schema, "properties") {
            let at = Structural::at(
                field,
                &format!("{path}.properties[{name}]"),
                "specified object fields",
                report,
            );
            read.properties.insert(name.clone(), at);
        }
        match &schema["additionalProperties"] {
            Value::Bool(anything) => read.anything = *anything,
            free @ Value::Object(_) => {
                let at = Structural::at(
                    free,
                    &format!("{path}.additionalProperties"),
                    "specified object fields",
                    report,
                );
                read.additional = Some(Box::new(at));
            }
            _ => {}
        }
        if !read.properties.is_empty() && (read.anything || read.additional.is_some()) {
            let text = "additionalProperties and properties are mutual exclusive";
            report.forbidden(format!("{path}.additionalProperties"), text);
        }
        if schema["items"].is_object() {
            let at =
                Structural::at(&schema["items"], &format!("{path}.items"), "specified array items", report);
            read.items = Some(Box::new(at));
        } else if read.kind == "array" {
            report.required(format!("{path}.items"), "must be specified");
        }
        read.list = list_type(schema, path, report);
        for (word, problem) in [
            ("$ref", "$ref is not supported"),
            ("definitions", "definitions is not supported"),
            ("patternProperties", "patternProperties is not supported"),
            ("dependencies", "dependencies is not supported"),
        ] {
            if schema.get(word).is_some_and(|value| !value.is_null()) {
                report.forbidden(format!("{path}.{word}"), problem);
            }
        }
        read.look_into_junctors(path, schema, report);
        read
    }

    /// Reads what limits a value, and not what it is.
    fn limited(schema: &Value, path: &str, report: &mut Report) -> Structural {
        let each = |word: &str, report: &mut Report| -> Vec<Structural> {
            let list = schema[word].as_array().map_or(&[][..], Vec::as_slice);
            list.iter()
                .enumerate()
                .map(|(i, it)| Structural::nested(it, &format!("{path}.{word}[{i}]"), report))
                .collect()
        };
        let not = schema["not"]
            .is_object()
            .then(|| Structural::nested(&schema["not"], &format!("{path}.not"), report));
        Structural {
            limits: Limits::read(schema, path, report),
            all_of: each("allOf", report),
            any_of: each("anyOf", report),
            one_of: each("oneOf", report),
            not: not.map(Box::new),
            ..Structural::default()
        }
    }

    /// Reads a schema in `allOf`, `anyOf`, `oneOf` or `not`.
    fn nested(schema: &Value, path: &str, report: &mut Report) -> Structural {
        let mut read = Structural::limited(schema, path, report);
        for (name, field) in fields(schema, "properties") {
            read.properties.insert(
                name.clone(),
                Structural::nested(field, &format!("{path}.properties[{name}]"), report),
            );
        }
        if schema["items"].is_object() {
            read.items =
                Some(Box::new(Structural::nested(&schema["items"], &format!("{path}.items"), report)));
        }
        // With int-or-string both types are listed there.
        read.kind = schema["type"].as_str().unwrap_or_default().to_owned();
        read
    }

    /// What junctors may not say, since the schema around them has to.
    fn look_into_junctors(&self, path: &str, schema: &Value, report: &mut Report) {
        for word in ["allOf", "anyOf", "oneOf"] {
            for (i, nested) in schema[word].as_array().into_iter().flatten().enumerate() {
                self.judge_nested(nested, &format!("{path}.{word}[{i}]"), path, report);
            }
        }
        if schema["not"].is_object() {
            self.judge_nested(&schema["not"], &format!("{path}.not"), path, report);
        }
    }

    fn judge_nested(&self, nested: &Value, path: &str, outer: &str, report: &mut Report) {
        for word in
            DESCRIBING.iter().filter(|word| nested.get(**word).is_some_and(|v| !v.is_null() && v != ""))
        {
            if *word != "type" || !self.int_or_string {
                report.forbidden(format!("{path}.{word}"), "must be empty to be structural");
            }
        }
        for (name, field) in fields(nested, "properties") {
            let at = format!("{path}.properties[{name}]");
            match self.properties.get(name) {
                Some(known) => known.judge_nested(field, &at, &format!("{outer}.properties[{name}]"), report),
                None if self.additional.is_some() || self.anything => {}
                None => {
                    let because = format!("because it is defined in {at}");
                    report.required(format!("{outer}.properties[{name}]"), &because);
                }
            }
        }
        if let (Some(items), true) = (&self.items, nested["items"].is_object()) {
            items.judge_nested(&nested["items"], &format!("{path}.items"), &format!("{outer}.items"), report);
        }
        for word in ["allOf", "anyOf", "oneOf"] {
            for (i, deeper) in nested[word].as_array().into_iter().flatten().enumerate() {
                self.judge_nested(deeper, &format!("{path}.{word}[{i}]"), outer, report);
            }
        }
    }

    /// Whether reading an object back can add something to it.
    pub fn has_defaults(&self) -> bool {
        let below = self.properties.values().chain(self.additional.as_deref()).chain(self.items.as_deref());
        self.default.is_some() || below.into_iter().any(Structural::has_defaults)
    }
}

impl Limits {
    fn read(schema: &Value, path: &str, report: &mut Report) -> Limits {
        let bound = |limit: &str, exclusive: &str| Some((schema[limit].as_f64()?, schema[exclusive] == true));
        let range =
            |least: &str, most: &str| Range { least: schema[least].as_u64(), most: schema[most].as_u64() };
        let texts = |field: &str| {
            schema[field].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned)
        };
        if schema["uniqueItems"] == true {
            let text = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            report.forbidden(format!("{path}.uniqueItems"), text);
        }
        let pattern = schema["pattern"].as_str().filter(|pattern| !pattern.is_empty()).and_then(|pattern| {
            let problem = match Regex::new(pattern) {
                Ok(regex) => return Some((pattern.to_owned(), regex)),
                Err(error) => format!("must be a valid regular expression, but isn't: {error}"),
            };
            report.invalid(format!("{path}.pattern"), &schema["pattern"], &problem);
            None
        });
        Limits {
            one_of: schema["enum"].as_array().cloned(),
            pattern,
            format: schema["format"].as_str().unwrap_or_default().to_owned(),
            least: bound("minimum", "exclusiveMinimum"),
            most: bound("maximum", "exclusiveMaximum"),
            multiple_of: schema["multipleOf"].as_f64().filter(|of| *of > 0.0),
            length: range("minLength", "maxLength"),
            items: range("minItems", "maxItems"),
            properties: range("minProperties", "maxProperties"),
            required: texts("required").collect(),
        }
    }
}

fn list_type(schema: &Value, path: &str, report: &mut Report) -> List {
    let at = format!("{path}.x-kubernetes-list-type");
    match schema["x-kubernetes-list-type"].as_str().unwrap_or_default() {
        "" | "atomic" => List::Atomic,
        "set" => List::Set,
        "map" => {
            let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
            let keys: Vec<String> = keys.filter_map(Value::as_str).map(str::to_owned).collect();
            if keys.is_empty() {
                let text = "must not be empty if x-kubernetes-list-type is map";
                report.required(format!("{path}.x-kubernetes-list-map-keys"), text);
            }
            for key in keys.iter().filter(|key| {
                schema.pointer("/items/properties").is_none_or(|p| p.get(key.as_str()).is_none())
            }) {
                report.invalid(
                    format!("{path}.x-kubernetes-list-map-keys"),
                    &key.as_str().into(),
                    "entries must all be names of item properties",
                );
            }
            List::Map(keys)
        }
        other => {
            report.one_of(at, other, &["atomic", "set", "map"]);
            List::Atomic
        }
    }
}

fn fields<'a>(schema: &'a Value, word: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    schema[word].as_object().into_iter().flat_map(Map::iter)
}
