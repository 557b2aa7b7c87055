//! Every manifest of the repository is an object that the API knows, without a field that it doesn't.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kubelite_api::schema;
use serde::Deserialize;
use serde_json::Value;

fn manifests(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        match path.extension().and_then(|e| e.to_str()) {
            _ if path.is_dir() => found.extend(manifests(&path)?),
            Some("yaml") => found.push(path),
            _ => {}
        }
    }
    Ok(found)
}

#[test]
fn every_manifest_is_valid() -> Result<()> {
    let files = manifests(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests"))?;
    ensure!(files.len() >= 2, "{files:?}");
    for file in files {
        let text = fs::read_to_string(&file)?;
        for document in text.split("\n---\n") {
            check(document).with_context(|| file.display().to_string())?;
        }
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    api_version: String,
    kind: String,
}

fn check(document: &str) -> Result<()> {
    let mut object: Value = serde_saphyr::from_str(document)?;
    let head: Head = serde_json::from_value(object.clone())?;
    let (group, version) = head.api_version.split_once('/').unwrap_or(("", &head.api_version));
    let schema =
        schema::for_kind(group, version, &head.kind).with_context(|| format!("{} is unknown", head.kind))?;
    let decoded = schema.decode(&mut object);
    ensure!(decoded.errors.is_empty() && decoded.unknown.is_empty(), "{decoded:?}");
    schema.apply_defaults(&mut object);
    let errors = kubelite_api::validate::object(group, &head.kind, &object, None);
    // The namespace is filled in by the request's path where a manifest leaves it out.
    let errors: Vec<_> = errors.into_iter().filter(|e| e.field != "metadata.namespace").collect();
    ensure!(errors.is_empty(), "{errors:?}");
    Ok(())
}
