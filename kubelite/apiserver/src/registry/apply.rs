//! Server-side apply: what is applied becomes a change of what is there, or a new object.

use kubelite_api::status::ApiError;
use kubelite_api::{managed, object};
use serde_json::Value;

use super::{Context, Owner, Registry, as_manager, with_schema};
use crate::strategy::Part;

/// What is applied.
#[derive(Debug, Clone, Copy)]
pub struct Applied<'a> {
    /// All that its manager wants to own, decoded, without defaults.
    pub object: &'a Value,
    /// The manager.
    pub manager: &'a str,
    /// Take over what others own.
    pub force: bool,
}

impl Registry {
    /// Applies an object; what is there afterwards, and whether it is new.
    pub async fn apply(
        &self,
        context: Context<'_>,
        name: &str,
        part: Part,
        applied: Applied<'_>,
    ) -> Result<(Value, bool), ApiError> {
        let context = Context { owner: Owner::Settled, ..context };
        let change = |live: &Value| merged(context, part, live, applied);
        match self.update(context, name, part, &change).await {
            Err(error) if error.is_not_found() && part == Part::Main => {}
            done => return done.map(|object| (object, false)),
        }
        let version = object::resource_version(applied.object);
        if !version.is_empty() {
            let why = format!("resourceVersion {version} is wanted of an object that is not there");
            return Err(ApiError::conflict(&context.resource.qualified(), name, &why));
        }
        let mut new = merged(context, part, &Value::Null, applied)?;
        super::update::call(&mut new, name)?;
        match self.create(context, new).await {
            // Somebody was faster: it is there now.
            Err(error) if error.reason == "AlreadyExists" => {
                Ok((self.update(context, name, part, &change).await?, false))
            }
            done => done.map(|object| (object, true)),
        }
    }
}

fn merged(context: Context<'_>, part: Part, live: &Value, applied: Applied<'_>) -> Result<Value, ApiError> {
    let mut wanted = applied.object.clone();
    if let Some(map) = wanted.as_object_mut().filter(|_| context.resource.subresources.contains(&"status")) {
        // The other part is another request's: nobody owns by this one what it can't write.
        map.retain(|field, _| match part {
            Part::Status => ["apiVersion", "kind", "metadata", "status"].contains(&field.as_str()),
            _ => field != "status",
        });
    }
    let merged = with_schema(context.resource, |schema| {
        as_manager(context, applied.manager, |manager| {
            managed::apply(schema, live, &wanted, manager, applied.force)
        })
    });
    merged.ok_or_else(|| ApiError::internal(format!("{} has no schema", context.resource.kind)))?
}
