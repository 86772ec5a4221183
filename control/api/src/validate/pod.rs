//! Validation.

use crate::{FieldError, Value};

pub fn pod(_: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn pod_update(_: &Value, _: &Value) -> Vec<FieldError> {
    vec![]
}

pub fn pod_status_update(_: &Value, _: &Value) -> Vec<FieldError> {
    vec![]
}

/// Guaranteed, Burstable or BestEffort.
pub fn qos_class(_: &Value) -> &'static str {
    "BestEffort"
}
