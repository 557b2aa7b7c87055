//! Prints the table `src/protobuf/fields.txt`: `cargo run --example protobuf_fields -- k8s-pb/src > fields.txt`.
//!
//! The numbers come from the sources of the crate k8s-pb (structs that prost made from Kubernetes' own `.proto` files),
//! the names from this crate's schemas: prost's `volume_id` is the field whose name, without regard to case, is
//! `volumeid`. A message that has no name in the JSON (Go embeds it) is flattened into its owner as `hostPath=2.1`.

#![allow(clippy::print_stdout, clippy::print_stderr)] // The table goes to stdout, what is missing to stderr.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use kubelite_api::schema::{self, Schema, Shape};

/// A field of a struct: its name in lower case without underscores, its type, its number.
type Raw = (String, String, u32);

fn main() -> std::io::Result<()> {
    let root = PathBuf::from(std::env::args().nth(1).unwrap_or_default());
    let mut modules: HashMap<String, HashMap<String, Vec<Raw>>> = HashMap::new();
    let mut names: Vec<&str> = schema::names().collect();
    names.sort_unstable();
    for name in names {
        let Some(definition) = schema::lookup(name).filter(|s| matches!(s.shape(), Shape::Object(_))) else {
            continue;
        };
        let Some((module, _)) = name.strip_prefix("io.k8s.").and_then(|rest| rest.rsplit_once('.')) else {
            continue;
        };
        if !(module.starts_with("api.") || module.starts_with("apimachinery.")) {
            continue;
        }
        if !modules.contains_key(module) {
            modules.insert(module.to_owned(), structs(&root.join(module.replace('.', "/")).join("mod.rs"))?);
        }
        // A newer kind than the sources: without a row it is refused, not read as empty.
        if modules[module].contains_key(&definition.type_name().to_lowercase()) {
            println!("{name}{}", line(definition, &modules[module]));
        } else {
            eprintln!("{name}: no such message");
        }
    }
    Ok(())
}

fn line(definition: &Schema, structs: &HashMap<String, Vec<Raw>>) -> String {
    let Shape::Object(fields) = definition.shape() else { return String::new() };
    let by_lower: HashMap<String, &str> = fields.iter().map(|f| (f.name.to_lowercase(), &*f.name)).collect();
    let mut found = Vec::new();
    flatten(&definition.type_name().to_lowercase(), "", structs, &by_lower, &mut found);
    for field in fields.iter().filter(|f| !["apiVersion", "kind"].contains(&&*f.name)) {
        if !found.iter().any(|(name, _)| **name == *field.name) {
            eprintln!("{}: no number for {}", definition.name(), field.name);
        }
    }
    found.iter().map(|(name, number)| format!(" {name}={number}")).collect()
}

fn flatten<'a>(
    message: &str,
    prefix: &str,
    structs: &HashMap<String, Vec<Raw>>,
    names: &HashMap<String, &'a str>,
    found: &mut Vec<(&'a str, String)>,
) {
    let Some(fields) = structs.get(message) else { return eprintln!("no message {message}") };
    for (lower, kind, number) in fields {
        match names.get(lower) {
            Some(name) => found.push((name, format!("{prefix}{number}"))),
            None if structs.contains_key(kind) => {
                flatten(kind, &format!("{prefix}{number}."), structs, names, found);
            }
            None => eprintln!("{message}: {lower} is no field of the schema"),
        }
    }
}

/// The structs of a file by their names in lower case. A declaration ends at its comma, perhaps lines later.
fn structs(file: &Path) -> std::io::Result<HashMap<String, Vec<Raw>>> {
    if !file.exists() {
        return Ok(HashMap::new());
    }
    let mut found: HashMap<String, Vec<Raw>> = HashMap::new();
    let (mut current, mut declaration) = (String::new(), String::new());
    let text = std::fs::read_to_string(file)?;
    for line in text.lines().map(str::trim).filter(|l| !l.starts_with("//")) {
        if let Some(rest) = line.strip_prefix("pub struct ") {
            current = rest.trim_end_matches([' ', '{', '}']).to_lowercase();
            found.entry(current.clone()).or_default();
            declaration.clear();
        } else if line.starts_with("#[derive") {
            declaration.clear();
        } else {
            declaration.push_str(line);
            if let Some(raw) = raw(&declaration) {
                found.entry(current.clone()).or_default().push(raw);
                declaration.clear();
            }
        }
    }
    Ok(found)
}

/// `#[prost(…, tag = "2")]pub fs_type: Option<String>,`, once it is complete.
fn raw(declaration: &str) -> Option<Raw> {
    let (attribute, rest) = declaration.split_once(")]pub ")?;
    let (name, kind) = rest.strip_suffix(',')?.split_once(':')?;
    if kind.matches('<').count() != kind.matches('>').count() {
        return None;
    }
    let number = attribute.split("tag = \"").nth(1)?.split('"').next()?.parse().ok()?;
    let kind = kind.trim_end_matches('>').rsplit([':', '<']).next()?.to_lowercase();
    Some((name.trim_start_matches("r#").replace('_', "").to_lowercase(), kind, number))
}
