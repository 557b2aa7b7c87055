//! Validation of a custom object by its schema, in upstream's words.

use jiff::Timestamp;
use serde_json::Value;

use super::Structural;
use super::structural::{Limits, List, Range};
use crate::status::FieldError;
use crate::validate::report::Report;

impl Structural {
    /// All that is wrong with a whole object; its metadata is judged elsewhere.
    pub fn check(&self, object: &Value) -> Vec<FieldError> {
        let mut report = Report::default();
        self.check_at(object, "", &mut report);
        report.into_errors()
    }

    fn check_at(&self, value: &Value, path: &str, report: &mut Report) {
        if value.is_null() && self.nullable {
            return;
        }
        if !self.is_of_kind(value) {
            let kind = if self.int_or_string { "integer,string" } else { &self.kind };
            let is = kind_of(value);
            return report.invalid(
                path,
                &is.into(),
                &format!("{path} in body must be of type {kind}: {is:?}"),
            );
        }
        self.limits.check(value, path, report);
        match value {
            Value::Object(map) => {
                if self.embedded {
                    for field in ["apiVersion", "kind"] {
                        if map.get(field).and_then(Value::as_str).is_none_or(str::is_empty) {
                            report.required(below(path, field), "must not be empty");
                        }
                    }
                }
                for (name, value) in map {
                    if let Some(schema) = self.properties.get(name).or(self.additional.as_deref()) {
                        schema.check_at(value, &below(path, name), report);
                    }
                }
            }
            Value::Array(list) => {
                for (i, item) in list.iter().enumerate() {
                    if let Some(items) = &self.items {
                        items.check_at(item, &format!("{path}[{i}]"), report);
                    }
                }
                self.check_list(list, path, report);
            }
            _ => {}
        }
        self.check_junctors(value, path, report);
    }

    fn is_of_kind(&self, value: &Value) -> bool {
        match self.kind.as_str() {
            _ if self.int_or_string => value.is_string() || is_integer(value),
            "" => true,
            "integer" => is_integer(value),
            "number" => value.is_number(),
            kind => kind == kind_of(value),
        }
    }

    /// Items that are there twice, where the list's type says that none is.
    fn check_list(&self, list: &[Value], path: &str, report: &mut Report) {
        let keys = |item: &Value| -> Value {
            match &self.list {
                List::Map(keys) => {
                    keys.iter().filter_map(|k| Some((k.clone(), item.get(k)?.clone()))).collect()
                }
                _ => item.clone(),
            }
        };
        if self.list == List::Atomic {
            return;
        }
        let mut seen = std::collections::HashSet::new();
        for (i, item) in list.iter().enumerate() {
            let keys = keys(item);
            if !seen.insert(keys.to_string()) {
                report.duplicate(format!("{path}[{i}]"), &keys);
            }
        }
    }

    fn fits(&self, value: &Value, path: &str) -> bool {
        let mut report = Report::default();
        self.check_at(value, path, &mut report);
        report.into_errors().is_empty()
    }

    fn check_junctors(&self, value: &Value, path: &str, report: &mut Report) {
        self.all_of.iter().for_each(|schema| schema.check_at(value, path, report));
        let mut wrong = |text: String| report.invalid("<nil>", &"".into(), &format!("{path:?} {text}"));
        let fitting = |list: &[Structural]| list.iter().filter(|schema| schema.fits(value, path)).count();
        if !self.any_of.is_empty() && fitting(&self.any_of) == 0 {
            wrong("must validate at least one schema (anyOf)".to_owned());
        }
        match fitting(&self.one_of) {
            _ if self.one_of.is_empty() => {}
            0 => wrong("must validate one and only one schema (oneOf). Found none valid".to_owned()),
            1 => {}
            many => wrong(format!(
                "must validate one and only one schema (oneOf). Found {many} valid alternatives"
            )),
        }
        if self.not.as_ref().is_some_and(|schema| schema.fits(value, path)) {
            wrong("must not validate the schema (not)".to_owned());
        }
    }
}

