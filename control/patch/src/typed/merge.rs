//! Merging: the right value over the left one, item by item and key by key where the type is granular.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    Atom, Keys, ListAtom, MapAtom, Shape, TypedError, items::element_of, validate::scalar,
};
use crate::fields::PathElement;

/// Merges `right` over `left`. `None` where nothing is left: a map or list without items on one side vanishes.
pub(crate) fn merge(
    shape: Shape<'_>,
    left: Option<&Value>,
    right: Option<&Value>,
) -> Result<Option<Value>, TypedError> {
    // Where both sides have different forms (possible in untyped places only), the right one's counts.
    match shape.atom(right.or(left)) {
        Atom::Scalar(kind) => {
            let check = |value: Option<&Value>| value.map_or(Ok(()), |value| scalar(kind, value));
            if let (Err(mut left), Err(right)) = (check(left), check(right)) {
                left.0.extend(right.0);
                return Err(left);
            }
            Ok(right.or(left).cloned())
        }
        Atom::List(list) => merge_lists(&list, left, right),
        Atom::Map(map) => merge_maps(&map, left, right),
    }
}

fn merge_maps(
    atom: &MapAtom<'_>,
    left: Option<&Value>,
    right: Option<&Value>,
) -> Result<Option<Value>, TypedError> {
    let empty = Map::new();
    let ours = left.and_then(Value::as_object).unwrap_or(&empty);
    let theirs = right.and_then(Value::as_object).unwrap_or(&empty);
    // Two empty ones are a leaf, so that empty and null stay what they are.
    if atom.atomic || (ours.is_empty() && theirs.is_empty()) {
        return Ok(right.or(left).cloned());
    }
    let mut out = Map::new();
    let keys = ours
        .keys()
        .chain(theirs.keys().filter(|key| !ours.contains_key(*key)));
    for key in keys {
        let merged = merge(atom.at(key), ours.get(key), theirs.get(key))
            .map_err(|inner| inner.below(PathElement::field(key.as_str())))?;
        if let Some(merged) = merged {
            out.insert(key.clone(), merged);
        }
    }
    Ok((!out.is_empty()).then_some(Value::Object(out)))
}

fn merge_lists(
    atom: &ListAtom<'_>,
    left: Option<&Value>,
    right: Option<&Value>,
) -> Result<Option<Value>, TypedError> {
    let ours = left
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let theirs = right
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    if matches!(atom.keys, Keys::Atomic) || (ours.is_empty() && theirs.is_empty()) {
        return Ok(right.or(left).cloned());
    }
    let out = interleave(atom, ours, theirs)?;
    Ok((!out.is_empty()).then_some(Value::Array(out)))
}

/// The items of one side with their elements; an element that appears twice has no item to merge with (null).
struct Indexed<'v> {
    order: Vec<PathElement>,
    items: BTreeMap<PathElement, &'v Value>,
}

const NULL: &Value = &Value::Null;

fn index<'v>(
    atom: &ListAtom<'_>,
    list: &'v [Value],
    duplicates_allowed: bool,
) -> Result<Indexed<'v>, TypedError> {
    let mut indexed = Indexed {
        order: Vec::with_capacity(list.len()),
        items: BTreeMap::new(),
    };
    for (i, item) in list.iter().enumerate() {
        let element =
            element_of(atom, item).map_err(|why| TypedError::new(format!("element {i}: {why}")))?;
        if indexed.items.contains_key(&element) {
            if !duplicates_allowed {
                return Err(TypedError::new(format!(
                    "duplicate entries for key {element}"
                )));
            }
            indexed.items.insert(element.clone(), NULL);
        } else {
            indexed.items.insert(element.clone(), item);
        }
        indexed.order.push(element);
    }
    Ok(indexed)
}

/// Merges two lists. The result keeps the left order for items only the left has, and the right order for the rest:
/// shared items act as joints, and what stands between two joints on either side stands between them in the result.
fn interleave(
    atom: &ListAtom<'_>,
    ours: &[Value],
    theirs: &[Value],
) -> Result<Vec<Value>, TypedError> {
    let right = index(atom, theirs, false)?;
    let left = index(atom, ours, true)?;
    let mut out = Vec::with_capacity(ours.len().max(theirs.len()));
    let mut take = |element: &PathElement, left: Option<&Value>, right: Option<&Value>| {
        let merged = merge(atom.element, left, right).map_err(|inner| inner.below(element))?;
        out.extend(merged);
        Ok::<(), TypedError>(())
    };

    let mut joints = right
        .order
        .iter()
        .filter(|element| left.items.contains_key(element));
    let mut next_joint = joints.next();
    let mut merged: BTreeMap<&PathElement, ()> = BTreeMap::new();
    let (mut l, mut r) = (0, 0);
    while l < left.order.len() || r < right.order.len() {
        if l < left.order.len() && r < right.order.len() {
            let element = &left.order[l];
            if *element == right.order[r] {
                merged.insert(element, ());
                take(
                    element,
                    left.items.get(element).copied(),
                    right.items.get(element).copied(),
                )?;
                l += 1;
                r += 1;
                next_joint = joints.next();
                continue;
            }
            if right.items.contains_key(element) && next_joint.is_some_and(|joint| joint != element)
            {
                // Shared, but it is another joint's turn.
                l += 1;
                continue;
            }
        }
        if l < left.order.len() {
            let element = &left.order[l];
            if !right.items.contains_key(element) {
                // By position: of an item that stands there twice, each one is kept.
                take(element, Some(&ours[l]), None)?;
                l += 1;
                continue;
            }
            if merged.contains_key(element) {
                l += 1;
            }
        }
        if r < right.order.len() {
            let element = &right.order[r];
            merged.insert(element, ());
            take(
                element,
                left.items.get(element).copied(),
                right.items.get(element).copied(),
            )?;
            r += 1;
            if next_joint == Some(element) {
                next_joint = joints.next();
            }
        }
    }
    Ok(out)
}
