//! Validation.

use crate::{FieldError, Value};

pub fn pdb(_: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn pdb_update(_: &Value, _: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn pdb_status(_: &Value, _: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn priority_class(_: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn priority_class_update(_: &Value, _: &Value) -> Vec<FieldError> {
    vec![]
}
