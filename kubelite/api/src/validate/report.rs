//! Collects what is wrong, in the words of upstream's field errors.

use serde_json::Value;

use crate::status::FieldError;

/// How many errors one object may collect; more tell a user nothing new.
const MAX_ERRORS: usize = 64;

const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

/// The errors so far.
#[derive(Default)]
pub(crate) struct Report(Vec<FieldError>);

impl Report {
    pub(crate) fn into_errors(self) -> Vec<FieldError> {
        self.0
    }

    /// `Required value`, with a detail if it isn't empty.
    pub(crate) fn required(&mut self, field: impl Into<String>, detail: &str) {
        let colon = if detail.is_empty() { "" } else { ": " };
        self.push("FieldValueRequired", field, format!("Required value{colon}{detail}"));
    }

    /// `Invalid value: "x": detail`
    pub(crate) fn invalid(&mut self, field: impl Into<String>, value: &Value, detail: &str) {
        self.push("FieldValueInvalid", field, format!("Invalid value: {value}: {detail}"));
    }

    /// One error per problem.
    pub(crate) fn each(&mut self, field: &str, value: &str, problems: &[String]) {
        for problem in problems {
            self.invalid(field, &value.into(), problem);
        }
    }

    /// `Unsupported value: "x": supported values: "A", "B"` unless `value` is one of them.
    pub(crate) fn one_of(&mut self, field: impl Into<String>, value: &str, supported: &[&str]) {
        if !supported.contains(&value) {
            let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
            let text = format!("Unsupported value: {value:?}: supported values: {}", list.join(", "));
            self.push("FieldValueNotSupported", field, text);
        }
    }

    /// The same for a value that is not one of these.
    pub(crate) fn not_supported(&mut self, field: impl Into<String>, value: &Value, supported: &[Value]) {
        let list: Vec<String> = supported.iter().map(Value::to_string).collect();
        let text = format!("Unsupported value: {value}: supported values: {}", list.join(", "));
        self.push("FieldValueNotSupported", field, text);
    }

    /// `Forbidden: detail`
    pub(crate) fn forbidden(&mut self, field: impl Into<String>, detail: &str) {
        self.push("FieldValueForbidden", field, format!("Forbidden: {detail}"));
    }

    /// `Duplicate value: "x"`
    pub(crate) fn duplicate(&mut self, field: impl Into<String>, value: &Value) {
        self.push("FieldValueDuplicate", field, format!("Duplicate value: {value}"));
    }

    /// `Too long: may not be more than n bytes`
    pub(crate) fn too_long(&mut self, field: impl Into<String>, max: usize) {
        self.push("FieldValueTooLong", field, format!("Too long: may not be more than {max} bytes"));
    }

    /// `Too many: found: must have at most n items`
    pub(crate) fn too_many(&mut self, field: impl Into<String>, found: usize, max: usize) {
        self.push("FieldValueTooMany", field, format!("Too many: {found}: must have at most {max} items"));
    }

    /// `Not found: "x"`
    pub(crate) fn not_found(&mut self, field: impl Into<String>, value: &str) {
        self.push("FieldValueNotFound", field, format!("Not found: {value:?}"));
    }

    /// That a number isn't negative.
    pub(crate) fn not_negative(&mut self, field: impl Into<String>, value: Option<&Value>) {
        if let Some(number) = value.filter(|v| v.as_i64().is_some_and(|n| n < 0)) {
            self.invalid(field, number, "must be greater than or equal to 0");
        }
    }

    /// That a number or a percentage, if it is there, is one: not negative, and not more than all.
    pub(crate) fn share(&mut self, field: &str, value: Option<&Value>) {
        self.not_negative(field, value);
        let Some(value @ Value::String(text)) = value else { return };
        let digits =
            text.strip_suffix('%').filter(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()));
        match digits.map(str::parse::<u32>) {
            None => self.invalid(field, value, PERCENT),
            Some(Ok(0..=100)) => {}
            Some(_) => self.invalid(field, value, "must not be greater than 100%"),
        }
    }

    /// That a field is as it was.
    pub(crate) fn immutable(&mut self, field: &str, new: Option<&Value>, old: Option<&Value>) {
        if new.unwrap_or(&Value::Null) != old.unwrap_or(&Value::Null) {
            self.invalid(field, new.unwrap_or(&Value::Null), "field is immutable");
        }
    }

    /// What was found elsewhere, at its place here.
    pub(crate) fn again(&mut self, field: String, error: FieldError) {
        self.push(error.reason, field, error.message);
    }

    fn push(&mut self, reason: &'static str, field: impl Into<String>, message: String) {
        if self.0.len() < MAX_ERRORS {
            self.0.push(FieldError { reason, field: field.into(), message });
        }
    }
}

/// A text at a JSON pointer; empty if it isn't there.
pub(crate) fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// A number at a JSON pointer.
pub(crate) fn int(value: &Value, path: &str) -> Option<i64> {
    value.pointer(path).and_then(Value::as_i64)
}

/// A list at a JSON pointer; empty if it isn't there.
pub(crate) fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    value.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The entries of an object at a JSON pointer.
pub(crate) fn entries<'a>(value: &'a Value, path: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    value.pointer(path).and_then(Value::as_object).into_iter().flatten().map(|(k, v)| (k.as_str(), v))
}
