//! Validation.

use crate::{FieldError, Value};

pub fn deployment(_: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn deployment_update(_: &Value, _: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn deployment_status(_: &Value, _: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn replica_set(_: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn replica_set_update(_: &Value, _: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn replica_set_status(_: &Value, _: &Value) -> Vec<FieldError> {
    vec![]
}
