//! JSON Merge Patch (RFC 7386): a null removes, an object merges, anything else replaces.

use kernelet_api::ApiError;
use serde_json::{Map, Value};

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum MergePatchError {
    /// An API object can only be patched with an object.
    #[error("Invalid JSON Patch")]
    NotAnObject,
}

/// Applies `patch` to the object `doc`.
pub fn merge_patch(doc: &Value, patch: &Value) -> Result<Value, MergePatchError> {
    if !patch.is_object() {
        return Err(MergePatchError::NotAnObject);
    }
    let mut doc = doc.clone();
    merge(&mut doc, patch);
    Ok(doc)
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let map = target.as_object_mut().expect("made an object just above");
    for (key, change) in changes {
        if change.is_null() {
            map.remove(key);
        } else {
            // Merging into null drops the nulls inside `change`, as the RFC's pseudo-code does.
            merge(map.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}

impl From<MergePatchError> for ApiError {
    fn from(error: MergePatchError) -> ApiError {
        ApiError::bad_request(error.to_string())
    }
}
