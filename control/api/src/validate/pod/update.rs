//! What may change in a pod: images, deadlines, more tolerations; little else.

use super::{
    super::node::{Errors, Node},
    container, pod_and_spec, scheduling,
};
use crate::{FieldError, Value};
use serde_json::Map;

const MUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(super) fn pod(new: &Node<'_>, old: &Node<'_>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    pod_and_spec(new, &mut errors);
    let (spec, before) = (new.get("spec"), old.get("spec"));
    for list in ["containers", "initContainers"] {
        let (containers, were) = (spec.get(list), before.get(list));
        if containers.len() != were.len() {
            errors.push(containers.forbidden("pod updates may not add or remove containers"));
            return errors.into_vec();
        }
        for container in containers.each() {
            errors.require(&container.get("image"));
            container::image_without_spaces(&container, &mut errors);
        }
    }
    if !deadline(&spec, &before, &mut errors) {
        return errors.into_vec();
    }
    only_added_tolerations(&spec, &before, &mut errors);
    let gates = before.get("schedulingGates");
    scheduling::only_removed_gates(&spec.get("schedulingGates"), &gates, &mut errors);
    if gates.len() > 0 {
        let selector = "nodeSelector";
        scheduling::only_added_selectors(&spec.get(selector), &before.get(selector), &mut errors);
        scheduling::only_narrowed_affinity(
            &spec.get("affinity").get("nodeAffinity"),
            &before.get("affinity").get("nodeAffinity"),
            &mut errors,
        );
    }
    if munge(spec.value, before.value) != *before.value {
        errors.push(spec.forbidden(MUTABLE));
    }
    errors.into_vec()
}

/// Whether the rest should be looked at too.
fn deadline(spec: &Node<'_>, before: &Node<'_>, errors: &mut Errors) -> bool {
    let (new, old) = (
        spec.get("activeDeadlineSeconds"),
        before.get("activeDeadlineSeconds"),
    );
    match (new.int(), old.int()) {
        (Some(n), _) if !(0..=i64::from(i32::MAX)).contains(&n) => {
            errors.push(new.invalid(super::names::range(0, i32::MAX.into())));
            false
        }
        (Some(n), Some(was)) if was < n => {
            errors.push(new.invalid("must be less than or equal to previous value"));
            false
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(&new.path, Value::Null, detail));
            true
        }
        _ => true,
    }
}

fn only_added_tolerations(spec: &Node<'_>, before: &Node<'_>, errors: &mut Errors) {
    let without_seconds = |toleration: &Value| {
        let mut copy = toleration.clone();
        if let Some(map) = copy.as_object_mut() {
            map.remove("tolerationSeconds");
        }
        copy
    };
    let list = spec.get("tolerations");
    let now: Vec<Value> = list.each().map(|t| without_seconds(t.value)).collect();
    for old in before.get("tolerations").each() {
        if !now.contains(&without_seconds(old.value)) {
            errors.push(
                list.forbidden(
                    "existing toleration can not be modified except its tolerationSeconds",
                ),
            );
            return;
        }
    }
    scheduling::tolerations(&list, errors);
}

/// The new spec with everything that may change taken from the old one.
fn munge(new: &Value, old: &Value) -> Value {
    let mut spec = new.clone();
    let Some(map) = spec.as_object_mut() else {
        return spec;
    };
    for list in ["containers", "initContainers"] {
        let Some(containers) = map.get_mut(list).and_then(Value::as_array_mut) else {
            continue;
        };
        for (i, container) in containers.iter_mut().enumerate() {
            let image = old.pointer(&format!("/{list}/{i}/image")).cloned();
            if let (Some(container), Some(image)) = (container.as_object_mut(), image) {
                container.insert("image".to_owned(), image);
            }
        }
    }
    let mut take_back = |field: &str| match old.get(field) {
        Some(value) => drop(map.insert(field.to_owned(), value.clone())),
        None => drop(map.remove(field)),
    };
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        take_back(field);
    }
    if old
        .get("schedulingGates")
        .and_then(Value::as_array)
        .is_some_and(|gates| !gates.is_empty())
    {
        take_back("nodeSelector");
        take_back_node_affinity(map, old);
    }
    let grace = "terminationGracePeriodSeconds";
    let was = old.get(grace).and_then(Value::as_i64);
    if was.is_some_and(|n| n < 0) && map.get(grace).and_then(Value::as_i64) == Some(1) {
        map.insert(grace.to_owned(), was.into());
    }
    spec
}

/// What a gated pod may change within its affinity; the rest of it stays to be compared.
fn take_back_node_affinity(spec: &mut Map<String, Value>, old: &Value) {
    let was = old.pointer("/affinity/nodeAffinity");
    let mut affinity = spec
        .get("affinity")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    match was {
        Some(was) => drop(affinity.insert("nodeAffinity".to_owned(), was.clone())),
        None => drop(affinity.remove("nodeAffinity")),
    }
    if affinity.is_empty() && old.get("affinity").is_none() {
        spec.remove("affinity");
    } else {
        spec.insert("affinity".to_owned(), Value::Object(affinity));
    }
}
