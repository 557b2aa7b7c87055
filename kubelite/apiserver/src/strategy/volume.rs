//! Volumes and claims: pending until a binder or a provisioner has looked at them. They count no generations.

use kubelite_api::object;
use kubelite_api::status::ApiError;
use serde_json::{Value, json};

use super::{Claims, Strategy};

/// The strategy of persistent volumes and of claims.
pub struct Volume;

impl Strategy for Volume {
    fn prepare_create(&self, _: &Claims<'_>, object: &mut Value) -> Result<(), ApiError> {
        object["status"] = json!({"phase": "Pending"});
        object::remove_meta(object, "generation");
        Ok(())
    }
}
