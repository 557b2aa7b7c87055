//! Delete: preconditions, grace, finalizers, propagation; and the same for a whole collection.

use jiff::{SignedDuration, Timestamp};
use kubelite_api::object;
use kubelite_api::status::ApiError;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Context, Current, ListQuery, Registry, TRIES, unavailable};
use crate::admission::Operation;
use crate::resources::Resource;
use crate::storage::StorageError;

/// The finalizers by which the garbage collector is told what to do.
const PROPAGATION: [&str; 2] = ["foregroundDeletion", "orphan"];

/// `DeleteOptions`, as a body or in the query.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteOptions {
    /// Seconds; none: the object's own.
    pub grace_period_seconds: Option<i64>,
    /// `Foreground`, `Background` or `Orphan`.
    pub propagation_policy: Option<String>,
    /// The older way to say `Orphan`.
    pub orphan_dependents: Option<bool>,
    /// What must be so, or nothing is deleted.
    pub preconditions: Preconditions,
    /// `["All"]` or nothing.
    pub dry_run: Vec<String>,
}

/// The conditions of a deletion.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Preconditions {
    /// The object's uid.
    pub uid: Option<String>,
    /// The object's resourceVersion.
    pub resource_version: Option<String>,
}

/// What became of it.
#[derive(Debug)]
pub enum Deleted {
    /// It is gone; this was its last state.
    Gone(Value),
    /// Its deletion has begun; somebody has to finish it.
    Begun(Value),
}

impl Registry {
    /// Deletes an object, or begins to.
    pub async fn delete(
        &self,
        context: Context<'_>,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        let resource = context.resource;
        for _ in 0..TRIES {
            let current = self.get(resource, &context.request.namespace, name).await?;
            check_preconditions(resource, name, &options.preconditions, &current.object)?;
            self.admit(context, Operation::Delete, &mut Value::Null, Some(&current.object)).await?;
            let grace = resource.strategy.grace(&current.object, options.grace_period_seconds);
            let propagation = propagation(options, &current.object, resource.strategy.orphans_by_default());
            let mut marked = mark(&current.object, grace, propagation, Timestamp::now());
            if let Some(finalizer) = resource.strategy.waits_for()
                && object::deletion_timestamp(&current.object).is_none()
            {
                add_finalizer(&mut marked, finalizer);
            }
            let waits = grace > 0
                || !object::finalizers(&marked).is_empty()
                || resource.strategy.blocks_deletion(&marked);
            let done = match (context.dry_run, waits) {
                (true, true) => Ok(Deleted::Begun(marked)),
                (true, false) => Ok(Deleted::Gone(marked)),
                (false, true) if marked == current.object => Ok(Deleted::Begun(marked)),
                (false, true) => self.write(context, &current, marked).await.map(Deleted::Begun),
                (false, false) => {
                    self.remove(resource, &current).await.map(|()| Deleted::Gone(current.object))
                }
            };
            match done {
                Err(error) if error.reason == "Conflict" => {}
                done => return done,
            }
        }
        Err(ApiError::new(
            503,
            "ServiceUnavailable",
            "too many clients change this object at once; try again",
        ))
    }

