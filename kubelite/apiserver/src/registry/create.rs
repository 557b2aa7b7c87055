//! Create: names, what only the server sets, and the retries of a generated name.

use std::time::Instant;

use jiff::Timestamp;
use kubelite_api::status::ApiError;
use kubelite_api::{names, object};
use serde_json::Value;

use super::{Context, Owner, Registry, apply_defaults, check, encode, in_stored_version, own, unavailable};
use crate::admission::Operation;
use crate::storage::StorageError;

/// How many generated names are tried.
const NAMES: usize = 8;
/// What a client may send and the server sets itself.
const SERVER_SET: [&str; 6] =
    ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink"];

impl Registry {
    /// Creates an object (decoded and pruned); what was stored, with its resourceVersion.
    pub async fn create(&self, context: Context<'_>, object: Value) -> Result<Value, ApiError> {
        let generated = object::name(&object).is_empty() && !object::generate_name(&object).is_empty();
        for _ in 0..if generated { NAMES } else { 1 } {
            match self.create_once(context, object.clone()).await {
                Err(error) if generated && error.reason == "AlreadyExists" => {}
                done => return done,
            }
        }
        let prefix = object::generate_name(&object);
        Err(ApiError::already_exists(&context.resource.qualified(), prefix))
    }

    async fn create_once(&self, context: Context<'_>, mut object: Value) -> Result<Value, ApiError> {
        let resource = context.resource;
        if resource.custom.is_some_and(|custom| custom.version().terminating) {
            let text = "create not allowed while custom resource definition is terminating";
            return Err(ApiError::new(405, "MethodNotAllowed", text));
        }
        prepare_metadata(context, &mut object)?;
        let claims = self.allocator.claims();
        resource.strategy.prepare_create(&claims, &mut object)?;
        own(context, &Value::Null, &mut object, false);
        self.admit(context, Operation::Create, &mut object, None).await?;
        resource.strategy.derive(&mut object);
        apply_defaults(resource, &mut object);
        check(resource, &object, None)?;
        if context.dry_run {
            return Ok(object);
        }
        let name = object::name(&object).to_owned();
        let key = resource.key(object::namespace(&object), &name);
        in_stored_version(resource, &mut object);
        let lease = match resource.strategy.time_to_live() {
            Some(seconds) => {
                Some(self.leases.take(&self.storage, seconds, Instant::now()).await.map_err(unavailable)?)
            }
            None => None,
        };
        let revision = match self.storage.create(&key, encode(&object)?, lease).await {
            Err(StorageError::Exists(_)) => {
                return Err(ApiError::already_exists(&resource.qualified(), &name));
            }
            Err(error) => {
                self.leases.forget().await;
                return Err(unavailable(error));
            }
            Ok(revision) => revision,
        };
        self.settle(revision).await;
        object::set_resource_version(&mut object, &revision.to_string());
        Ok(object)
    }
}

fn prepare_metadata(context: Context<'_>, object: &mut Value) -> Result<(), ApiError> {
    if !object::resource_version(object).is_empty() {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    for field in SERVER_SET {
        object::remove_meta(object, field);
    }
    if context.owner != Owner::Settled {
        object::remove_meta(object, "managedFields");
    }
    if object::name(object).is_empty() && !object::generate_name(object).is_empty() {
        let name = names::generate_name(object::generate_name(object), &mut rand::random::<u32>);
        object::set_name(object, &name);
    }
    super::update::place(context, object)?;
    object::set_uid(object, &new_uid());
    object::set_creation_timestamp(object, Timestamp::now());
    Ok(())
}

/// A random UUID (RFC 9562, version 4).
fn new_uid() -> String {
    let bits = (rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)]
        .map(|(from, to)| hex.get(from..to).unwrap_or_default());
    parts.join("-")
}

#[cfg(test)]
mod tests {
    #[test]
    fn uids_are_version_4() {
        let uid = super::new_uid();
        assert_eq!(uid.len(), 36);
        assert_eq!(&uid[14..15], "4", "{uid}");
        assert!("89ab".contains(&uid[19..20]), "{uid}");
    }
}
