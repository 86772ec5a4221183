//! Upstream's protobuf.

use crate::{Schema, TypeId, Value};

/// Bytes that are not a message of the type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    #[error("unexpected EOF")]
    Truncated,
    #[error("{0}")]
    Malformed(String),
}

pub(super) fn encode(schema: &Schema, value: &Value) -> Option<Vec<u8>> {
    let _ = (schema, value);
    todo!()
}

pub(super) fn encode_message(schema: &Schema, ty: TypeId, value: &Value) -> Vec<u8> {
    let _ = (schema, ty, value);
    todo!()
}

pub(super) fn envelope(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let _ = (api_version, kind, message);
    todo!()
}

pub(super) fn decode_message(
    schema: &Schema,
    ty: TypeId,
    bytes: &[u8],
) -> Result<Value, ProtoError> {
    let _ = (schema, ty, bytes);
    todo!()
}
