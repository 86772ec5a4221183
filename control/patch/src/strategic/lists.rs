//! Merging lists: by key or by value, with the directives that delete and order.
//!
//! The result's order: what the patch names stands in the patch's order; what only the server has keeps its own, and is
//! put in before the first named item that followed it on the server.

use kernelet_api::Value;

use super::{
    DELETE_FROM, ELEMENT_ORDER, Meta, Object, PATCH, StrategicError, Strategy, merge_maps,
    without_directives,
};
use crate::number;

/// Handles every `$setElementOrder/f` of `patch`, together with `f` itself.
pub(super) fn set_element_orders(
    original: &mut Object,
    patch: &mut Object,
    meta: Meta<'_>,
) -> Result<(), StrategicError> {
    let directives: Vec<String> = patch
        .keys()
        .filter(|key| key.starts_with(ELEMENT_ORDER))
        .cloned()
        .collect();
    for directive in directives {
        let field = directive[ELEMENT_ORDER.len()..].to_owned();
        let Some(Value::Array(order)) = patch.remove(&directive) else {
            return Err(StrategicError::SetElementOrder);
        };
        // A null deletes the list; there is nothing to order.
        if patch.get(&field).is_some_and(Value::is_null) {
            continue;
        }
        let before = list_at(original.get(&field), &field)?;
        let change = list_at(patch.get(&field), &field)?;
        let (inner, rule) = meta.at(&field);
        check_order(change.unwrap_or_default(), &order, rule.merge_key)?;
        let merged = match (before, change) {
            (None, None) => continue,
            (Some(before), None) => before.to_vec(),
            (None, Some(change)) => change
                .iter()
                .cloned()
                .filter_map(without_directives)
                .collect(),
            (Some(before), Some(change)) if rule.strategy == Strategy::Merge => merge(
                &field,
                before.to_vec(),
                change.to_vec(),
                inner,
                rule.merge_key,
            )?,
            (Some(_), Some(change)) => change.to_vec(),
        };
        let before = before.unwrap_or_default().to_vec();
        let ordered = in_order(merged, &order, &before, rule.merge_key)?;
        original.insert(field.clone(), Value::Array(ordered));
        patch.remove(&field);
    }
    Ok(())
}

fn list_at<'v>(
    value: Option<&'v Value>,
    field: &str,
) -> Result<Option<&'v [Value]>, StrategicError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(list)) => Ok(Some(list)),
        Some(_) => Err(StrategicError::NotAList(field.to_owned())),
    }
}

/// Removes `values` from the list of scalars at `field`.
pub(super) fn delete_values(
    original: &mut Object,
    field: &str,
    values: &Value,
) -> Result<(), StrategicError> {
    if values.is_null() {
        original.remove(field);
        return Ok(());
    }
    let Value::Array(values) = values else {
        return Err(StrategicError::PrimitiveList);
    };
    if field.is_empty() || field.starts_with(DELETE_FROM) {
        return Err(StrategicError::PrimitiveList);
    }
    if let Some(Value::Array(list)) = original.get_mut(field) {
        list.retain(|item| !values.iter().any(|value| number::equal(item, value)));
    }
    Ok(())
}

/// Merges `change` into `before`.
pub(super) fn merge(
    field: &str,
    before: Vec<Value>,
    change: Vec<Value>,
    item: Meta<'_>,
    merge_key: Option<&str>,
) -> Result<Vec<Value>, StrategicError> {
    if before.is_empty() && change.is_empty() {
        return Ok(before);
    }
    if before.iter().chain(&change).any(Value::is_array) {
        return Err(StrategicError::ListOfLists);
    }
    let maps = before
        .iter()
        .chain(&change)
        .filter(|item| item.is_object())
        .count();
    if maps == 0 {
        let merged =
            before
                .iter()
                .chain(&change)
                .fold(Vec::new(), |mut merged: Vec<Value>, item| {
                    if !merged.iter().any(|known| number::equal(known, item)) {
                        merged.push(item.clone());
                    }
                    merged
                });
        return in_order(merged, &change, &before, None);
    }
    if maps != before.len() + change.len() {
        return Err(StrategicError::MixedList(field.to_owned()));
    }
    let Some(key) = merge_key else {
        return Err(StrategicError::NoMergeKeyDeclared(field.to_owned()));
    };
    let (before, change) = special_items(before, change, key)?;
    let mut merged = before.clone();
    for item_change in &change {
        let value = key_of(item_change, key)?;
        let known = merged
            .iter_mut()
            .find(|known| known.get(key).is_some_and(|k| number::equal(k, value)));
        match (known, item_change) {
            (Some(Value::Object(known)), Value::Object(item_change)) => {
                *known = merge_maps(std::mem::take(known), item_change.clone(), item)?;
            }
            _ => merged.push(item_change.clone()),
        }
    }
    in_order(merged, &change, &before, Some(key))
}

