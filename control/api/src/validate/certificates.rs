//! Validation.

use crate::{FieldError, Value};

pub fn csr(_: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn csr_update(_: &Value, _: &Value) -> Vec<FieldError> {
    vec![]
}
