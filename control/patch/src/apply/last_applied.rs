//! The bridge from client-side apply: kubectl's annotation with what it applied last.
//!
//! Only the manager named `kubectl` crosses it: the first `kubectl apply --server-side` after client-side ones must not
//! conflict with itself, and must leave the annotation right for a way back.

use kernelet_api::Value;

use super::{Conflict, updater::Updater};
use crate::{
    fields::Set,
    typed::{Duplicates, compare, field_set, validate},
};

pub(super) const MANAGER: &str = "kubectl";
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The limit of all annotations of an object together.
const MAX_ANNOTATIONS_BYTES: usize = 256 * 1024;

fn annotation(object: &Value) -> Option<&str> {
    kernelet_api::meta::annotations(object)?
        .get(ANNOTATION)?
        .as_str()
        .filter(|text| !text.is_empty())
}

/// The conflicts that are real: those on fields whose live value is not what client-side apply last set.
pub(super) fn real_conflicts(
    updater: &Updater<'_>,
    live: &Value,
    conflicts: Vec<Conflict>,
) -> Vec<Conflict> {
    match unchanged_since_last_applied(updater, live) {
        Some(ours) => conflicts
            .into_iter()
            .filter(|conflict| !ours.contains(&conflict.path.0))
            .collect(),
        None => conflicts,
    }
}

fn unchanged_since_last_applied(updater: &Updater<'_>, live: &Value) -> Option<Set> {
    let last: Value = serde_json::from_str(annotation(live)?).ok()?;
    if last.get("apiVersion")?.as_str()? != updater.api_version {
        return None;
    }
    let shape = updater.shape();
    validate(shape, &last, Duplicates::Refused).ok()?;
    let changes = compare(shape, &last, live).ok()?;
    let set = field_set(shape, &last).ok()?;
    Some(
        set.difference(&changes.modified)
            .difference(&changes.added)
            .difference(&changes.removed),
    )
}

/// Renews the annotation of `object`, where it has one, with what was applied now.
pub(super) fn renew(object: &mut Value, applied: &Value) {
    if annotation(object).is_none() {
        return;
    }
    let mut applied = applied.clone();
    if let Some(Value::Object(annotations)) = applied.pointer_mut("/metadata/annotations") {
        annotations.remove(ANNOTATION);
    }
    let text = format!("{applied}\n");
    let Some(Value::Object(annotations)) = object.pointer_mut("/metadata/annotations") else {
        return;
    };
    annotations.insert(ANNOTATION.to_owned(), Value::String(text));
    let size: usize = annotations
        .iter()
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    if size > MAX_ANNOTATIONS_BYTES {
        annotations.remove(ANNOTATION);
    }
}
