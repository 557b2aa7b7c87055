//! Update and patch: one guarded change of what is there, tried again if somebody else was faster.

use kubelite_api::object;
use kubelite_api::status::ApiError;
use serde_json::Value;

use super::{
    Context, Current, Registry, TRIES, apply_defaults, check, encode, in_stored_version, own, unavailable,
};
use crate::admission::Operation;
use crate::storage::StorageError;
use crate::strategy::{Claims, Part};

/// What no client can change.
const KEPT: [&str; 5] =
    ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"];

/// Where the owners stand, in the metadata.
const FIELD: &str = "managedFields";

/// How the new object comes from the present one.
pub type Change<'a> = &'a (dyn Fn(&Value) -> Result<Value, ApiError> + Send + Sync);

impl Registry {
    /// Changes an object; what is there afterwards. A resourceVersion in the new object is a condition.
    pub async fn update(
        &self,
        context: Context<'_>,
        name: &str,
        part: Part,
        change: Change<'_>,
    ) -> Result<Value, ApiError> {
        let resource = context.resource;
        for _ in 0..TRIES {
            let current = self.get(resource, &context.request.namespace, name).await?;
            let claims = self.allocator.claims();
            let object = self.prepare(context, name, part, change, &current, &claims).await?;
            if object == current.object || context.dry_run {
                return Ok(object);
            }
            if finished(&object) && !resource.strategy.blocks_deletion(&object) {
                self.remove(resource, &current).await?;
                return Ok(object);
            }
            match self.write(context, &current, object).await {
                // The change is made anew on what is there now; if it names a resourceVersion it fails then.
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

    async fn prepare(
        &self,
        context: Context<'_>,
        name: &str,
        part: Part,
        change: Change<'_>,
        current: &Current,
        claims: &Claims<'_>,
    ) -> Result<Value, ApiError> {
        let resource = context.resource;
        let old = &current.object;
        let mut object = change(old)?;
        check_identity(context, name, &mut object, old)?;
        for field in KEPT {
            match old.pointer(&format!("/metadata/{field}")) {
                Some(value) => object::set_meta(&mut object, field, value.clone()),
                None => drop(object::remove_meta(&mut object, field)),
            }
        }
        let owners = object::remove_meta(&mut object, FIELD);
        apply_defaults(resource, &mut object);
        resource.strategy.prepare_update(claims, part, &mut object, old)?;
        settle_owners(context, part, &mut object, old, owners);
        object::set_resource_version(&mut object, &current.revision.to_string());
        if part == Part::Internal {
            // The server's own change may touch what clients can't: a pod's node, a namespace's finalizers.
            check(resource, &object, None)?;
        } else {
            self.admit(context, Operation::Update, &mut object, Some(old)).await?;
            check(resource, &object, Some(old))?;
        }
        Ok(object)
    }

    /// Stores what was made of `current`.
    pub(super) async fn write(
        &self,
        context: Context<'_>,
        current: &Current,
        mut object: Value,
    ) -> Result<Value, ApiError> {
        let resource = context.resource;
        let key = resource.key(object::namespace(&object), object::name(&object));
        in_stored_version(resource, &mut object);
        let revision = match self.storage.update(&key, encode(&object)?, current.revision).await {
            Err(StorageError::Conflict { .. }) => return Err(modified(context, object::name(&object))),
            other => other.map_err(unavailable)?,
        };
        self.settle(revision).await;
        object::set_resource_version(&mut object, &revision.to_string());
        Ok(object)
    }
}

/// What a client says of the owners counts where it writes the object itself; the server's own changes have none.
fn settle_owners(context: Context<'_>, part: Part, object: &mut Value, old: &Value, said: Option<Value>) {
    let before = object::metadata(old).and_then(|metadata| metadata.get(FIELD)).cloned();
    match if part == Part::Internal { before } else { said } {
        Some(owners) => object::set_meta(object, FIELD, owners),
        None => drop(object::remove_meta(object, FIELD)),
    }
    if part != Part::Internal {
        own(context, old, object, part == Part::Main);
    }
}

/// Whether its deletion only waited for finalizers, and they are gone now.
fn finished(object: &Value) -> bool {
    let grace = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    object::deletion_timestamp(object).is_some() && grace == 0 && object::finalizers(object).is_empty()
}

fn check_identity(context: Context<'_>, name: &str, object: &mut Value, old: &Value) -> Result<(), ApiError> {
    call(object, name)?;
    place(context, object)?;
    let version = object::resource_version(object);
    if !version.is_empty() && version != object::resource_version(old) {
        return Err(modified(context, name));
    }
    let uid = object::uid(object);
    if !uid.is_empty() && uid != object::uid(old) {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            object::uid(old)
        );
        return Err(ApiError::conflict(&context.resource.qualified(), name, &why));
    }
    Ok(())
}

/// Puts the name of the request into the object; another one there is an error.
pub(super) fn call(object: &mut Value, name: &str) -> Result<(), ApiError> {
    if object::name(object).is_empty() {
        object::set_name(object, name);
    }
    if object::name(object) != name {
        let why = "the name of the object does not match the name on the URL";
        return Err(ApiError::bad_request(format!("{why} ({} ≠ {name})", object::name(object))));
    }
    Ok(())
}

/// Puts the namespace of the request into the object; another one there is an error.
pub(super) fn place(context: Context<'_>, object: &mut Value) -> Result<(), ApiError> {
    if !context.resource.namespaced {
        object::remove_meta(object, "namespace");
        return Ok(());
    }
    let namespace = &context.request.namespace;
    if !object::namespace(object).is_empty() && object::namespace(object) != namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    object::set_namespace(object, namespace);
    Ok(())
}

fn modified(context: Context<'_>, name: &str) -> ApiError {
    let why = "the object has been modified; please apply your changes to the latest version and try again";
    ApiError::conflict(&context.resource.qualified(), name, why)
}
