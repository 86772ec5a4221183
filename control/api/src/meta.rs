//! Reading and writing the metadata of an object tree.

use crate::{Gvk, Value, names::GroupVersion};
use serde_json::Map;

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object
        .get("metadata")
        .and_then(|m| m.get(field))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

pub fn name(object: &Value) -> &str {
    text(object, "name")
}

pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}

pub fn resource_version(object: &Value) -> &str {
    text(object, "resourceVersion")
}

pub fn generate_name(object: &Value) -> &str {
    text(object, "generateName")
}

pub fn creation_timestamp(object: &Value) -> &str {
    text(object, "creationTimestamp")
}

/// Empty when the object is not being deleted.
pub fn deletion_timestamp(object: &Value) -> &str {
    text(object, "deletionTimestamp")
}

pub fn generation(object: &Value) -> i64 {
    object
        .pointer("/metadata/generation")
        .and_then(Value::as_i64)
        .unwrap_or_default()
}

pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    object
        .pointer("/metadata/labels")
        .and_then(Value::as_object)
}

pub fn annotations(object: &Value) -> Option<&Map<String, Value>> {
    object
        .pointer("/metadata/annotations")
        .and_then(Value::as_object)
}

pub fn finalizers(object: &Value) -> Vec<&str> {
    let list = object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

pub fn owner_references(object: &Value) -> &[Value] {
    object
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The metadata, made when it is missing. An object that is not a JSON object becomes one.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    child_mut(object, "metadata")
}

/// The object under `key`, made when it is missing or of another type.
pub fn child_mut<'a>(object: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let map = object.as_object_mut().expect("made an object above");
    let child = map.entry(key).or_insert_with(|| Value::Object(Map::new()));
    if !child.is_object() {
        *child = Value::Object(Map::new());
    }
    child.as_object_mut().expect("made an object above")
}

/// Sets a metadata field; an empty text removes it.
pub fn set(object: &mut Value, field: &str, value: &str) {
    let metadata = metadata_mut(object);
    if value.is_empty() {
        metadata.remove(field);
    } else {
        metadata.insert(field.to_owned(), value.into());
    }
}

pub fn set_generation(object: &mut Value, generation: i64) {
    metadata_mut(object).insert("generation".to_owned(), generation.into());
}

/// The object's own apiVersion and kind; `None` when either is missing or malformed.
pub fn gvk(object: &Value) -> Option<Gvk> {
    let kind = object.get("kind")?.as_str().filter(|k| !k.is_empty())?;
    let api_version = object.get("apiVersion")?.as_str()?;
    Some(GroupVersion::parse(api_version).ok()?.with_kind(kind))
}

pub fn set_gvk(object: &mut Value, gvk: &Gvk) {
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".to_owned(), gvk.api_version().into());
        map.insert("kind".to_owned(), gvk.kind.clone().into());
    }
}

/// The value at a dotted path of plain fields (`spec.nodeName`).
pub fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.')
        .try_fold(object, |value, key| value.get(key))
}
