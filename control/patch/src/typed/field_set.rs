//! The set of fields that a value has: what an applier of it owns.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Atom, Keys, ListAtom, MapAtom, Shape, TypedError, items::element_of, validate::scalar,
};
use crate::fields::{PathElement, Set};

pub(crate) fn field_set(shape: Shape<'_>, value: &Value) -> Result<Set, TypedError> {
    let mut set = Set::new();
    visit(shape, value, &mut Vec::new(), &mut set)?;
    Ok(set)
}

fn visit(
    shape: Shape<'_>,
    value: &Value,
    path: &mut Vec<PathElement>,
    set: &mut Set,
) -> Result<(), TypedError> {
    match shape.atom(Some(value)) {
        Atom::Scalar(kind) => {
            scalar(kind, value)?;
            set.insert(path);
            Ok(())
        }
        Atom::List(list) => visit_list(&list, value, path, set),
        Atom::Map(map) => visit_map(&map, value, path, set),
    }
}

fn visit_list(
    atom: &ListAtom<'_>,
    value: &Value,
    path: &mut Vec<PathElement>,
    set: &mut Set,
) -> Result<(), TypedError> {
    if matches!(atom.keys, Keys::Atomic) {
        set.insert(path);
        return Ok(());
    }
    let Value::Array(list) = value else {
        return Ok(());
    };
    let mut elements = Vec::with_capacity(list.len());
    let mut times: BTreeMap<PathElement, usize> = BTreeMap::new();
    for (i, item) in list.iter().enumerate() {
        let element =
            element_of(atom, item).map_err(|why| TypedError::new(format!("element {i}: {why}")))?;
        *times.entry(element.clone()).or_default() += 1;
        elements.push(element);
    }
    for (element, item) in elements.into_iter().zip(list) {
        // An item that stands there more than once is owned as a whole.
        let unique = times.get(&element) == Some(&1);
        path.push(element);
        let result = if unique {
            visit(atom.element, item, path, set)
        } else {
            Ok(())
        };
        set.insert(path);
        let element = path.pop().expect("pushed just above");
        result.map_err(|inner| inner.below(element))?;
    }
    Ok(())
}

fn visit_map(
    atom: &MapAtom<'_>,
    value: &Value,
    path: &mut Vec<PathElement>,
    set: &mut Set,
) -> Result<(), TypedError> {
    if atom.atomic {
        set.insert(path);
        return Ok(());
    }
    let Value::Object(map) = value else {
        return Ok(());
    };
    for (key, value) in map {
        path.push(PathElement::field(key.as_str()));
        let result = visit(atom.at(key), value, path, set);
        let empty = value.is_null() || value.as_object().is_some_and(|map| map.is_empty());
        if empty || !atom.names(key) {
            set.insert(path);
        }
        let element = path.pop().expect("pushed just above");
        result.map_err(|inner| inner.below(element))?;
    }
    Ok(())
}
