//! Label selectors: `a=b,c!=d,e in (x,y),f notin (z),g,!h`.
//!
//! One type for both sources: the query parameter `labelSelector` and the `LabelSelector` of a spec. The grammar and the
//! texts of its errors are upstream's; `lexer` cuts a text into tokens, `parser` reads them.

mod lexer;
mod parser;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde_json::{Map, Value};

use crate::names;

/// How a requirement compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// The value is one of those listed.
    In,
    /// The label is absent or its value is none of those listed.
    NotIn,
    /// `=`
    Equals,
    /// `!=`; true if the label is absent.
    NotEquals,
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
    /// The value is an integer above the one given.
    GreaterThan,
    /// The value is an integer below the one given.
    LessThan,
}

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    operator: Operator,
    values: BTreeSet<String>,
}

/// All requirements must hold; none at all selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

/// What is wrong with a selector, in upstream's words; a client gets it with 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LabelSelectorError(pub(crate) String);

impl LabelSelector {
    /// Parses the text of the query parameter `labelSelector`.
    pub fn parse(text: &str) -> Result<Self, LabelSelectorError> {
        Ok(Self::sorted(parser::parse(text)?))
    }

    /// The selector of a spec. None selects nothing, an empty one everything.
    pub fn from_meta(selector: Option<&meta::LabelSelector>) -> Result<Self, LabelSelectorError> {
        let Some(selector) = selector else { return Ok(Self::nothing()) };
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::new(key, Operator::Equals, [value.clone()].into())?);
        }
        for term in selector.match_expressions.iter().flatten() {
            let values = term.values.iter().flatten().cloned().collect();
            requirements.push(Requirement::new(&term.key, expression_operator(&term.operator)?, values)?);
        }
        Ok(Self::sorted(requirements))
    }

    /// The same from JSON: an object with `matchLabels` and `matchExpressions`. Null selects nothing.
    pub fn from_value(selector: &Value) -> Result<Self, LabelSelectorError> {
        let typed: Option<meta::LabelSelector> =
            serde_json::from_value(selector.clone()).map_err(|e| LabelSelectorError(e.to_string()))?;
        Self::from_meta(typed.as_ref())
    }

    /// The selector that demands exactly these labels (that of a Service or a ReplicationController).
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let one = |(key, value): (&str, &str)| Requirement {
            key: key.to_owned(),
            operator: Operator::Equals,
            values: [value.to_owned()].into(),
        };
        Self::sorted(labels.into_iter().map(one).collect())
    }

    /// Selects everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects nothing.
    pub fn nothing() -> Self {
        LabelSelector { requirements: Vec::new(), nothing: true }
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// The comparisons, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether all requirements hold for these labels.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// The same over `metadata.labels` of an object.
    pub fn matches_map(&self, labels: &Map<String, Value>) -> bool {
        self.matches_with(|key| labels.get(key).and_then(Value::as_str))
    }

    /// The same over any look-up.
    pub fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(label(&r.key)))
    }

    fn sorted(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        LabelSelector { requirements, nothing: false }
    }
}

fn expression_operator(operator: &str) -> Result<Operator, LabelSelectorError> {
    match operator {
        "In" => Ok(Operator::In),
        "NotIn" => Ok(Operator::NotIn),
        "Exists" => Ok(Operator::Exists),
        "DoesNotExist" => Ok(Operator::DoesNotExist),
        other => Err(LabelSelectorError(format!("{other:?} is not a valid label selector operator"))),
    }
}

impl Requirement {
    /// A comparison, checked.
    pub fn new(key: &str, operator: Operator, values: BTreeSet<String>) -> Result<Self, LabelSelectorError> {
        let mut problems = invalid("key", key, &names::label_key(key));
        problems.extend(wrong_values(operator, &values));
        for (i, value) in values.iter().enumerate() {
            problems.extend(invalid(&format!("values[{i}][{key}]"), value, &names::label_value(value)));
        }
        match problems.as_slice() {
            [] => Ok(Requirement { key: key.to_owned(), operator, values }),
            [one] => Err(LabelSelectorError(one.clone())),
            many => Err(LabelSelectorError(format!("[{}]", many.join(", ")))),
        }
    }

    /// The label.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How it is compared.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// With what.
    pub fn values(&self) -> &BTreeSet<String> {
        &self.values
    }

    fn matches(&self, label: Option<&str>) -> bool {
        let listed = label.is_some_and(|l| self.values.contains(l));
        let ordered = |wanted| {
            let number = |text: &str| text.parse::<i64>().ok();
            let (have, limit) = (label.and_then(number), self.values.first().and_then(|v| number(v)));
            matches!((have, limit), (Some(have), Some(limit)) if have.cmp(&limit) == wanted)
        };
        match self.operator {
            Operator::In | Operator::Equals => listed,
            Operator::NotIn | Operator::NotEquals => !listed,
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan => ordered(std::cmp::Ordering::Greater),
            Operator::LessThan => ordered(std::cmp::Ordering::Less),
        }
    }
}

fn wrong_values(operator: Operator, values: &BTreeSet<String>) -> Option<String> {
    let list: Vec<&str> = values.iter().map(String::as_str).collect();
    let about = |text: &str| Some(format!("values: Invalid value: {list:?}: {text}"));
    match operator {
        Operator::In | Operator::NotIn if values.is_empty() => {
            about("for 'in', 'notin' operators, values set can't be empty")
        }
        Operator::Equals | Operator::NotEquals if values.len() != 1 => {
            about("exact-match compatibility requires one single value")
        }
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
            about("values set must be empty for exists and does not exist")
        }
        Operator::GreaterThan | Operator::LessThan if values.len() != 1 => {
            about("for 'Gt', 'Lt' operators, exactly one value is required")
        }
        Operator::GreaterThan | Operator::LessThan if list.iter().any(|v| v.parse::<i64>().is_err()) => {
            let text = list.first().copied().unwrap_or_default();
            Some(format!(
                "values[0]: Invalid value: {text:?}: for 'Gt', 'Lt' operators, the value must be an integer"
            ))
        }
        _ => None,
    }
}

fn invalid(path: &str, value: &str, problems: &[String]) -> Vec<String> {
    if problems.is_empty() {
        return Vec::new();
    }
    vec![format!("{path}: Invalid value: {value:?}: {}", problems.join("; "))]
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            f.write_str(if i > 0 { "," } else { "" })?;
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values: Vec<&str> = self.values.iter().map(String::as_str).collect();
        let (key, values) = (&self.key, values.join(","));
        match self.operator {
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

#[cfg(test)]
mod tests;
