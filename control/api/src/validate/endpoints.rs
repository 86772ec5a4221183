//! Validation.

use crate::{FieldError, Value};

pub fn endpoints(_: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn endpoint_slice(_: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn endpoint_slice_update(_: &Value, _: &Value) -> Vec<FieldError> {
    vec![]
}
