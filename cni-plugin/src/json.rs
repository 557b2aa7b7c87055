//! A JSON value that knows where it stands, so that an error can say `delegate.hairpinMode` and not "line 1 column 77".

use serde_json::{Map, Value};

use crate::error::Error;

/// A value with its dotted path from the root. A missing field is `null`, as Go's decoder has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    path: String,
    value: Value,
}

impl Field {
    /// The whole document.
    pub fn root(value: Value) -> Field {
        Field { path: String::new(), value }
    }

    /// Dotted path; empty for the root.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The value itself.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Is the field there, and not null?
    pub fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// The member `name` of an object. As in Go's decoder any spelling in upper and lower case will do where the exact one is missing:
    /// containerd writes `HostPort` where the specification has `hostPort`.
    pub fn get(&self, name: &str) -> Result<Field, Error> {
        let similar = |members: &'_ Map<String, Value>| {
            members.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
        };
        let member =
            self.object()?.and_then(|members| members.get(name).cloned().or_else(|| similar(members)));
        let value = member.unwrap_or(Value::Null);
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Ok(Field { path, value })
    }

    /// An object, or nothing.
    pub fn object(&self) -> Result<Option<&Map<String, Value>>, Error> {
        match &self.value {
            Value::Object(members) => Ok(Some(members)),
            Value::Null if !self.path.is_empty() => Ok(None),
            _ if self.path.is_empty() => {
                Err(Error::Decode(format!("expected an object, found {}", kind(&self.value))))
            }
            _ => Err(self.wrong("an object")),
        }
    }

    /// A string, or nothing.
    pub fn string(&self) -> Result<Option<&str>, Error> {
        match &self.value {
            Value::Null => Ok(None),
            value => value.as_str().map(Some).ok_or_else(|| self.wrong("a string")),
        }
    }

    /// true, false, or nothing.
    pub fn bool(&self) -> Result<Option<bool>, Error> {
        match &self.value {
            Value::Null => Ok(None),
            value => value.as_bool().map(Some).ok_or_else(|| self.wrong("true or false")),
        }
    }

    /// A whole number of 0..=`max`, or nothing.
    pub fn number(&self, max: u64) -> Result<Option<u64>, Error> {
        match &self.value {
            Value::Null => Ok(None),
            value => match value.as_u64() {
                Some(number) if number <= max => Ok(Some(number)),
                _ => Err(self.wrong(&format!("a whole number from 0 to {max}"))),
            },
        }
    }

    /// The items of a list; none if the field is missing.
    pub fn list(&self) -> Result<Vec<Field>, Error> {
        let items = match &self.value {
            Value::Null => return Ok(Vec::new()),
            value => value.as_array().ok_or_else(|| self.wrong("a list"))?,
        };
        let at = |(index, value): (usize, &Value)| Field {
            path: format!("{}[{index}]", self.path),
            value: value.clone(),
        };
        Ok(items.iter().enumerate().map(at).collect())
    }

    /// A string that parses as `T` (an address, a prefix …), or nothing.
    pub fn parsed<T: std::str::FromStr>(&self, what: &str) -> Result<Option<T>, Error> {
        match self.string()? {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| self.wrong(what)),
        }
    }

    /// The error that this field is not `expected`.
    pub fn wrong(&self, expected: &str) -> Error {
        let found = match &self.value {
            value @ (Value::Object(_) | Value::Array(_)) => kind(value).to_owned(),
            value => format!("{} {value}", kind(value)),
        };
        Error::config(&self.path, format!("expected {expected}, found {found}"))
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "the boolean",
        Value::Number(_) => "the number",
        Value::String(_) => "the string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
