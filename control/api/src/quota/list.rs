//! Lists of quantities by name, and their arithmetic.

use std::collections::BTreeMap;

use crate::{Value, quantity::Canonical};

/// Quantities by the resource's name.
pub type ResourceList = BTreeMap<String, Canonical>;

/// Of a tree's map; empty when it is absent.
pub fn resource_list(value: Option<&Value>) -> ResourceList {
    let map = value.and_then(Value::as_object);
    map.into_iter()
        .flatten()
        .map(|(name, value)| (name.clone(), Canonical::of(Some(value))))
        .collect()
}

/// As a tree's map, in canonical forms.
pub fn to_value(list: &ResourceList) -> Value {
    let entries = list
        .iter()
        .map(|(name, quantity)| (name.clone(), Value::from(quantity.to_string())));
    Value::Object(entries.collect())
}

/// Adds each of `more`.
pub(super) fn add(list: &mut ResourceList, more: &ResourceList) {
    for (name, quantity) in more {
        let sum = list.get(name).map_or(*quantity, |own| *own + *quantity);
        list.insert(name.clone(), sum);
    }
}

/// Of both lists the greater quantity.
pub(super) fn raise(list: &mut ResourceList, other: &ResourceList) {
    for (name, quantity) in other {
        let lower = list
            .get(name)
            .is_none_or(|own| own.number < quantity.number);
        if lower {
            list.insert(name.clone(), *quantity);
        }
    }
}

/// `a - b` for each name of either, never less than nothing.
pub(super) fn growth(a: &ResourceList, b: &ResourceList) -> ResourceList {
    let names = a.keys().chain(b.keys());
    names
        .map(|name| {
            let before = b.get(name).copied().unwrap_or(Canonical::ZERO);
            let more = match a.get(name) {
                Some(after) if after.number > before.number => *after - before,
                _ => Canonical::ZERO,
            };
            (name.clone(), more)
        })
        .collect()
}

/// `a=1,b=2`
pub(super) fn pretty(list: &ResourceList) -> String {
    let parts: Vec<String> = list
        .iter()
        .map(|(name, quantity)| format!("{name}={quantity}"))
        .collect();
    parts.join(",")
}
