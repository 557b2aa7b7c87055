//! A CustomResourceDefinition as such: what it is if somebody doesn't say, and what is wrong with it, in upstream's words.

use serde_json::{Value, json};

use super::{Path, Structural};
use crate::names;
use crate::object;
use crate::validate::report::{Report, list, text};

/// The annotation without which nobody may define something in a group of the Kubernetes community.
const APPROVED: &str = "api-approved.kubernetes.io";
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];

/// Fills in what a definition leaves open.
pub fn fill(definition: &mut Value) {
    let kind = text(definition, "/spec/names/kind").to_owned();
    let Some(spec) = definition.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) {
        for (field, usual) in [("singular", kind.to_lowercase()), ("listKind", format!("{kind}List"))] {
            if names.get(field).and_then(Value::as_str).is_none_or(str::is_empty) {
                names.insert(field.to_owned(), usual.into());
            }
        }
    }
    if spec.get("conversion").is_none_or(Value::is_null) {
        spec.insert("conversion".to_owned(), json!({"strategy": "None"}));
    }
}

/// Its versions.
pub fn versions(definition: &Value) -> &[Value] {
    list(definition, "/spec/versions")
}

/// What its author should know: what it asks for and nobody does.
pub fn warnings(definition: &Value) -> Vec<String> {
    fn has_rules(value: &Value) -> bool {
        match value {
            Value::Object(map) => map.contains_key("x-kubernetes-validations") || map.values().any(has_rules),
            Value::Array(list) => list.iter().any(has_rules),
            _ => false,
        }
    }
    let schemas = versions(definition).iter().filter(|version| has_rules(&version["schema"]));
    let told = |version: &Value| {
        let name = text(version, "/name");
        format!(
            "the rules of version {name} (x-kubernetes-validations) are not evaluated by this server: what they refuse is accepted"
        )
    };
    schemas.map(told).collect()
}

/// The name of the version in which objects are stored.
pub fn stored_version(definition: &Value) -> &str {
    let stored = versions(definition).iter().find(|version| version["storage"] == true);
    stored.map_or("", |version| text(version, "/name"))
}

/// Whether a condition of its status is true.
pub fn is(definition: &Value, condition: &str) -> bool {
    list(definition, "/status/conditions").iter().any(|it| it["type"] == condition && it["status"] == "True")
}

pub(crate) fn check(report: &mut Report, new: &Value, old: Option<&Value>) {
    let (group, plural) = (text(new, "/spec/group"), text(new, "/spec/names/plural"));
    if object::name(new) != format!("{plural}.{group}") {
        let problem = "must be spec.names.plural+\".\"+spec.group";
        report.invalid("metadata.name", &object::name(new).into(), problem);
    }
    check_group(report, group, new);
    match text(new, "/spec/scope") {
        "" => report.required("spec.scope", ""),
        scope => report.one_of("spec.scope", scope, &["Cluster", "Namespaced"]),
    }
    check_names(report, new);
    check_versions(report, new);
    let conversion = text(new, "/spec/conversion/strategy");
    report.one_of("spec.conversion.strategy", conversion, &["None", "Webhook"]);
    if conversion == "Webhook" {
        report.forbidden("spec.conversion.strategy", "this server calls no conversion webhooks: use None");
    }
    if new.pointer("/spec/preserveUnknownFields") == Some(&Value::Bool(true)) {
        let problem = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        report.invalid("spec.preserveUnknownFields", &true.into(), problem);
    }
    for (i, stored) in list(new, "/status/storedVersions").iter().enumerate() {
        if versions(new).iter().all(|version| version["name"] != *stored) {
            report.invalid(format!("status.storedVersions[{i}]"), stored, "must appear in spec.versions");
        }
    }
    if let Some(old) = old.filter(|old| is(old, "Established")) {
        for field in ["scope", "names/kind"] {
            let at = format!("/spec/{field}");
            report.immutable(
                &format!("spec.{}", field.replace('/', ".")),
                new.pointer(&at),
                old.pointer(&at),
            );
        }
    }
    if let Some(old) = old {
        for field in ["group", "names/plural"] {
            let at = format!("/spec/{field}");
            report.immutable(
                &format!("spec.{}", field.replace('/', ".")),
                new.pointer(&at),
                old.pointer(&at),
            );
        }
    }
}

fn check_group(report: &mut Report, group: &str, definition: &Value) {
    if group.is_empty() {
        return report.required("spec.group", "");
    }
    report.each("spec.group", group, &names::dns1123_subdomain(group));
    if !group.contains('.') {
        report.invalid("spec.group", &group.into(), "should be a domain with at least one dot");
    }
    let protected = group.ends_with(".k8s.io")
        || group.ends_with(".kubernetes.io")
        || group == "k8s.io"
        || group == "kubernetes.io";
    if protected && object::annotation(definition, APPROVED).is_none_or(str::is_empty) {
        let problem = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111";
        report.required(format!("metadata.annotations[{APPROVED}]"), problem);
    }
}

