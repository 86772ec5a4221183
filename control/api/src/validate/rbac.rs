//! Validation.

use crate::{FieldError, Value};

pub fn role(_: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn role_update(_: &Value, _: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn cluster_role(_: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn cluster_role_update(_: &Value, _: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn role_binding(_: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn role_binding_update(_: &Value, _: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn cluster_role_binding(_: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn cluster_role_binding_update(_: &Value, _: &Value) -> Vec<FieldError> {
    vec![]
}
