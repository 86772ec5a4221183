//! Why an apply failed, and what the API answers then.

use kernelet_api::ApiError;

use super::conflict::Conflicts;
use crate::{fields::FieldsError, typed::TypedError};

/// `metadata.managedFields` can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManagedFieldsError {
    #[error("managedFields must be a list")]
    NotAList,
    #[error("operation must be `Apply` or `Update`")]
    Operation,
    #[error("apiVersion must not be empty")]
    NoApiVersion,
    #[error("missing fieldsType in managed fields entry {0}")]
    NoFieldsType(usize),
    #[error("invalid fieldsType {0:?} in managed fields entry {1}")]
    FieldsType(String, usize),
    #[error("error decoding set: {0}")]
    Fields(#[from] FieldsError),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The body is of another kind or version than the request's path.
    #[error("invalid object type: {0}")]
    WrongKind(String),
    #[error("metadata.managedFields must be nil")]
    ManagedFieldsInPatch,
    #[error("failed to decode managed fields: {0}")]
    ManagedFields(#[from] ManagedFieldsError),
    /// A field that the type doesn't have, or a value of the wrong type.
    #[error("failed to create typed patch object ({object}): {source}")]
    Patch { object: String, source: TypedError },
    #[error("failed to create typed live object ({object}): {source}")]
    Live { object: String, source: TypedError },
    #[error("failed to merge config: {0}")]
    Merge(TypedError),
    #[error("failed to compare objects: {0}")]
    Compare(TypedError),
    #[error("{0}")]
    Conflict(Conflicts),
}

impl From<ApplyError> for ApiError {
    /// Upstream's codes: what the body's author could have known is a bad request, a body that doesn't fit its type
    /// has no reason of its own.
    fn from(error: ApplyError) -> ApiError {
        match &error {
            ApplyError::WrongKind(_) | ApplyError::ManagedFieldsInPatch => {
                ApiError::bad_request(error.to_string())
            }
            ApplyError::Conflict(conflicts) => conflicts.to_api_error(),
            _ => ApiError::new(500, "", error.to_string()),
        }
    }
}
