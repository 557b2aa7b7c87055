//! Custom resources: what a CustomResourceDefinition (`apiextensions.k8s.io/v1`) says of the objects of one version.
//!
//! `definition` judges a definition itself, `structural` reads its schema, `prune` and `check` use that on an object, `columns` prints one.
//! What doesn't live here: CEL rules (`x-kubernetes-validations` are read by nobody yet), conversion by webhooks, and where the objects lie.

mod check;
mod columns;
mod compact;
pub mod definition;
mod path;
mod prune;
mod structural;

use serde_json::Value;

use crate::schema::Schema;
use crate::validate::report::Report;

pub use columns::Columns;
pub use path::Path;
pub use structural::Structural;

/// Where an object has what its Scale shows: `spec.versions[*].subresources.scale`.
#[derive(Debug, Clone)]
pub struct ScalePaths {
    /// The wanted replicas, e.g. `.spec.replicas`.
    pub wanted: Path,
    /// Those that there are, e.g. `.status.replicas`.
    pub actual: Path,
    /// The selector as text, if the definition says where it is.
    pub selector: Option<Path>,
}

/// What a definition says of the objects of one version.
#[derive(Debug)]
pub struct Version {
    /// The schema: what an object may have.
    pub structural: Structural,
    /// The same for whoever asks what an object's parts are.
    pub schema: Schema,
    /// How objects are printed.
    pub columns: Columns,
    /// None if there is no scale subresource.
    pub scale: Option<ScalePaths>,
    /// The kind of its lists.
    pub list_kind: String,
    /// Whether the definition is being deleted: nothing is created any more.
    pub terminating: bool,
    /// `version` if it is deprecated: the warning for whoever uses it.
    pub deprecation: Option<String>,
}

impl Version {
    /// One of `spec.versions` of a definition that was found right.
    pub fn of(definition: &Value, version: &Value) -> Version {
        let schema = version.pointer("/schema/openAPIV3Schema").unwrap_or(&Value::Null);
        let structural = Structural::read(schema, "", &mut Report::default());
        let text = |value: &Value, at: &str| {
            value.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let (group, kind) = (text(definition, "/spec/group"), text(definition, "/spec/names/kind"));
        let name = text(version, "/name");
        let scale = version.pointer("/subresources/scale").map(|scale| {
            let path = |field: &str| scale[field].as_str().and_then(|text| Path::parse(text).ok());
            let at = |field: &str, usual: &[&str]| path(field).unwrap_or_else(|| Path::of(usual));
            ScalePaths {
                wanted: at("specReplicasPath", &["spec", "replicas"]),
                actual: at("statusReplicasPath", &["status", "replicas"]),
                selector: path("labelSelectorPath"),
            }
        });
        let warned = version["deprecationWarning"].as_str().map(str::to_owned);
        let usual = || format!("{group}/{name} {kind} is deprecated");
        Version {
            schema: compact::schema(&format!("{group}.{name}.{kind}"), &structural),
            columns: Columns::read(&version["additionalPrinterColumns"]),
            scale,
            list_kind: text(definition, "/spec/names/listKind"),
            terminating: definition.pointer("/metadata/deletionTimestamp").is_some(),
            deprecation: (version["deprecated"] == true).then(|| warned.unwrap_or_else(usual)),
            structural,
        }
    }
}

#[cfg(test)]
mod tests;