    /// Deletes all objects that match; those that were there.
    pub async fn delete_collection(
        &self,
        context: Context<'_>,
        query: &ListQuery,
        options: &DeleteOptions,
    ) -> Result<Vec<Value>, ApiError> {
        let listed = self.list(context.resource, &context.request.namespace, query).await?;
        let mut deleted = Vec::with_capacity(listed.entries.len());
        for entry in &listed.entries {
            let (namespace, name) = (entry.namespace.clone(), entry.name.clone());
            let request = crate::request::RequestInfo { namespace, name, ..context.request.clone() };
            match self.delete(Context { request: &request, ..context }, &entry.name, options).await {
                Ok(Deleted::Gone(object) | Deleted::Begun(object)) => deleted.push(object),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(deleted)
    }

    /// Takes an object out of the store, as it was read.
    pub(super) async fn remove(&self, resource: &Resource, current: &Current) -> Result<(), ApiError> {
        let name = object::name(&current.object);
        let key = resource.key(object::namespace(&current.object), name);
        let revision = match self.storage.delete(&key, current.revision).await {
            Err(StorageError::Conflict { current: None, .. }) => return Ok(()),
            Err(StorageError::Conflict { .. }) => {
                return Err(ApiError::conflict(&resource.qualified(), name, "the object has been modified"));
            }
            other => other.map_err(unavailable)?,
        };
        self.settle(revision).await;
        Ok(())
    }
}

fn check_preconditions(
    resource: &Resource,
    name: &str,
    wanted: &Preconditions,
    object: &Value,
) -> Result<(), ApiError> {
    let pairs = [
        ("UID", wanted.uid.as_deref(), object::uid(object)),
        ("ResourceVersion", wanted.resource_version.as_deref(), object::resource_version(object)),
    ];
    for (what, wanted, is) in pairs {
        if let Some(wanted) = wanted.filter(|w| *w != is) {
            let why =
                format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {is}");
            return Err(ApiError::conflict(&resource.qualified(), name, &why));
        }
    }
    Ok(())
}

fn add_finalizer(object: &mut Value, finalizer: &str) {
    let known: Vec<String> = object::finalizers(object).into_iter().map(str::to_owned).collect();
    if !known.iter().any(|known| known == finalizer) {
        let all: Vec<&str> = known.iter().map(String::as_str).chain([finalizer]).collect();
        object::set_finalizers(object, &all);
    }
}

/// What is to become of the dependents: none if nobody said so and what is decided already holds. An object whose deletion
/// has begun keeps its finalizer; else the kind's own custom counts.
fn propagation<'a>(options: &'a DeleteOptions, object: &Value, orphans: bool) -> Option<&'a str> {
    let decided = object::finalizers(object).iter().any(|f| PROPAGATION.contains(f));
    match options.orphan_dependents {
        Some(true) => Some("Orphan"),
        Some(false) => Some("Background"),
        None if options.propagation_policy.is_some() => options.propagation_policy.as_deref(),
        None if orphans && !decided => Some("Orphan"),
        None => None,
    }
}

/// The object with what its deletion writes into it: time, grace, finalizers of the propagation. A shorter grace replaces a
/// longer one; a longer one changes nothing.
fn mark(object: &Value, grace: i64, propagation: Option<&str>, now: Timestamp) -> Value {
    let mut marked = object.clone();
    let known = marked.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    let begun = object::deletion_timestamp(&marked).is_some();
    if !begun || known.is_some_and(|known| grace < known) {
        let end = now.saturating_add(SignedDuration::from_secs(grace)).unwrap_or(now);
        object::set_deletion_timestamp(&mut marked, end);
        object::set_meta(&mut marked, "deletionGracePeriodSeconds", json!(grace));
        if object::generation(&marked) > 0 {
            let generation = object::generation(&marked) + 1;
            object::set_generation(&mut marked, generation);
        }
    }
    if marked["kind"] == "Namespace" {
        marked["status"]["phase"] = json!("Terminating");
    }
    let wanted = match propagation {
        Some("Foreground") => Some("foregroundDeletion"),
        Some("Orphan") => Some("orphan"),
        _ => None,
    };
    let known: Vec<String> = object::finalizers(&marked).into_iter().map(str::to_owned).collect();
    let mut finalizers: Vec<&str> = known.iter().map(String::as_str).collect();
    // The last word on the propagation holds, as long as the collector has not acted on the first.
    if propagation.is_some() {
        finalizers.retain(|f| !PROPAGATION.contains(f));
    }
    finalizers.extend(wanted);
    if finalizers.len() != known.len() || finalizers.iter().zip(&known).any(|(a, b)| a != b) {
        object::set_finalizers(&mut marked, &finalizers);
    }
    marked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_word_counts_before_the_kinds_custom() {
        let said = |policy: Option<&str>, orphan: Option<bool>| DeleteOptions {
            propagation_policy: policy.map(str::to_owned),
            orphan_dependents: orphan,
            ..DeleteOptions::default()
        };
        let (plain, begun) = (json!({}), json!({"metadata": {"finalizers": ["foregroundDeletion"]}}));
        for (options, object, orphans, expected) in [
            (said(None, None), &plain, false, None),
            (said(None, None), &plain, true, Some("Orphan")),
            (said(None, None), &begun, true, None),
            (said(Some("Background"), None), &plain, true, Some("Background")),
            (said(Some("Foreground"), None), &plain, true, Some("Foreground")),
            (said(None, Some(false)), &plain, true, Some("Background")),
            (said(None, Some(true)), &plain, false, Some("Orphan")),
        ] {
            assert_eq!(propagation(&options, object, orphans), expected, "{options:?} {object}");
        }
    }
}
