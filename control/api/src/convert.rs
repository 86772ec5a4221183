//! Conversion between the versions of one resource.

use crate::{Gvk, Value};

/// Turns an object of one version into another version of the same resource, apiVersion and kind included.
pub type Converter = fn(from: &Gvk, to: &Gvk, object: Value) -> Result<Value, ConvertError>;

/// No conversion exists between the two.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("converting ({from}) to ({to}): unknown conversion")]
pub struct ConvertError {
    pub from: String,
    pub to: String,
}

impl ConvertError {
    pub fn unknown(from: &Gvk, to: &Gvk) -> Self {
        Self {
            from: format!("{}.{}", from.version, from.kind),
            to: format!("{}.{}", to.version, to.kind),
        }
    }
}
