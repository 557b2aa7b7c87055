//! Request bodies in `application/vnd.kubernetes.protobuf`, read into the trees that JSON bodies become.
//!
//! Compiled clients (kubectl's `create`, `run`, `auth can-i`; controllers) send them. A body is the magic `k8s\0` and a
//! `runtime.Unknown`: the object's apiVersion and kind, and its message. The schema says what a field's value looks
//! like, `numbers` which number it has. Nothing is written in this format: clients accept JSON as an answer.

mod decode;
mod numbers;
mod presence;
mod special;
mod wire;

use serde_json::Value;

use crate::schema::{self, Schema};
use wire::{Fields, Wire};

/// The media type of such a body.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// Why a body can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// The first four bytes are wrong.
    #[error("it does not start with the bytes \"k8s\\0\" of a Kubernetes protobuf body")]
    Magic,
    /// It ends within a field.
    #[error("it ends in the middle of a field")]
    Truncated,
    /// It isn't the wire format.
    #[error("it is not in the protobuf wire format")]
    Malformed,
    /// The raw object has an encoding or a type of its own.
    #[error(
        "the object inside has the content encoding or type {0:?}, which is not supported: send it plainly"
    )]
    Encoding(String),
    /// A kind without field numbers.
    #[error("{kind} in version {api_version:?} is not known in protobuf: send it as application/json")]
    UnknownKind {
        /// The apiVersion of the envelope.
        api_version: String,
        /// The kind of the envelope.
        kind: String,
    },
    /// A value of another type than the field's, or out of its range.
    #[error("the value of {definition}.{field} does not have the field's type")]
    Type {
        /// The definition's type name.
        definition: String,
        /// The field.
        field: String,
    },
    /// More levels than any object has.
    #[error("it is nested more than {} levels deep", decode::MAX_DEPTH)]
    Depth,
    /// More values than any object should have.
    #[error("it has more than {} values", decode::MAX_VALUES)]
    Size,
}

/// The object in a body, as JSON would say it.
pub fn decode(body: &[u8]) -> Result<Value, ProtobufError> {
    let envelope = Envelope::read(body.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?)?;
    if let Some(other) = [envelope.encoding, envelope.media_type]
        .into_iter()
        .find(|text| !text.is_empty() && text != MEDIA_TYPE)
    {
        return Err(ProtobufError::Encoding(other));
    }
    let unknown = || ProtobufError::UnknownKind {
        api_version: envelope.api_version.clone(),
        kind: envelope.kind.clone(),
    };
    let definition = definition(&envelope.api_version, &envelope.kind).ok_or_else(unknown)?;
    let numbers = numbers::of(definition.name()).ok_or_else(unknown)?;
    let mut object = decode::object(definition, numbers, envelope.raw)?;
    object.insert("apiVersion".into(), envelope.api_version.into());
    object.insert("kind".into(), envelope.kind.into());
    Ok(Value::Object(object))
}

/// Options have one form, whatever group they are sent to.
fn definition(api_version: &str, kind: &str) -> Option<&'static Schema> {
    if kind == "DeleteOptions" {
        return schema::lookup(DELETE_OPTIONS);
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    schema::for_kind(group, version, kind)
}

/// A `runtime.Unknown`.
#[derive(Default)]
struct Envelope<'a> {
    api_version: String,
    kind: String,
    raw: &'a [u8],
    encoding: String,
    media_type: String,
}

impl<'a> Envelope<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, ProtobufError> {
        let mut envelope = Envelope::default();
        for field in Fields(bytes) {
            match field? {
                (1, Wire::Bytes(meta)) => {
                    for field in Fields(meta) {
                        match field? {
                            (1, Wire::Bytes(text)) => envelope.api_version = utf8(text)?,
                            (2, Wire::Bytes(text)) => envelope.kind = utf8(text)?,
                            _ => {}
                        }
                    }
                }
                (2, Wire::Bytes(raw)) => envelope.raw = raw,
                (3, Wire::Bytes(text)) => envelope.encoding = utf8(text)?,
                (4, Wire::Bytes(text)) => envelope.media_type = utf8(text)?,
                _ => {}
            }
        }
        Ok(envelope)
    }
}

fn utf8(bytes: &[u8]) -> Result<String, ProtobufError> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| ProtobufError::Malformed)
}

#[cfg(test)]
mod tests;
