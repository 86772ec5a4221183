//! Whether a value has its type's form.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    Atom, Keys, ListAtom, MapAtom, Scalar, Shape, TypedError,
    error::{go_type, go_value},
    items::element_of,
};
use crate::fields::PathElement;

/// Whether a set or keyed list may hold an item twice: what is applied may not, what is stored may.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duplicates {
    Refused,
    Allowed,
}

pub(crate) fn validate(
    shape: Shape<'_>,
    value: &Value,
    duplicates: Duplicates,
) -> Result<(), TypedError> {
    let mut found = TypedError::default();
    match shape.atom(Some(value)) {
        Atom::Scalar(kind) => return scalar(kind, value),
        Atom::List(list) => items(&list, value, duplicates, &mut found),
        Atom::Map(map) => fields(&map, value, duplicates, &mut found),
    }
    if found.0.is_empty() {
        Ok(())
    } else {
        Err(found)
    }
}

pub(super) fn scalar(kind: Scalar, value: &Value) -> Result<(), TypedError> {
    let fits = match (kind, value) {
        (_, Value::Null) => true,
        (Scalar::Numeric, value) => value.is_number(),
        (Scalar::String, value) => value.is_string(),
        (Scalar::Boolean, value) => value.is_boolean(),
        (Scalar::Untyped, value) => !value.is_object() && !value.is_array(),
    };
    if fits {
        return Ok(());
    }
    Err(TypedError::new(match kind {
        Scalar::Numeric => format!("expected numeric (int or float), got {}", go_type(value)),
        Scalar::String => format!("expected string, got &value.valueUnstructured{{Value:{value}}}"),
        Scalar::Boolean => format!("expected boolean, got &{{{}}}", go_value(value)),
        Scalar::Untyped => format!("expected any scalar, got &{{{}}}", go_value(value)),
    }))
}

fn items(atom: &ListAtom<'_>, value: &Value, duplicates: Duplicates, found: &mut TypedError) {
    let list = match value {
        Value::Null => return,
        Value::Array(list) => list,
        other => {
            found
                .0
                .extend(TypedError::new(format!("expected list, got &{{{}}}", go_value(other))).0);
            return;
        }
    };
    let mut seen = BTreeSet::new();
    for (i, item) in list.iter().enumerate() {
        let element = if matches!(atom.keys, Keys::Atomic) {
            PathElement::Index(i as i64)
        } else {
            match element_of(atom, item) {
                Ok(element) => element,
                Err(why) => {
                    found
                        .0
                        .extend(TypedError::new(format!("element {i}: {why}")).0);
                    return;
                }
            }
        };
        if !seen.insert(element.clone()) && duplicates == Duplicates::Refused {
            found
                .0
                .extend(TypedError::new(format!("duplicate entries for key {element}")).0);
        }
        if let Err(inner) = validate(atom.element, item, duplicates) {
            found.0.extend(inner.below(element).0);
        }
    }
}

fn fields(atom: &MapAtom<'_>, value: &Value, duplicates: Duplicates, found: &mut TypedError) {
    let map = match value {
        Value::Null => return,
        Value::Object(map) => map,
        other => {
            found
                .0
                .extend(TypedError::new(format!("expected map, got &{{{}}}", go_value(other))).0);
            return;
        }
    };
    for (key, value) in map {
        let element = PathElement::field(key.as_str());
        let result = match atom.declared(key) {
            Some(shape) => validate(shape, value, duplicates),
            None => Err(TypedError::new("field not declared in schema")),
        };
        if let Err(inner) = result {
            found.0.extend(inner.below(element).0);
        }
    }
}