/// Acts on the items of `change` that carry `$patch`, and answers both lists without them.
fn special_items(
    mut before: Vec<Value>,
    change: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), StrategicError> {
    let mut plain = Vec::with_capacity(change.len());
    let mut replace = false;
    for item in change {
        match item
            .get(PATCH)
            .map(|directive| directive.as_str().unwrap_or_default().to_owned())
        {
            None => plain.push(item),
            Some(directive) if directive == "delete" => {
                let value = key_of(&item, key)?;
                before.retain(|known| {
                    !known
                        .get(key)
                        .is_some_and(|known| number::equal(known, value))
                });
            }
            Some(directive) if directive == "replace" => replace = true,
            Some(directive) => return Err(StrategicError::Directive(directive)),
        }
    }
    Ok(if replace {
        (plain, Vec::new())
    } else {
        (before, plain)
    })
}

fn key_of<'v>(item: &'v Value, key: &str) -> Result<&'v Value, StrategicError> {
    item.get(key)
        .ok_or_else(|| StrategicError::NoMergeKey(go_printed(item), key.to_owned()))
}

/// The identity of a list's item: the value of its key, or itself.
fn identity<'v>(item: &'v Value, key: Option<&str>) -> Result<&'v Value, StrategicError> {
    match key {
        Some(key) if item.is_object() => key_of(item, key),
        _ => Ok(item),
    }
}

fn position(
    list: &[Value],
    item: &Value,
    key: Option<&str>,
) -> Result<Option<usize>, StrategicError> {
    let wanted = identity(item, key)?;
    for (i, candidate) in list.iter().enumerate() {
        if number::equal(identity(candidate, key)?, wanted) {
            return Ok(Some(i));
        }
    }
    Ok(None)
}

/// Orders `merged`: the items named in `order` by it, the others by `server`, the latter woven into the former.
fn in_order(
    merged: Vec<Value>,
    order: &[Value],
    server: &[Value],
    key: Option<&str>,
) -> Result<Vec<Value>, StrategicError> {
    let (mut named, mut rest) = (Vec::new(), Vec::new());
    for item in merged {
        let on_server = position(server, &item, key)?;
        match position(order, &item, key)? {
            Some(at) => named.push((at, on_server, item)),
            None => rest.push((on_server, item)),
        }
    }
    named.sort_by_key(|(at, ..)| *at);
    rest.sort_by_key(|(on_server, _)| on_server.unwrap_or(usize::MAX));

    let mut ordered = Vec::with_capacity(named.len() + rest.len());
    let mut rest = rest.into_iter().peekable();
    for (_, on_server, item) in named {
        while let (Some(here), Some((Some(other), _))) = (on_server, rest.peek())
            && *other < here
        {
            ordered.extend(rest.next().map(|(_, item)| item));
        }
        ordered.push(item);
    }
    ordered.extend(rest.map(|(_, item)| item));
    Ok(ordered)
}

/// The patch's items must stand in the order that the directive gives.
fn check_order(change: &[Value], order: &[Value], key: Option<&str>) -> Result<(), StrategicError> {
    if change.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut places = order.iter();
    for item in change.iter().filter(|item| item.get(PATCH).is_none()) {
        let wanted = identity(item, key)?;
        let mut found = false;
        for place in places.by_ref() {
            if number::equal(identity(place, key)?, wanted) {
                found = true;
                break;
            }
        }
        if !found {
            let print = |list: &[Value]| Value::Array(list.to_vec()).to_string();
            return Err(StrategicError::Order {
                patch: print(change),
                order: print(order),
            });
        }
    }
    Ok(())
}

/// A value as Go's `%v` prints it.
fn go_printed(value: &Value) -> String {
    let joined = |parts: Vec<String>| parts.join(" ");
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", joined(list.iter().map(go_printed).collect())),
        Value::Object(map) => {
            let sorted: std::collections::BTreeMap<_, _> = map.iter().collect();
            let entries = sorted
                .into_iter()
                .map(|(key, value)| format!("{key}:{}", go_printed(value)));
            format!("map[{}]", joined(entries.collect()))
        }
        other => other.to_string(),
    }
}
