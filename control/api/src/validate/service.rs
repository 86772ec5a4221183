//! Validation.

use crate::{FieldError, Value};

pub fn service(_: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn service_update(_: &Value, _: &Value) -> Vec<FieldError> {
    vec![]
}
