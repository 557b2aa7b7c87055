//! PodSecurity: what pods of a namespace may ask of their nodes, by the namespace's labels (Pod Security Standards, KEP-2579).
//!
//! Only `enforce` is looked at; a version in the labels is checked, and the standard's newest form is applied whatever it says.

mod checks;

use std::sync::Arc;

use async_trait::async_trait;
use kubelite_api::object;
use kubelite_api::status::{ApiError, FieldError};
use serde_json::Value;

use super::{Admission, Attributes, Operation};
use crate::auth::Objects;

const PREFIX: &str = "pod-security.kubernetes.io/";
const MODES: [&str; 3] = ["enforce", "audit", "warn"];

/// One of the three standards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Anything.
    Privileged,
    /// No known way to become the node's root.
    Baseline,
    /// What is held to be good practice.
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Level> {
        Some(match text {
            "privileged" => Level::Privileged,
            "baseline" => Level::Baseline,
            "restricted" => Level::Restricted,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        }
    }
}

/// Judges by the cached namespaces.
pub struct PodSecurity {
    objects: Arc<dyn Objects>,
}

impl PodSecurity {
    /// Judges by these objects.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        PodSecurity { objects }
    }
}

#[async_trait]
impl Admission for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), ApiError> {
        let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
        if writes && attributes.is("", "namespaces") {
            return check_labels(attributes, object);
        }
        if !writes || !is_about_containers(attributes, object) {
            return Ok(());
        }
        let namespace = self.objects.get("namespaces", "", &attributes.request.namespace);
        let Some(namespace) = namespace else { return Ok(()) };
        let label = |name: &str| object::label(&namespace, &format!("{PREFIX}{name}"));
        // What cannot be read was there before it was checked; upstream goes on with the strictest then.
        let level = label("enforce")
            .map_or(Level::Privileged, |text| Level::parse(text).unwrap_or(Level::Restricted));
        let version = label("enforce-version").unwrap_or("latest");
        let found = checks::violations(object, level);
        if found.is_empty() {
            return Ok(());
        }
        let why = format!("violates PodSecurity \"{}:{version}\": {}", level.name(), found.join(", "));
        Err(attributes.forbid(object, &why))
    }
}

/// A new pod, or a change of what its containers may do. Other changes of a pod that is there are let through, so that labels and
/// finalizers of pods from before the standard can be written.
fn is_about_containers(attributes: &Attributes<'_>, object: &Value) -> bool {
    let request = attributes.request;
    if !request.group.is_empty() || request.resource != "pods" {
        return false;
    }
    match (attributes.operation, request.subresource.as_str()) {
        (Operation::Create, "") => true,
        (Operation::Update, "" | "ephemeralcontainers") => {
            attributes.old.is_none_or(|old| old.get("spec") != object.get("spec"))
        }
        _ => false,
    }
}

/// Refuses labels that no standard has.
fn check_labels(attributes: &Attributes<'_>, namespace: &Value) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    for mode in MODES {
        let mut check = |name: String, is_right: fn(&str) -> bool, wanted: &str| {
            let Some(value) = object::label(namespace, &name).filter(|value| !is_right(value)) else {
                return;
            };
            // What stood there before is not this change's mistake.
            if attributes.old.is_none_or(|old| object::label(old, &name) != Some(value)) {
                let message = format!("Invalid value: \"{value}\": {wanted}");
                errors.push(FieldError {
                    reason: "FieldValueInvalid",
                    field: format!("metadata.labels[{name}]"),
                    message,
                });
            }
        };
        let levels = "must be one of privileged, baseline, restricted";
        check(format!("{PREFIX}{mode}"), |value| Level::parse(value).is_some(), levels);
        check(format!("{PREFIX}{mode}-version"), is_version, "must be \"latest\" or \"v1.x\"");
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid("Namespace", attributes.name(namespace), &errors))
    }
}

fn is_version(text: &str) -> bool {
    text == "latest" || text.strip_prefix("v1.").is_some_and(|minor| minor.parse::<u16>().is_ok())
}
