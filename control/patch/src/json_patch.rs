//! JSON Patch (RFC 6902) with the API server's habits: negative array indices count from the end,
//! and `replace` of a missing map key sets it (as the library upstream uses does).
//!
//! A patch is applied to a copy; a failing operation leaves nothing behind.

use kernelet_api::{ApiError, status::Cause};
use serde_json::{Map, Value};

use crate::number;

/// How many operations one patch may hold.
pub const MAX_OPERATIONS: usize = 10_000;

/// Bytes that the `copy` operations of one patch may add to the document together: a few
/// doubling copies would otherwise turn a small request into gigabytes.
const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum JsonPatchError {
    /// The patch is not a list of operations: a bad request.
    #[error("error decoding patch: json: cannot unmarshal {0} into Go value of type {1}")]
    Malformed(&'static str, &'static str),
    #[error("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}")]
    TooManyOperations(usize),
    /// The operations don't fit the document.
    #[error("{0}")]
    DoesNotApply(String),
}

fn refuse<T>(text: impl Into<String>) -> Result<T, JsonPatchError> {
    Err(JsonPatchError::DoesNotApply(text.into()))
}

/// Applies `patch`, a list of operations, to `doc`.
pub fn json_patch(doc: &Value, patch: &Value) -> Result<Value, JsonPatchError> {
    let operations = operations(patch)?;
    let mut doc = doc.clone();
    let mut copied = 0;
    for operation in operations {
        apply_one(&mut doc, operation, &mut copied)?;
    }
    Ok(doc)
}

fn operations(patch: &Value) -> Result<Vec<&Map<String, Value>>, JsonPatchError> {
    let list = patch.as_array().ok_or_else(|| {
        JsonPatchError::Malformed(number::kind_of(patch), "[]handlers.jsonPatchOp")
    })?;
    if list.len() > MAX_OPERATIONS {
        return Err(JsonPatchError::TooManyOperations(list.len()));
    }
    list.iter()
        .map(|entry| {
            entry.as_object().ok_or_else(|| {
                JsonPatchError::Malformed(number::kind_of(entry), "handlers.jsonPatchOp")
            })
        })
        .collect()
}

fn apply_one(
    doc: &mut Value,
    operation: &Map<String, Value>,
    copied: &mut usize,
) -> Result<(), JsonPatchError> {
    let kind = operation
        .get("op")
        .and_then(Value::as_str)
        .unwrap_or("unknown");
    let value = || operation.get("value").cloned().unwrap_or(Value::Null);
    match kind {
        "add" => add(doc, text(operation, "path", kind)?, value(), kind),
        "remove" => take(doc, text(operation, "path", kind)?, kind).map(drop),
        "replace" => replace(doc, text(operation, "path", kind)?, value()),
        "test" => test(doc, text(operation, "path", kind)?, operation.get("value")),
        "move" => {
            let from = text(operation, "from", kind)?;
            let path = text(operation, "path", kind)?;
            if path
                .strip_prefix(from)
                .is_some_and(|rest| rest.starts_with('/'))
            {
                return refuse(format!(
                    "move operation does not apply: {path} is inside {from}"
                ));
            }
            let value = take(doc, from, kind)?;
            add(doc, path, value, kind)
        }
        "copy" => {
            let from = text(operation, "from", kind)?;
            let path = text(operation, "path", kind)?;
            let value = get(doc, from, kind)?.clone();
            *copied += size(&value);
            if *copied > MAX_COPIED_BYTES {
                return refuse(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPIED_BYTES}"
                ));
            }
            add(doc, path, value, kind)
        }
        other => refuse(format!("Unexpected kind: {other}")),
    }
}

fn text<'p>(
    operation: &'p Map<String, Value>,
    field: &str,
    kind: &str,
) -> Result<&'p str, JsonPatchError> {
    match operation.get(field).and_then(Value::as_str) {
        Some(path) => Ok(path),
        None => refuse(format!(
            "{kind} operation failed to decode {field}: missing value"
        )),
    }
}

/// A pointer's parts; `None` for one that is neither empty nor starts with a slash.
fn parts(pointer: &str) -> Option<Vec<String>> {
    if pointer.is_empty() {
        return Some(Vec::new());
    }
    let rest = pointer.strip_prefix('/')?;
    Some(
        rest.split('/')
            .map(|part| part.replace("~1", "/").replace("~0", "~"))
            .collect(),
    )
}

/// The container that `pointer` ends in, and the last part.
fn container<'d>(
    doc: &'d mut Value,
    pointer: &str,
    kind: &str,
) -> Result<(&'d mut Value, String), JsonPatchError> {
    let missing = || {
        JsonPatchError::DoesNotApply(format!(
            "{kind} operation does not apply: doc is missing path: \"{pointer}\": missing value"
        ))
    };
    let mut parts = parts(pointer).ok_or_else(missing)?;
    let last = parts.pop().ok_or_else(missing)?;
    let mut at = doc;
    for part in parts {
        at = match at {
            Value::Object(map) => map.get_mut(&part).ok_or_else(missing)?,
            Value::Array(list) => {
                let index = index(&part, list.len(), list.len()).map_err(|_| missing())?;
                list.get_mut(index).ok_or_else(missing)?
            }
            _ => return Err(missing()),
        };
    }
    if !at.is_object() && !at.is_array() {
        return Err(missing());
    }
    Ok((at, last))
}

