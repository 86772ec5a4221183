//! Strategic merge patch: a merge patch that knows which lists are merged item by item, and by which key.
//!
//! What the schema says of a field (`patchStrategy`, `patchMergeKey`) decides; directives in the patch override:
//!
//! | directive | means |
//! |---|---|
//! | `$patch: replace` in a map | take this map as it is |
//! | `$patch: delete` in a map | empty the map; in a list's item: remove the item with this key |
//! | `$patch: replace` in a list's item | take the patch's other items as the whole list |
//! | `$retainKeys: […]` | remove the map's keys that are not listed |
//! | `$deleteFromPrimitiveList/f: […]` | remove these values from the list `f` |
//! | `$setElementOrder/f: […]` | order the list `f` like this |
//!
//! Source: "Strategic Merge Patch" in the Kubernetes API conventions and its two design notes on lists.

mod lists;
mod meta;

use kernelet_api::{
    ApiError, Value,
    schema::{Schema, TypeId},
};
use serde_json::Map;

use self::meta::{Meta, Strategy};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

type Object = Map<String, Value>;

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum StrategicError {
    #[error("invalid JSON document")]
    NotAnObject,
    #[error("invalid patch format of retainKeys")]
    RetainKeys,
    #[error("invalid patch format of setElementOrder list")]
    SetElementOrder,
    #[error("invalid patch format of primitive list")]
    PrimitiveList,
    #[error("lists of lists are not supported")]
    ListOfLists,
    #[error("unknown patch type: {0} in map")]
    Directive(String),
    #[error("map: {0} does not contain declared merge key: {1}")]
    NoMergeKey(String, String),
    #[error("cannot merge lists without merge key for {0}")]
    NoMergeKeyDeclared(String),
    #[error("list element types are not identical in {0}")]
    MixedList(String),
    #[error("expected a list for {0}")]
    NotAList(String),
    #[error("The order in patch list:\n{patch}\n doesn't match $setElementOrder list:\n{order}\n")]
    Order { patch: String, order: String },
}

impl From<StrategicError> for ApiError {
    /// Upstream's codes: a directive of the wrong form is a bad request, a patch that doesn't fit the object's lists
    /// can't be processed.
    fn from(error: StrategicError) -> ApiError {
        match error {
            StrategicError::NotAnObject
            | StrategicError::RetainKeys
            | StrategicError::SetElementOrder
            | StrategicError::PrimitiveList => ApiError::bad_request(error.to_string()),
            StrategicError::ListOfLists => ApiError::unprocessable(error.to_string()),
            _ => ApiError::new(500, "", error.to_string()),
        }
    }
}

/// Merges `patch` into `original`, an object of type `ty`.
pub fn strategic_merge(
    schema: &Schema,
    ty: TypeId,
    original: &Value,
    patch: &Value,
) -> Result<Value, StrategicError> {
    let (Value::Object(original), Value::Object(patch)) = (original, patch) else {
        return Err(StrategicError::NotAnObject);
    };
    let merged = merge_maps(original.clone(), patch.clone(), Meta::of(schema, ty))?;
    Ok(Value::Object(merged))
}

fn merge_maps(
    mut original: Object,
    mut patch: Object,
    meta: Meta<'_>,
) -> Result<Object, StrategicError> {
    if let Some(directive) = patch.remove(PATCH) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Object::new()),
            _ => Err(StrategicError::Directive(directive.to_string())),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    lists::set_element_orders(&mut original, &mut patch, meta)?;
    // Deletions from a list come after additions to it.
    let (deletions, changes): (Vec<_>, Vec<_>) = patch
        .into_iter()
        .partition(|(key, _)| key.starts_with(DELETE_FROM));
    for (key, change) in changes {
        if change.is_null() {
            original.remove(&key);
            continue;
        }
        let merged = match (original.remove(&key), change) {
            (Some(Value::Object(before)), Value::Object(change)) => {
                let (inner, rule) = meta.at(&key);
                Some(Value::Object(match rule.strategy {
                    Strategy::Replace => change,
                    Strategy::Merge | Strategy::Unset => merge_maps(before, change, inner)?,
                }))
            }
            (Some(Value::Array(before)), Value::Array(change)) => {
                let (inner, rule) = meta.at(&key);
                Some(Value::Array(match rule.strategy {
                    Strategy::Merge => lists::merge(&key, before, change, inner, rule.merge_key)?,
                    Strategy::Replace | Strategy::Unset => change,
                }))
            }
            (Some(_), change) | (None, change) => taken_as_is(change),
        };
        if let Some(merged) = merged {
            original.insert(key, merged);
        }
    }
    for (key, values) in deletions {
        lists::delete_values(&mut original, &key[DELETE_FROM.len()..], &values)?;
    }
    Ok(original)
}

/// A value of the patch that meets nothing in the original: without nulls and without what carries a directive.
fn taken_as_is(mut change: Value) -> Option<Value> {
    discard_nulls(&mut change);
    without_directives(change)
}

fn discard_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(discard_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(discard_nulls),
        _ => {}
    }
}

fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(PATCH) => None,
        Value::Object(map) => Some(Value::Object(
            map.into_iter()
                .filter_map(|(key, value)| Some((key, without_directives(value)?)))
                .collect(),
        )),
        Value::Array(list) => Some(Value::Array(
            list.into_iter().filter_map(without_directives).collect(),
        )),
        scalar => Some(scalar),
    }
}

fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), StrategicError> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let Value::Array(keys) = keys else {
        return Err(StrategicError::RetainKeys);
    };
    let listed = |key: &str| keys.iter().any(|listed| listed.as_str() == Some(key));
    let stray = patch.iter().any(|(key, value)| {
        !value.is_null()
            && !key.starts_with(DELETE_FROM)
            && !key.starts_with(ELEMENT_ORDER)
            && !listed(key)
    });
    if stray {
        return Err(StrategicError::RetainKeys);
    }
    original.retain(|key, _| listed(key));
    Ok(())
}
