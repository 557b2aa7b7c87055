//! How custom objects and their definitions are written.

use kubelite_api::custom::definition;
use kubelite_api::object;
use kubelite_api::status::ApiError;
use serde_json::{Value, json};

use crate::strategy::{Claims, Part, Strategy};

/// What keeps a definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Custom objects without a status of their own: any change counts in the generation.
pub struct Whole;

impl Strategy for Whole {
    fn prepare_create(&self, _: &Claims<'_>, object: &mut Value) -> Result<(), ApiError> {
        object::set_generation(object, 1);
        Ok(())
    }

    fn prepare_update(
        &self,
        _: &Claims<'_>,
        part: Part,
        object: &mut Value,
        old: &Value,
    ) -> Result<(), ApiError> {
        if part != Part::Internal {
            count(object, old, &[]);
        }
        Ok(())
    }
}

/// Custom objects whose status is a part of its own.
pub struct WithStatus;

impl Strategy for WithStatus {
    fn prepare_create(&self, _: &Claims<'_>, object: &mut Value) -> Result<(), ApiError> {
        set(object, "status", None);
        object::set_generation(object, 1);
        Ok(())
    }

    fn prepare_update(
        &self,
        _: &Claims<'_>,
        part: Part,
        object: &mut Value,
        old: &Value,
    ) -> Result<(), ApiError> {
        match part {
            Part::Main => {
                set(object, "status", old.get("status").cloned());
                count(object, old, &["status"]);
            }
            Part::Status => {
                let (status, version) =
                    (object.get("status").cloned(), object::resource_version(object).to_owned());
                let owners = object::remove_meta(object, "managedFields");
                *object = old.clone();
                set(object, "status", status);
                object::set_resource_version(object, &version);
                owners.into_iter().for_each(|owners| object::set_meta(object, "managedFields", owners));
            }
            Part::Internal => {}
        }
        Ok(())
    }
}

/// The definitions themselves.
pub struct Definition;

impl Strategy for Definition {
    fn prepare_create(&self, _: &Claims<'_>, object: &mut Value) -> Result<(), ApiError> {
        let stored = definition::stored_version(object).to_owned();
        object["status"] = json!({"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": [stored]});
        object::set_generation(object, 1);
        Ok(())
    }

    fn prepare_update(
        &self,
        claims: &Claims<'_>,
        part: Part,
        object: &mut Value,
        old: &Value,
    ) -> Result<(), ApiError> {
        WithStatus.prepare_update(claims, part, object, old)?;
        // Objects of an earlier version may still lie there; whoever has rewritten them takes its name out.
        let stored = Value::from(definition::stored_version(object));
        if let Some(Value::Array(versions)) = object.pointer_mut("/status/storedVersions")
            && !versions.contains(&stored)
        {
            versions.push(stored);
        }
        Ok(())
    }

    fn waits_for(&self) -> Option<&'static str> {
        Some(CLEANUP)
    }
}

fn set(object: &mut Value, field: &str, value: Option<Value>) {
    let Some(map) = object.as_object_mut() else { return };
    match value {
        Some(value) => map.insert(field.to_owned(), value),
        None => map.remove(field),
    };
}

/// One generation more if anything changed beside the metadata and these fields.
fn count(object: &mut Value, old: &Value, without: &[&str]) {
    let content = |value: &Value| {
        let fields = value.as_object().into_iter().flatten();
        let counts = |name: &str| name != "metadata" && !without.contains(&name);
        fields
            .filter(|(name, _)| counts(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect::<Value>()
    };
    let changed = content(object) != content(old);
    object::set_generation(object, object::generation(old).max(1) + i64::from(changed));
}