/// A part as an index below `limit`; negative ones count back from `base`.
fn index(part: &str, base: usize, limit: usize) -> Result<usize, String> {
    let wanted: i64 = part
        .parse()
        .map_err(|_| format!("value was not a proper array index: '{part}'"))?;
    let resolved = if wanted < 0 {
        wanted + base as i64
    } else {
        wanted
    };
    match usize::try_from(resolved) {
        Ok(index) if index < limit => Ok(index),
        _ => Err(format!(
            "Unable to access invalid index: {wanted}: invalid index referenced"
        )),
    }
}

fn add(doc: &mut Value, pointer: &str, value: Value, kind: &str) -> Result<(), JsonPatchError> {
    if pointer.is_empty() {
        *doc = value;
        return Ok(());
    }
    let (at, key) = container(doc, pointer, kind)?;
    match at {
        Value::Array(list) if key == "-" => list.push(value),
        Value::Array(list) => match index(&key, list.len() + 1, list.len() + 1) {
            Ok(index) => list.insert(index, value),
            Err(why) => return refuse(format!("error in {kind} for path: '{pointer}': {why}")),
        },
        Value::Object(map) => {
            map.insert(key, value);
        }
        _ => unreachable!("container() answers objects and arrays only"),
    }
    Ok(())
}

fn take(doc: &mut Value, pointer: &str, kind: &str) -> Result<Value, JsonPatchError> {
    let (at, key) = container(doc, pointer, kind)?;
    let taken = match at {
        Value::Array(list) => index(&key, list.len(), list.len()).map(|index| list.remove(index)),
        Value::Object(map) => map
            .remove(&key)
            .ok_or_else(|| format!("Unable to remove nonexistent key: {key}: missing value")),
        _ => unreachable!("container() answers objects and arrays only"),
    };
    taken.or_else(|why| refuse(format!("error in {kind} for path: '{pointer}': {why}")))
}

fn replace(doc: &mut Value, pointer: &str, value: Value) -> Result<(), JsonPatchError> {
    if pointer.is_empty() {
        if !value.is_object() && !value.is_array() {
            return refuse("replace operation value must be object or array");
        }
        *doc = value;
        return Ok(());
    }
    let (at, key) = container(doc, pointer, "replace")?;
    match at {
        Value::Array(list) => match index(&key, list.len(), list.len()) {
            Ok(index) => list[index] = value,
            Err(_) => {
                return refuse(format!(
                    "replace operation does not apply: doc is missing key: {pointer}: missing value"
                ));
            }
        },
        Value::Object(map) => {
            map.insert(key, value);
        }
        _ => unreachable!("container() answers objects and arrays only"),
    }
    Ok(())
}

fn get<'d>(doc: &'d mut Value, pointer: &str, kind: &str) -> Result<&'d Value, JsonPatchError> {
    if pointer.is_empty() {
        return Ok(doc);
    }
    let (at, key) = container(doc, pointer, kind)?;
    let found = match at {
        Value::Array(list) => index(&key, list.len(), list.len()).map(|index| &list[index]),
        Value::Object(map) => map
            .get(&key)
            .ok_or_else(|| format!("key {key} does not exist: missing value")),
        _ => unreachable!("container() answers objects and arrays only"),
    };
    found.or_else(|why| refuse(format!("error in {kind} for path: '{pointer}': {why}")))
}

fn test(doc: &mut Value, pointer: &str, wanted: Option<&Value>) -> Result<(), JsonPatchError> {
    let wanted = wanted.unwrap_or(&Value::Null);
    let holds = if pointer.is_empty() {
        number::equal(doc, wanted)
    } else {
        let (at, key) = container(doc, pointer, "test")?;
        match at {
            // A missing map key tests equal to null.
            Value::Object(map) => number::equal(map.get(&key).unwrap_or(&Value::Null), wanted),
            Value::Array(list) => match index(&key, list.len(), list.len()) {
                Ok(index) => number::equal(&list[index], wanted),
                Err(why) => return refuse(format!("error in test for path: '{pointer}': {why}")),
            },
            _ => unreachable!("container() answers objects and arrays only"),
        }
    };
    if holds {
        Ok(())
    } else {
        refuse(format!("testing value {pointer} failed: test failed"))
    }
}

/// A cheap bound from below of the encoded size.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(list) => 2 + list.iter().map(size).sum::<usize>(),
        Value::Object(map) => {
            2 + map
                .iter()
                .map(|(key, value)| key.len() + 3 + size(value))
                .sum::<usize>()
        }
        _ => 4,
    }
}

impl From<JsonPatchError> for ApiError {
    fn from(error: JsonPatchError) -> ApiError {
        match &error {
            JsonPatchError::Malformed(..) => ApiError::bad_request(error.to_string()),
            JsonPatchError::TooManyOperations(_) => {
                ApiError::new(413, "RequestEntityTooLarge", error.to_string())
            }
            // Upstream hides the reason behind a fixed text; it helps, so it is told as a cause.
            JsonPatchError::DoesNotApply(why) => ApiError::unprocessable(
                "the server rejected our request due to an error in our request",
            )
            .with_causes(vec![Cause {
                message: why.clone(),
                ..Cause::default()
            }]),
        }
    }
}
