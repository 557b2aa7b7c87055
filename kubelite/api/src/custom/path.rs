//! The simple JSONPath of printer columns, scale paths and selectable fields: `.spec.replicas`, `.status.conditions[?(@.type=="Ready")].status`.

use serde_json::Value;

/// The longest path that is read, in bytes; it bounds how deep filters lie in each other.
const LONGEST: usize = 1024;

/// A way into an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(i64),
    /// All items.
    Each,
    /// The items in which something below is this.
    Where(Path, Value),
}

impl Path {
    /// A path of fields.
    pub fn of(fields: &[&str]) -> Path {
        Path(fields.iter().map(|field| Step::Field((*field).to_owned())).collect())
    }

    /// Reads a path, with or without braces around it; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Path, String> {
        if text.len() > LONGEST {
            return Err(format!("must be at most {LONGEST} bytes long"));
        }
        let text = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
        let mut steps = Vec::new();
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        while !rest.is_empty() {
            let step;
            (step, rest) = if let Some(inside) = rest.strip_prefix('[') {
                let end = closing(inside).ok_or_else(|| format!("unterminated array in {text:?}"))?;
                (bracket(&inside[..end])?, &inside[end + 1..])
            } else if let Some(field) = rest.strip_prefix('.') {
                let (field, rest) = word(field);
                if field.is_empty() && !rest.is_empty() {
                    return Err(format!("a field has no name in {text:?}"));
                }
                (Step::Field(field), rest)
            } else {
                return Err(format!("{text:?} must begin with a dot"));
            };
            if step != Step::Field(String::new()) {
                steps.push(step);
            }
        }
        Ok(Path(steps))
    }

    /// The names of the fields, if there is nothing else on the way.
    pub fn fields(&self) -> Option<Vec<&str>> {
        let mut names = Vec::with_capacity(self.0.len());
        for step in &self.0 {
            let Step::Field(name) = step else { return None };
            names.push(name.as_str());
        }
        Some(names)
    }

    /// What is found first.
    pub fn find<'a>(&self, object: &'a Value) -> Option<&'a Value> {
        follow(&self.0, object)
    }

    /// Puts a value there, where the way consists of fields; objects on it are made.
    pub fn put(&self, object: &mut Value, value: Value) {
        let Some(fields) = self.fields() else { return };
        let mut at = object;
        for field in fields {
            if !at.is_object() {
                *at = Value::Object(serde_json::Map::new());
            }
            at = &mut at[field];
        }
        *at = value;
    }
}

fn follow<'a>(steps: &[Step], value: &'a Value) -> Option<&'a Value> {
    let Some((step, rest)) = steps.split_first() else { return Some(value) };
    match step {
        Step::Field(name) => follow(rest, value.get(name)?),
        Step::Index(index) => {
            let list = value.as_array()?;
            let at = if *index < 0 { list.len() as i64 + index } else { *index };
            follow(rest, list.get(usize::try_from(at).ok()?)?)
        }
        Step::Each => value.as_array()?.iter().find_map(|item| follow(rest, item)),
        Step::Where(path, wanted) => {
            let is = |item: &&Value| path.find(item) == Some(wanted);
            value.as_array()?.iter().filter(is).find_map(|item| follow(rest, item))
        }
    }
}

/// A field's name up to the next step; a backslash keeps what follows.
fn word(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '.' | '[' => return (name, &text[at..]),
            '\\' => name.extend(characters.next().map(|(_, c)| c)),
            _ => name.push(c),
        }
    }
    (name, "")
}

/// Where a bracket ends that is open; brackets in quotes do not count.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, ']') => return Some(at),
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
    }
    None
}

fn bracket(text: &str) -> Result<Step, String> {
    let unquoted = |text: &str| {
        let inside = |quote| text.strip_prefix(quote).and_then(|t: &str| t.strip_suffix(quote));
        inside('\'').or_else(|| inside('"')).map(str::to_owned)
    };
    if text == "*" {
        return Ok(Step::Each);
    }
    if let Some(name) = unquoted(text) {
        return Ok(Step::Field(name));
    }
    if let Ok(index) = text.parse() {
        return Ok(Step::Index(index));
    }
    let condition = text.strip_prefix("?(").and_then(|t| t.strip_suffix(')'));
    let (path, value) =
        condition.and_then(|c| c.split_once("==")).ok_or_else(|| format!("invalid array index {text}"))?;
    let path = path.trim().strip_prefix('@').ok_or_else(|| format!("a filter must begin with @: {text}"))?;
    let value = value.trim();
    let bare = || serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok(Step::Where(Path::parse(path)?, unquoted(value).map_or_else(bare, Value::from)))
}