impl Limits {
    fn check(&self, value: &Value, path: &str, report: &mut Report) {
        if let Some(allowed) = self.one_of.as_ref().filter(|allowed| !allowed.contains(value)) {
            report.not_supported(path, value, allowed);
        }
        match value {
            Value::Number(number) => {
                self.check_number(number.as_f64().unwrap_or_default(), value, path, report);
            }
            Value::String(text) => self.check_text(text, value, path, report),
            Value::Array(list) => {
                let (many, few) = (self.items.exceeded(list.len()), self.items.missed(list.len()));
                if let Some(most) = many {
                    report.too_many(path, list.len(), usize::try_from(most).unwrap_or(usize::MAX));
                }
                if let Some(least) = few {
                    report.invalid(
                        path,
                        &list.len().into(),
                        &format!("{path} in body should have at least {least} items"),
                    );
                }
            }
            Value::Object(map) => {
                let given = |field: &&String| map.get(*field).is_none();
                for field in self.required.iter().filter(given) {
                    report.required(below(path, field), "");
                }
                if let Some(most) = self.properties.exceeded(map.len()) {
                    report.too_many(path, map.len(), usize::try_from(most).unwrap_or(usize::MAX));
                }
                if let Some(least) = self.properties.missed(map.len()) {
                    report.invalid(
                        path,
                        &map.len().into(),
                        &format!("{path} in body should have at least {least} properties"),
                    );
                }
            }
            _ => {}
        }
    }

    fn check_number(&self, number: f64, value: &Value, path: &str, report: &mut Report) {
        let should = |text: String| format!("{path} in body should be {text}");
        if let Some((least, exclusive)) = self.least.filter(|(l, e)| number < *l || *e && number <= *l) {
            let or = if exclusive { "" } else { " or equal to" };
            report.invalid(path, value, &should(format!("greater than{or} {least}")));
        }
        if let Some((most, exclusive)) = self.most.filter(|(m, e)| number > *m || *e && number >= *m) {
            let or = if exclusive { "" } else { " or equal to" };
            report.invalid(path, value, &should(format!("less than{or} {most}")));
        }
        if let Some(of) = self.multiple_of.filter(|of| (number / of).fract() != 0.0) {
            report.invalid(path, value, &should(format!("a multiple of {of}")));
        }
        let whole = if self.format == "int32" { number.abs() <= f64::from(i32::MAX) + 1.0 } else { true };
        if !whole {
            report.invalid(path, value, &should("of type int32".to_owned()));
        }
    }

    fn check_text(&self, text: &str, value: &Value, path: &str, report: &mut Report) {
        let length = text.chars().count();
        if let Some(most) = self.length.exceeded(length) {
            report.too_long(path, usize::try_from(most).unwrap_or(usize::MAX));
        }
        if let Some(least) = self.length.missed(length) {
            report.invalid(path, value, &format!("{path} in body should be at least {least} chars long"));
        }
        if let Some((pattern, _)) = self.pattern.as_ref().filter(|(_, regex)| !regex.is_match(text)) {
            report.invalid(path, value, &format!("{path} in body should match '{pattern}'"));
        }
        if !has_format(text, &self.format) {
            let format = &self.format;
            report.invalid(path, value, &format!("{path} in body must be of type {format}: {text:?}"));
        }
    }
}

impl Range {
    fn exceeded(self, count: usize) -> Option<u64> {
        self.most.filter(|most| count as u64 > *most)
    }

    fn missed(self, count: usize) -> Option<u64> {
        self.least.filter(|least| (count as u64) < *least)
    }
}

/// Formats that upstream checks; what isn't known is right.
fn has_format(text: &str, format: &str) -> bool {
    let hexadecimal = |part: &str| part.bytes().all(|b| b.is_ascii_hexdigit());
    match format {
        "date-time" => text.parse::<Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => text.split_once('/').is_some_and(|(ip, length)| {
            ip.parse::<std::net::IpAddr>().is_ok_and(|ip| {
                length.parse::<u8>().is_ok_and(|length| length <= if ip.is_ipv4() { 32 } else { 128 })
            })
        }),
        "byte" => crate::scalar::check_base64(text).is_ok(),
        "uuid" => {
            let parts: Vec<&str> = text.split('-').collect();
            parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12]) && parts.into_iter().all(hexadecimal)
        }
        _ => true,
    }
}

fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
