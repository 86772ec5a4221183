//! Taking fields out of a value.

use serde_json::{Map, Value};

use super::{Atom, Keys, ListAtom, MapAtom, Shape, items::element_of};
use crate::fields::{PathElement, Set};

/// The value without these fields. A map or list that loses everything becomes null, so that its place still counts
/// as a field while ownership is sorted out; [`drop_nulls`] ends that.
pub(crate) fn remove(shape: Shape<'_>, value: &Value, fields: &Set) -> Value {
    match shape.atom(Some(value)) {
        Atom::Scalar(_) => value.clone(),
        Atom::List(list) => remove_items(&list, value, fields),
        Atom::Map(map) => remove_keys(&map, value, fields),
    }
}

fn remove_items(atom: &ListAtom<'_>, value: &Value, fields: &Set) -> Value {
    let Value::Array(list) = value else {
        return Value::Null;
    };
    if matches!(atom.keys, Keys::Atomic) {
        return Value::Null;
    }
    let kept: Vec<Value> = list
        .iter()
        .filter_map(|item| {
            // Stored lists were checked when they came in; an item that can't be told apart can't be named either.
            let Ok(element) = element_of(atom, item) else {
                return Some(item.clone());
            };
            if fields.has(&element) {
                return None;
            }
            Some(match fields.below(&element) {
                Some(below) => remove(atom.element, item, below),
                None => item.clone(),
            })
        })
        .collect();
    if kept.is_empty() {
        Value::Null
    } else {
        Value::Array(kept)
    }
}

fn remove_keys(atom: &MapAtom<'_>, value: &Value, fields: &Set) -> Value {
    let Value::Object(map) = value else {
        return Value::Null;
    };
    if atom.atomic {
        return Value::Null;
    }
    let kept: Map<String, Value> = map
        .iter()
        .filter_map(|(key, value)| {
            let element = PathElement::field(key.as_str());
            if fields.has(&element) {
                return None;
            }
            let value = match fields.below(&element) {
                Some(below) => remove(atom.at(key), value, below),
                None => value.clone(),
            };
            Some((key.clone(), value))
        })
        .collect();
    if kept.is_empty() {
        Value::Null
    } else {
        Value::Object(kept)
    }
}

/// Removes null fields where the type is known: there null means absent. Untyped places keep theirs.
pub(crate) fn drop_nulls(shape: Shape<'_>, value: &mut Value) {
    if shape.is_untyped() {
        return;
    }
    match (shape.atom(Some(value)), value) {
        (Atom::Map(atom), Value::Object(map)) => {
            map.retain(|key, value| !value.is_null() || atom.at(key).is_untyped());
            for (key, value) in map.iter_mut() {
                drop_nulls(atom.at(key), value);
            }
        }
        (Atom::List(atom), Value::Array(list)) => {
            list.iter_mut()
                .for_each(|item| drop_nulls(atom.element, item));
        }
        _ => {}
    }
}
