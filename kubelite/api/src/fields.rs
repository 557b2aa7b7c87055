//! Field selectors: `metadata.name=x,spec.nodeName!=y`.
//!
//! Which fields a kind can be selected by is the resource table's matter, not this module's.

use std::fmt;

/// One comparison of a field selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The path, e.g. `metadata.name`.
    pub field: String,
    /// True for `!=`.
    pub negated: bool,
    /// The value, unescaped.
    pub value: String,
}

/// All requirements must hold; none at all selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    requirements: Vec<Requirement>,
}

/// What is wrong with the text, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldSelectorError {
    /// A term without an operator.
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Term {
        /// The whole text.
        selector: String,
        /// The term that has no operator.
        term: String,
    },
    /// A backslash before something else than a backslash, a comma or an equals sign.
    #[error("invalid field selector: invalid escape sequence: {0}")]
    Escape(String),
    /// A bare comma or equals sign within a value.
    #[error("invalid field selector: unescaped character in value: {0}")]
    Unescaped(char),
}

impl FieldSelector {
    /// Parses the text of the query parameter `fieldSelector`.
    pub fn parse(text: &str) -> Result<Self, FieldSelectorError> {
        let mut requirements = Vec::new();
        for term in terms(text) {
            if term.is_empty() {
                continue;
            }
            let (field, negated, value) = split_term(term).ok_or_else(|| FieldSelectorError::Term {
                selector: text.to_owned(),
                term: term.to_owned(),
            })?;
            requirements.push(Requirement { field: field.to_owned(), negated, value: unescape(value)? });
        }
        Ok(FieldSelector { requirements })
    }

    /// Selects everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The comparisons, in the order of the text.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether all requirements hold; `value` looks a field's value up (empty if it is unset).
    pub fn matches(&self, value: impl Fn(&str) -> String) -> bool {
        self.requirements.iter().all(|r| (value(&r.field) == r.value) != r.negated)
    }

    /// The value that the selector demands for `field`, if it demands exactly one.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements.iter().find(|r| r.field == field && !r.negated).map(|r| r.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let operator = if r.negated { "!=" } else { "=" };
            write!(f, "{comma}{}{operator}{}", r.field, escape(&r.value))?;
        }
        Ok(())
    }
}

/// The text cut at every comma that no backslash precedes.
fn terms(text: &str) -> Vec<&str> {
    let (mut found, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                found.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    found.push(&text[start..]);
    found
}

/// Cuts at the first operator; a field's name contains none.
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let at = term.find('=')?;
    if let Some(field) = term[..at].strip_suffix('!') {
        return Some((field, true, &term[at + 1..]));
    }
    let value = &term[at + 1..];
    Some((&term[..at], false, value.strip_prefix('=').unwrap_or(value)))
}

fn unescape(value: &str) -> Result<String, FieldSelectorError> {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => plain.push(next),
                Some(next) => return Err(FieldSelectorError::Escape(format!("\\{next}"))),
                None => return Err(FieldSelectorError::Escape("\\".into())),
            },
            ',' | '=' => return Err(FieldSelectorError::Unescaped(c)),
            _ => plain.push(c),
        }
    }
    Ok(plain)
}

fn escape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '\\' | ',' | '=') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parses_and_matches() {
        let s = FieldSelector::parse("metadata.name=x,spec.nodeName!=y,status.phase==Running").unwrap();
        let object = |name: &'static str| {
            move |path: &str| match path {
                "metadata.name" => name.to_owned(),
                "status.phase" => "Running".to_owned(),
                _ => String::new(),
            }
        };
        assert!(s.matches(object("x")) && !s.matches(object("z")));
        assert_eq!(s.exact("metadata.name"), Some("x"));
        assert_eq!(s.to_string(), "metadata.name=x,spec.nodeName!=y,status.phase=Running");
        assert!(FieldSelector::parse("").unwrap().is_empty());
        assert_eq!(FieldSelector::parse(r"a=b\,c\=d").unwrap().exact("a"), Some("b,c=d"));
    }

    #[test]
    fn refuses() {
        assert_eq!(
            FieldSelector::parse("a=b,c").unwrap_err().to_string(),
            "invalid selector: 'a=b,c'; can't understand 'c'"
        );
        assert!(FieldSelector::parse(r"a=\x").is_err() && FieldSelector::parse("a=b=c").is_err());
    }

    proptest! {
        #[test]
        fn printing_keeps_the_meaning(value in r"[a-z\\,=]{0,20}", negated: bool) {
            let s = FieldSelector { requirements: vec![Requirement { field: "f".into(), negated, value }] };
            prop_assume!(negated || !s.requirements[0].value.is_empty() || !s.to_string().is_empty());
            prop_assert_eq!(FieldSelector::parse(&s.to_string()).unwrap(), s);
        }

        #[test]
        fn never_panics(text in r"\PC{0,60}") {
            let _ = FieldSelector::parse(&text);
        }
    }
}