fn check_names(report: &mut Report, definition: &Value) {
    let named = |field: &str| text(definition, &format!("/spec/names/{field}"));
    for field in ["plural", "singular", "kind", "listKind"] {
        let at = format!("spec.names.{field}");
        match named(field) {
            "" => report.required(at, ""),
            name => report.each(&at, name, &names::dns1035_label(&name.to_lowercase())),
        }
    }
    if !named("kind").is_empty() && named("kind") == named("listKind") {
        report.invalid(
            "spec.names.listKind",
            &named("listKind").into(),
            "kind and listKind may not be the same",
        );
    }
    for field in ["shortNames", "categories"] {
        for (i, name) in list(definition, &format!("/spec/names/{field}")).iter().enumerate() {
            let name = name.as_str().unwrap_or_default();
            report.each(&format!("spec.names.{field}[{i}]"), name, &names::dns1035_label(name));
        }
    }
}

fn check_versions(report: &mut Report, definition: &Value) {
    let versions = versions(definition);
    let mut seen: Vec<&str> = Vec::new();
    for (i, version) in versions.iter().enumerate() {
        let (at, name) = (format!("spec.versions[{i}]"), text(version, "/name"));
        report.each(&format!("{at}.name"), name, &names::dns1035_label(name));
        if seen.contains(&name) {
            report.duplicate(format!("{at}.name"), &name.into());
        }
        seen.push(name);
        check_version(report, version, &at, &schema_path(versions, &at));
    }
    if versions.iter().filter(|version| version["storage"] == true).count() != 1 {
        let problem = "must have exactly one version marked as storage version";
        report.invalid("spec.versions", &definition["spec"]["versions"], problem);
    }
}

/// Where upstream says that a schema stands: with one for all versions it is the definition's.
fn schema_path(versions: &[Value], version: &str) -> String {
    let same = versions.windows(2).all(|pair| pair[0]["schema"] == pair[1]["schema"]);
    if same {
        "spec.validation.openAPIV3Schema".to_owned()
    } else {
        format!("{version}.schema.openAPIV3Schema")
    }
}

fn check_version(report: &mut Report, version: &Value, at: &str, schema_path: &str) {
    match version.pointer("/schema/openAPIV3Schema").filter(|schema| schema.is_object()) {
        None => report.required(format!("{at}.schema.openAPIV3Schema"), "schemas are required"),
        Some(schema) => {
            let read = Structural::read(schema, schema_path, report);
            read.check_defaults(schema_path, report);
        }
    }
    for (i, column) in list(version, "/additionalPrinterColumns").iter().enumerate() {
        let at = format!("{at}.additionalPrinterColumns[{i}]");
        if text(column, "/name").is_empty() {
            report.required(format!("{at}.name"), "");
        }
        report.one_of(format!("{at}.type"), text(column, "/type"), &COLUMN_TYPES);
        check_path(report, &format!("{at}.jsonPath"), column.get("jsonPath"), "");
    }
    for (i, field) in list(version, "/selectableFields").iter().enumerate() {
        check_path(report, &format!("{at}.selectableFields[{i}].jsonPath"), field.get("jsonPath"), "");
    }
    let Some(scale) = version.pointer("/subresources/scale").filter(|scale| scale.is_object()) else {
        return;
    };
    for (field, root) in [("specReplicasPath", "spec"), ("statusReplicasPath", "status")] {
        check_path(report, &format!("{at}.subresources.scale.{field}"), scale.get(field), root);
    }
}

/// A path of fields below `root`, or any path if that is empty.
fn check_path(report: &mut Report, at: &str, path: Option<&Value>, root: &str) {
    let given = path.and_then(Value::as_str).unwrap_or_default();
    if given.is_empty() {
        return report.required(at, "");
    }
    match Path::parse(given) {
        Err(problem) => report.invalid(at, &given.into(), &problem),
        Ok(path) if !root.is_empty() && path.fields().is_none_or(|fields| fields.first() != Some(&root)) => {
            report.invalid(at, &given.into(), &format!("should be a json path under .{root}"));
        }
        Ok(_) => {}
    }
}

impl Structural {
    /// That each default is what its own schema allows.
    fn check_defaults(&self, path: &str, report: &mut Report) {
        if let Some(default) = &self.default {
            for error in self.check(default) {
                let field = error.field.trim_start_matches('.').to_owned();
                let dot = if field.is_empty() { "" } else { "." };
                report.again(format!("{path}.default{dot}{field}"), error);
            }
        }
        for (name, schema) in &self.properties {
            schema.check_defaults(&format!("{path}.properties[{name}]"), report);
        }
        if let Some(schema) = &self.additional {
            schema.check_defaults(&format!("{path}.additionalProperties"), report);
        }
        if let Some(schema) = &self.items {
            schema.check_defaults(&format!("{path}.items"), report);
        }
    }
}

#[cfg(test)]
mod tests;
