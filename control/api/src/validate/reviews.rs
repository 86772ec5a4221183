//! Validation.

use crate::{FieldError, Value};

pub fn local_subject_access_review(_: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn token_review(_: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn self_subject_access_review(_: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn self_subject_rules_review(_: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn subject_access_review(_: &Value) -> Vec<FieldError> {
    vec![]
}
