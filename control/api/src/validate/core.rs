//! Validation.

use crate::{FieldError, Value};

pub fn binding(_: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn config_map(_: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn config_map_update(_: &Value, _: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn namespace(_: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn namespace_update(_: &Value, _: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn node(_: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn node_update(_: &Value, _: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn secret(_: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn secret_update(_: &Value, _: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn event(_: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn event_update(_: &Value, _: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn lease(_: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn lease_update(_: &Value, _: &Value) -> Vec<FieldError> {
    vec![]
}
