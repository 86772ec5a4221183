//! Bodies to value trees and back: JSON, YAML and upstream's protobuf, all driven by the schema.

mod body;
mod head;
mod json;
mod outline;
mod protobuf;
mod scalar;
mod typed;
mod yaml;

pub use outline::Outline;

use crate::{ApiError, Gvk, Schema, TypeId, Value};

/// A request body's or answer's encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    Json,
    Yaml,
    Protobuf,
}

/// The query parameter `fieldValidation`: what happens to unknown and duplicate fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// A decoded body. The tree holds no unknown fields and no nulls, and every value has its schema's type.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub value: Value,
    /// What the body said it is, or what was expected where it said nothing.
    pub gvk: Gvk,
    /// For `Warning` headers: `unknown field "spec.foo"`. Empty under `Ignore`.
    pub warnings: Vec<String>,
}

/// Decodes a request body that should be of the kind `expected`. Where the body names no apiVersion or kind, the
/// expected one is filled in. A body of another kind is an error. The tree is canonical ([`crate::prune::canonicalize`]).
pub fn decode(
    schema: &Schema,
    format: Format,
    body: &[u8],
    expected: &Gvk,
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    body::decode(
        schema,
        format,
        body,
        Some(expected),
        validation,
        Form::Canonical,
    )
}

/// The same for a server-side apply's body: what the client did not write stays absent.
pub fn decode_partial(
    schema: &Schema,
    format: Format,
    body: &[u8],
    expected: &Gvk,
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    body::decode(
        schema,
        format,
        body,
        Some(expected),
        validation,
        Form::AsWritten,
    )
}

/// Decodes a body of any kind that the schema knows; `apiVersion` and `kind` must be there.
pub fn decode_any(
    schema: &Schema,
    format: Format,
    body: &[u8],
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    body::decode(schema, format, body, None, validation, Form::Canonical)
}

/// Checks a tree (a patch's result) against the schema as [`decode`] does a body: types are checked, unknown fields
/// are pruned and reported, the tree becomes canonical. A wrong type is answered with 422, as upstream does for patches.
pub fn typecheck(
    schema: &Schema,
    value: Value,
    expected: &Gvk,
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    body::typecheck(schema, &value, expected, validation)
}

/// Whether a decoded tree is brought into canonical form.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Canonical,
    AsWritten,
}

/// JSON to a plain tree without a schema, telling duplicate keys by path. For patches and unknown kinds.
pub fn parse_json(body: &[u8]) -> Result<(Value, Vec<String>), String> {
    json::parse(body)
}

/// YAML (one document) to a plain tree without a schema, telling duplicate keys.
pub fn parse_yaml(body: &[u8]) -> Result<(Value, Vec<String>), String> {
    yaml::parse(body)
}

/// JSON bytes of an object, as answers and the store carry them.
pub fn encode_json(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a tree of JSON values has a JSON form")
}

pub fn encode_yaml(value: &Value) -> Vec<u8> {
    yaml::encode(value)
}

/// Protobuf bytes of a whole object in upstream's envelope (`k8s\0`, then `runtime.Unknown`); apiVersion and kind are
/// read from the tree. `None` when the schema does not know the kind.
pub fn encode_protobuf(schema: &Schema, value: &Value) -> Option<Vec<u8>> {
    protobuf::encode(schema, value)
}

/// Protobuf bytes of a message without envelope, for splicing lists and watch events.
pub fn encode_message(schema: &Schema, ty: TypeId, value: &Value) -> Vec<u8> {
    protobuf::encode_message(schema, ty, value)
}

/// Wraps an encoded message in upstream's envelope.
pub fn envelope(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    protobuf::envelope(api_version, kind, message)
}

/// A decoded protobuf message without envelope.
pub fn decode_message(
    schema: &Schema,
    ty: TypeId,
    bytes: &[u8],
) -> Result<Value, protobuf::ProtoError> {
    protobuf::decode_message(schema, ty, bytes)
}

pub use protobuf::ProtoError;

/// The bytes of a base64 text; upstream's message when it is none.
pub fn decode_base64(text: &str) -> Result<Vec<u8>, String> {
    scalar::decode_base64(text)
}
