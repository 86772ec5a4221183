//! Whether quotas have room for a write, and what they have used after it.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{
    count::Counter,
    list::{ResourceList, add, growth, pretty, resource_list},
};
use crate::{Value, meta, quantity::Canonical};

/// A write, as quotas see it.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// Empty for the object itself.
    pub subresource: &'a str,
    pub new: &'a Value,
    /// `None` for a creation.
    pub old: Option<&'a Value>,
    pub now: Timestamp,
}

/// For each of `quotas` that the write is charged to, its place among them and what it has used then. An error is
/// upstream's reason for refusing the write.
pub fn charge(
    quotas: &[&Value],
    counter: &Counter,
    change: Change<'_>,
) -> Result<Vec<(usize, ResourceList)>, String> {
    let mut interesting = Vec::new();
    for (place, quota) in quotas.iter().enumerate() {
        if !counter.matches(quota, change.new) {
            continue;
        }
        let hard = resource_list(quota.pointer("/status/hard"));
        let used = resource_list(quota.pointer("/status/used"));
        let restricted = counter.matching(hard.keys().map(String::as_str));
        let name = meta::name(quota);
        if let Some(missing) = counter.missing(&restricted, change.new) {
            return Err(format!("failed quota: {name}: {missing}"));
        }
        if restricted
            .iter()
            .any(|resource| !used.contains_key(resource))
        {
            let names: Vec<&str> = restricted.iter().map(String::as_str).collect();
            return Err(format!(
                "status unknown for quota: {name}, resources: {}",
                names.join(",")
            ));
        }
        interesting.push((place, hard, used));
    }
    if interesting.is_empty() {
        return Ok(vec![]);
    }
    let usage = counter.usage(change.new, change.now);
    let negative: Vec<&str> = usage
        .iter()
        .filter(|(_, quantity)| quantity.number < Canonical::ZERO.number)
        .map(|(name, _)| name.as_str())
        .collect();
    if !negative.is_empty() {
        return Err(format!(
            "quota usage is negative for resource(s): {}",
            negative.join(",")
        ));
    }
    let mut charged = Vec::new();
    for (place, hard, used) in interesting {
        let quota = quotas[place];
        let delta = match change.old {
            // An object that comes into a quota's scope by the update is charged whole.
            Some(old) if counter.matches(quota, old) => {
                growth(&usage, &counter.usage(old, change.now))
            }
            _ => usage.clone(),
        };
        let requested: ResourceList = delta
            .into_iter()
            .filter(|(name, quantity)| !quantity.number.is_zero() && hard.contains_key(name))
            .collect();
        if requested.is_empty() {
            continue;
        }
        let mut after = used.clone();
        add(&mut after, &requested);
        let exceeded: BTreeSet<&String> = requested
            .keys()
            .filter(|name| after[*name].number > hard[*name].number)
            .collect();
        if !exceeded.is_empty() && change.subresource != "status" {
            let only = |list: &ResourceList| {
                let kept = list.iter().filter(|(name, _)| exceeded.contains(name));
                pretty(&kept.map(|(name, q)| (name.clone(), *q)).collect())
            };
            return Err(format!(
                "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                meta::name(quota),
                only(&requested),
                only(&used),
                only(&hard)
            ));
        }
        charged.push((place, after));
    }
    Ok(charged)
}
