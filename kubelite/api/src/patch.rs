//! The three kinds of patch that a client may send, as pure functions.
//!
//! What doesn't live here: server-side apply, and what happens around a patch (decoding, defaulting, validation).

mod strategic;

use json_patch::{Patch, PatchOperation};
use serde_json::Value;

use crate::status::ApiError;

pub use strategic::strategic;

/// The most operations that a JSON patch may have.
pub const MAX_OPERATIONS: usize = 10_000;
/// How many bytes all `copy` operations of a patch may copy, so that a short patch cannot fill the memory.
pub const MAX_COPIED_BYTES: usize = 3 << 20;

/// RFC 6902.
pub fn json(target: &Value, patch: &Value) -> Result<Value, ApiError> {
    let count = patch.as_array().map_or(0, Vec::len);
    if count > MAX_OPERATIONS {
        let text = format!("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}");
        return Err(ApiError::new(413, "RequestEntityTooLarge", text));
    }
    let Patch(operations) = serde_json::from_value(patch.clone())
        .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
    let (mut result, mut copied) = (target.clone(), 0);
    for operation in operations {
        if let PatchOperation::Copy(copy) = &operation {
            copied += result.pointer(copy.from.as_str()).map_or(0, size);
            if copied > MAX_COPIED_BYTES {
                return Err(rejected(&format!("copy operations exceed {MAX_COPIED_BYTES} bytes")));
            }
        }
        json_patch::patch(&mut result, &[operation]).map_err(|e| rejected(&e.to_string()))?;
    }
    Ok(result)
}

/// RFC 7386. A patch that is no object is refused, as it would replace the object by a scalar.
pub fn merge(target: &Value, patch: &Value) -> Result<Value, ApiError> {
    if !patch.is_object() {
        return Err(ApiError::bad_request("error decoding patch: a merge patch must be a JSON object"));
    }
    let mut result = target.clone();
    json_patch::merge(&mut result, patch);
    Ok(result)
}

fn rejected(why: &str) -> ApiError {
    let text = format!("the server rejected our request due to an error in our request: {why}");
    ApiError::new(422, "Invalid", text)
}

/// Roughly how much memory a value takes.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => 32 + text.len(),
        Value::Array(list) => 32 + list.iter().map(size).sum::<usize>(),
        Value::Object(map) => 32 + map.iter().map(|(k, v)| k.len() + size(v)).sum::<usize>(),
        _ => 32,
    }
}

#[cfg(test)]
mod tests;
