//! A table of custom objects: `additionalPrinterColumns`, or name and age.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::path::Path;
use crate::{object, table};

/// The columns beside the name.
#[derive(Debug)]
pub struct Columns(Vec<Column>);

#[derive(Debug)]
struct Column {
    /// As `columnDefinitions` lists it.
    shown: Value,
    kind: String,
    path: Path,
}

impl Columns {
    /// Reads `additionalPrinterColumns`; those without a readable path are left out.
    pub(super) fn read(columns: &Value) -> Columns {
        let age = [json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
            "description": "The time since the object was created."})];
        let given = columns.as_array().filter(|given| !given.is_empty()).map_or(&age[..], Vec::as_slice);
        Columns(given.iter().filter_map(Column::read).collect())
    }

    /// The `columnDefinitions` of a `meta.k8s.io/v1 Table`.
    pub fn definitions(&self) -> Vec<Value> {
        let name = json!({"name": "Name", "type": "string", "format": "name", "priority": 0,
            "description": "Name must be unique within a namespace."});
        [name].into_iter().chain(self.0.iter().map(|column| column.shown.clone())).collect()
    }

    /// One object's cells in that order.
    pub fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let name = Value::from(object::name(object));
        [name].into_iter().chain(self.0.iter().map(|column| column.cell(object, now))).collect()
    }
}

impl Column {
    fn read(column: &Value) -> Option<Column> {
        let text = |field: &str| column[field].as_str().unwrap_or_default();
        let shown = json!({
            "name": text("name"), "type": text("type"), "format": text("format"),
            "description": text("description"), "priority": column["priority"].as_i64().unwrap_or(0),
        });
        Some(Column { shown, kind: text("type").to_owned(), path: Path::parse(text("jsonPath")).ok()? })
    }

    fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let Some(found) = self.path.find(object) else { return Value::Null };
        match (self.kind.as_str(), found) {
            ("integer", Value::Number(n)) => n.as_i64().or_else(|| n.as_f64().map(|f| f as i64)).into(),
            ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) | ("string", Value::String(_)) => {
                found.clone()
            }
            ("date", Value::String(time)) => match time.parse::<Timestamp>() {
                Ok(then) => table::since(Some(then), now).into(),
                Err(_) => "<invalid>".into(),
            },
            ("string", Value::Null) => Value::Null,
            ("string", other) => other.to_string().into(),
            _ => Value::Null,
        }
    }
}
