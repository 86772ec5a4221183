//! Strategic merge patch.

use kernelet_api::{Value, schema::{Schema, TypeId}};

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum StrategicError {
    #[error("{0}")]
    Malformed(String),
}

pub fn strategic_merge(_: &Schema, _: TypeId, _: &Value, _: &Value) -> Result<Value, StrategicError> {
    todo!()
}
